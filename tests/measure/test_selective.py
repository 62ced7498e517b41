"""Risk at a coverage against the definition with lists, closed forms, and row order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import DataError, EdgesafeError
from edgesafe.measure.intervals.selective import risk_at_coverage, risk_steps
from edgesafe.measure.metrics.calibration import aurc, risk_coverage

rows = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.25, 0.5, 1.0])), st.booleans()), min_size=1, max_size=40
)


def slow(values: list[tuple[float, bool]], coverage: float) -> tuple[float, float, float]:
    """(threshold, coverage, risk) by trying every threshold on every row: O(n^2)."""
    n, best = len(values), None
    for threshold, _ in values:
        kept = [right for confidence, right in values if confidence >= threshold]
        if len(kept) >= coverage * n - 1e-9 and (best is None or threshold > best[0]):
            best = (threshold, len(kept) / n, sum(not right for right in kept) / len(kept))
    assert best is not None
    return best


@given(rows, st.sampled_from([0.05, 0.5, 0.8, 0.9, 1.0]), st.randoms(use_true_random=False))
def test_against_every_threshold_on_every_row_in_any_order(values, coverage, random) -> None:
    expected = slow(values, coverage)
    for _ in range(2):
        c, k = np.array([v for v, _ in values]), np.array([v for _, v in values])
        got = risk_at_coverage(c, k, coverage)
        assert (got.threshold, got.coverage) == expected[:2]
        assert got.interval.estimate == pytest.approx(expected[2], abs=1e-12)
        assert got.interval.n == round(expected[1] * len(values))
        assert got.interval.low <= got.interval.estimate <= got.interval.high
        random.shuffle(values)


def test_one_error_per_ten_by_falling_confidence() -> None:
    """n = 1,000 distinct confidences, right except for the last of every ten: the risk at 10 j images is 1/10."""
    c = np.linspace(1.0, 0.001, 1000)
    k = np.arange(1000) % 10 != 9
    got = risk_at_coverage(c, k)
    assert (got.coverage, got.interval.estimate, got.interval.n) == (0.8, 0.1, 800)
    assert got.threshold == c[799]


def test_ties_are_kept_together() -> None:
    """Half the images share one confidence and hold all errors: 80 % cannot be kept without all of them."""
    c = np.r_[np.full(50, 0.9), np.full(50, 0.6)]
    k = np.r_[np.ones(50, bool), np.zeros(25, bool), np.ones(25, bool)]
    for order in (slice(None), slice(None, None, -1), np.random.default_rng(3).permutation(100)):
        got = risk_at_coverage(c[order], k[order])
        assert (got.threshold, got.coverage, got.interval.estimate) == (0.6, 1.0, 0.25)
    assert risk_at_coverage(c, k, 0.5).interval.estimate == 0.0
    assert risk_steps(c, k).coverage.tolist() == [0.5, 1.0]


@given(rows)
def test_where_a_run_of_ties_ends_it_meets_the_curve_of_aurc(values) -> None:
    c, k = np.array([v for v, _ in values]), np.array([v for _, v in values])
    steps = risk_steps(c, k)
    coverage, risk = risk_coverage(c, k)
    np.testing.assert_allclose(steps.risk, risk[steps.kept - 1], atol=1e-12)
    np.testing.assert_allclose(steps.coverage, coverage[steps.kept - 1], atol=1e-12)
    if len(steps.kept) == len(values):
        assert aurc(c, k) == pytest.approx(steps.risk.mean())


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.01, float("nan")])
def test_a_coverage_outside_its_range_is_refused(coverage: float) -> None:
    with pytest.raises(DataError, match="coverage"):
        risk_at_coverage(np.array([0.5]), np.array([1]), coverage)


@pytest.mark.parametrize(("confidence", "correct"), [([], []), ([float("nan")], [1]), ([1.5], [1]), ([0.5], [2])])
def test_malformed_pairs_are_refused(confidence, correct) -> None:
    with pytest.raises(EdgesafeError):
        risk_steps(np.array(confidence), np.array(correct))
