"""Sampling by simulation: unbiased, covered, cheaper, and it decides."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure_fixtures import synthetic_evidence
from numpy.typing import NDArray

from edgesafe.errors import DataError, EdgesafeError, NonFiniteError, NothingEvaluated, UsageError
from edgesafe.measure.bounds import Interval
from edgesafe.measure.sampling import (
    Decision,
    Strata,
    decide,
    escalate,
    frame_of,
    look_z,
    looks,
    margin_strata,
    neyman,
    stratified,
    two_stage,
)


def world(units: int = 60_000, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Baseline margins, and changes that happen where the margin is small."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(3, 4, units)
    changed = rng.random(units) < 0.45 * np.exp(-np.abs(margin))
    return margin, np.where(changed, np.where(rng.random(units) < 0.6, -1.0, 1.0), 0.0)


def test_strata_part_the_units() -> None:
    margin, _ = world()
    strata = margin_strata(margin)
    assert len(strata.members) == 12
    assert (np.sort(np.concatenate(strata.members)) == np.arange(len(margin))).all()
    assert strata.sizes.min() > 0
    edges = [np.abs(margin[m]) for m in strata.members]
    assert all(a.max() <= b.min() for a, b in pairwise(edges))
    assert strata.weights.sum() == pytest.approx(1.0)


@given(st.integers(12, 3000), st.integers(0, 1000))
def test_neyman_spends_exactly_the_budget(total: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 300, 6)
    taken = np.minimum(2, sizes)
    sd = rng.random(6) * (rng.random(6) < 0.7)
    more = neyman(sizes / sizes.sum(), sd, total, taken, sizes)
    assert (more >= 0).all()
    assert (taken + more <= sizes).all()
    assert (taken + more).sum() == min(max(total, taken.sum()), sizes.sum())


def test_neyman_is_proportional_to_weight_times_spread() -> None:
    w, sd = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.5])
    n = neyman(w, sd, 10_000, np.zeros(3, np.int64), np.full(3, 10**9))
    assert n / n.sum() == pytest.approx(w * sd / (w * sd).sum(), abs=1e-3)


def draws(trials: int, total: int) -> tuple[float, float, float]:
    """Coverage, bias over the standard error, and standard deviation of two-stage estimates."""
    margin, change = world()
    strata, truth = margin_strata(margin), change.mean()
    found = [two_stage(strata, lambda u: change[u], total=total, pilot=360, seed=s).interval for s in range(trials)]
    estimates = np.array([i.estimate for i in found])
    covered = np.mean([i.low <= truth <= i.high for i in found])
    return float(covered), float((estimates.mean() - truth) / np.mean([i.se for i in found])), float(estimates.std())


def test_two_stage_covers_is_unbiased_and_beats_plain_sampling() -> None:
    covered, bias, sd = draws(150, 1500)
    _, change = world()
    plain = change.std() / np.sqrt(1500)
    assert covered >= 0.88
    assert abs(bias) < 0.4  # 5 standard errors of a mean of 150
    assert sd < 0.75 * plain


@pytest.mark.slow
def test_two_stage_coverage() -> None:
    covered, bias, _ = draws(2000, 1500)
    assert 0.93 <= covered <= 0.98
    assert abs(bias) < 0.12


def test_two_stage_never_asks_twice() -> None:
    margin, change = world(3000)
    asked: list[NDArray[Any]] = []

    def measure(units: NDArray[Any]) -> NDArray[Any]:
        asked.append(units)
        return change[units]

    found = two_stage(margin_strata(margin), measure, total=800, pilot=120, seed=1)
    units = np.concatenate(asked)
    assert len(units) == len(np.unique(units)) == 800 == found.interval.n == found.allocation.sum()
    assert (np.sort(found.units) == np.sort(units)).all()
    everything = two_stage(margin_strata(margin), lambda u: change[u], total=10**6, pilot=120)
    assert everything.interval.estimate == pytest.approx(change.mean())
    assert everything.interval.se == 0.0  # the whole benchmark was seen


def test_a_stratum_without_a_change_is_not_certain() -> None:
    strata = Strata((np.arange(1000), np.arange(1000, 2000)))
    i = stratified(strata, [np.array([1.0, 0, 0, 0] * 10), np.zeros(40)])
    first_only = stratified(Strata((np.arange(1000),)), [np.array([1.0, 0, 0, 0] * 10)])
    assert i.se > 0.5 * first_only.se


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: margin_strata(np.zeros(10)), NothingEvaluated),
        (lambda: margin_strata(np.full(300, np.nan)), NonFiniteError),
        (lambda: two_stage(margin_strata(np.arange(300.0)), lambda u: u, total=10), UsageError),
        (lambda: two_stage(margin_strata(np.arange(300.0)), lambda u: u[:-1], total=100, pilot=50), DataError),
        (lambda: two_stage(margin_strata(np.arange(300.0)), lambda u: u * np.nan, total=100, pilot=50), NonFiniteError),
        (lambda: stratified(Strata((np.arange(9),)), [np.zeros(1)]), NothingEvaluated),
        (lambda: stratified(Strata((np.arange(9),)), []), DataError),
        (lambda: frame_of(synthetic_evidence(50)), NothingEvaluated),
        (lambda: frame_of(synthetic_evidence(50, {("a", 1): np.arange(9), ("b", 1): np.arange(8)})), DataError),
        (lambda: escalate(lambda _: None, [], 0.1), NothingEvaluated),  # type: ignore[arg-type,return-value]
        (lambda: escalate(lambda _: None, [5, 5], 0.1), UsageError),  # type: ignore[arg-type,return-value]
        (lambda: looks(0, 5), UsageError),
        (lambda: look_z(0), UsageError),
        (lambda: decide(float("nan"), 0.1, 0.1, 2), NonFiniteError),
        (lambda: decide(0.1, -0.1, 0.1, 2), NonFiniteError),
    ],
)
def test_refusals(call: Any, error: type[EdgesafeError]) -> None:
    with pytest.raises(error):
        call()


def test_frame_asks_for_cells_and_images() -> None:
    cells = {("fog", 1): np.arange(0, 40, 2), ("snow", 3): np.arange(20)}
    frame = frame_of(synthetic_evidence(50, cells))
    assert frame.keys == (("fog", 1), ("snow", 3))
    asked = frame.requests(np.array([1, 0, 20 + 7]))
    assert asked["fog", 1].tolist() == [0, 2]
    assert asked["snow", 3].tolist() == [7]
    assert set(frame.requests(np.array([3]))) == {("fog", 1)}


def test_decide_is_non_inferiority() -> None:
    assert decide(0.004, 0.002, 0.010, 1.645) is Decision.PASS
    assert decide(0.020, 0.002, 0.010, 1.645) is Decision.FAIL
    assert decide(0.009, 0.002, 0.010, 1.645) is Decision.INCONCLUSIVE
    assert decide(0.010, 0.0, 0.010, 1.645) is Decision.PASS  # at the limit is within it


def test_escalation_stops_when_it_knows() -> None:
    def measure(true: float) -> Any:
        return lambda n: Interval(true, 0, 0, 0.3 / np.sqrt(n), 0.95, n, "x")

    sizes = looks(1000, 10_000)
    assert escalate(measure(0.001), sizes, 0.05)[:2] == (Decision.PASS, 1000)
    assert escalate(measure(0.2), sizes, 0.05)[:2] == (Decision.FAIL, 1000)
    assert escalate(measure(0.051), sizes, 0.05)[:2] == (Decision.INCONCLUSIVE, 10_000)
    assert escalate(measure(0.04), sizes, 0.05)[1] == 10_000


def test_escalation_seldom_errs_just_beyond_the_limit() -> None:
    """True worsening is the limit: whatever is decided is a coin's edge; all looks together pass at most 5 %."""
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(600):
        x = np.cumsum(rng.normal(0.05, 0.3, 10_000)) / np.arange(1, 10_001)

        def measure(n: int, x: NDArray[Any] = x) -> Interval:
            return Interval(x[n - 1], 0, 0, 0.3 / np.sqrt(n), 0.95, n, "x")

        passed += escalate(measure, looks(1000, 10_000), 0.05)[0] is Decision.PASS
    assert passed / 600 <= 0.06
