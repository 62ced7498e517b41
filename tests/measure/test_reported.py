"""Intervals that invert the bootstrap, and those of the numbers for the report only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
)
from edgesafe.measure.intervals.bounds import wilson
from edgesafe.measure.intervals.folding import folded_high, folded_interval
from edgesafe.measure.intervals.reported import aurc_interval, classwise_interval
from edgesafe.measure.metrics.calibration import aurc, ece_equal_mass


def noise(columns: int = 10, sd: float = 0.01) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(4000, columns)) * sd


def test_far_above_the_noise_both_ends_are_normal() -> None:
    gaps = np.array([0.2, -0.2] * 5)
    half = 1.96 * 0.01 * math.sqrt(10)
    low, high, se = folded_interval(gaps, noise(), 0.95)
    assert (low, high, se) == pytest.approx((2.0 - half, 2.0 + half, 0.01 * math.sqrt(10)), abs=2e-3)


def test_within_the_noise_the_upper_end_has_no_bias() -> None:
    """Ten gaps of one standard deviation: |g + e| is 1.17 of them on average, and the sum is seen 1.7 too high."""
    gaps, draws = np.full(10, 0.01), noise()
    seen = np.sort(np.abs(gaps + draws).sum(axis=1))
    for share in (0.3, 0.5, 0.9):
        value = seen[int(share * 4000)]
        high = folded_high(np.full(10, value / 10), draws, 0.95)
        assert high >= 0.1  # the truth; only the lowest 2.5 % may miss it
        assert high < value + 2.4 * seen.std()
    assert folded_high(np.full(10, seen[20] / 10), draws, 0.95) < 0.1  # the lowest 0.5 % do


@given(st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3), st.floats(1e-4, 0.1), st.floats(0.5, 0.98))
@settings(max_examples=40)
def test_ends_hold_the_estimate_and_widen_with_confidence(gaps: list[float], sd: float, confidence: float) -> None:
    g, draws = np.array(gaps), noise(3, sd)[:500]
    low, high, _ = folded_interval(g, draws, confidence)
    wide_low, wide_high, _ = folded_interval(g, draws, confidence + 0.01)
    total = float(np.abs(g).sum())
    assert 0.0 <= wide_low <= low + 1e-12 <= total + 2e-12
    assert total <= high <= wide_high + 1e-12


def test_without_noise_nothing_is_uncertain() -> None:
    assert folded_high(np.array([0.1, -0.2]), np.zeros((50, 2)), 0.95) == pytest.approx(0.3)
    assert folded_high(np.zeros(2), np.zeros((50, 2)), 0.95) == 0.0


@given(st.integers(2, 40), st.integers(0, 10_000), st.booleans())
def test_jackknife_equals_leaving_out_each_row(n: int, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    c = rng.choice([0.5, 0.6, 0.7], n) if tied else rng.random(n)
    k = (rng.random(n) < 0.7).astype(float)
    areas = np.array([aurc(np.delete(c, i), np.delete(k, i)) for i in range(n)])
    slow = math.sqrt((n - 1) / n * ((areas - areas.mean()) ** 2).sum())
    found = aurc_interval(c, k)
    assert found.se == pytest.approx(slow, abs=1e-12)
    assert found.estimate == pytest.approx(aurc(c, k), abs=1e-12)
    assert 0.0 <= found.low <= found.estimate <= found.high <= 1.0
    p = rng.permutation(n)
    assert aurc_interval(c[p], k[p]).se == pytest.approx(found.se, abs=1e-12)


def test_aurc_interval_is_normal_in_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    c = rng.random(2000)
    i = aurc_interval(c, rng.random(2000) < c)
    assert math.log(i.high / i.estimate) == pytest.approx(1.959964 * i.se / i.estimate, rel=1e-6)
    assert math.log(i.estimate / i.low) == pytest.approx(1.959964 * i.se / i.estimate, rel=1e-6)
    assert i.method == "jackknife-log"


def test_no_error_seen_is_not_no_risk() -> None:
    """Up to Wilson's rate of errors may have been missed; at worst they are the most confident images."""
    c = np.linspace(0.5, 1.0, 600)
    clean, ruined = aurc_interval(c, np.ones(600)), aurc_interval(c, np.zeros(600))
    rate = wilson(0, 600).high
    worst = np.zeros(100_000)
    worst[: round(rate * 100_000)] = 1.0
    assert (clean.estimate, clean.low) == (0.0, 0.0)
    assert clean.high == pytest.approx(aurc(np.linspace(1, 0, 100_000), 1 - worst), rel=1e-2)
    assert (ruined.estimate, ruined.high) == (1.0, 1.0)
    assert ruined.low == pytest.approx(1.0 - clean.high, abs=1e-6)


def test_classwise_interval() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 800)
    y = np.array([rng.choice(5, p=row) for row in p])
    i = classwise_interval(p, y)
    assert i.estimate == pytest.approx(
        np.mean([ece_equal_mass(p[:, k], y == k, 15).value for k in range(5)]), abs=1e-12
    )
    assert i.low == 0.0 < i.estimate <= i.high  # calibrated by construction: within the noise
    shifted = np.roll(p, 1, axis=1)
    far = classwise_interval(shifted, y)
    assert far.low > 0.5 * far.estimate
    assert classwise_interval(p, y, seed=3) == classwise_interval(p, y, seed=3) != i
    assert i.method == "bootstrap"


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([], [], NothingEvaluated),
        ([0.5], [1], NothingEvaluated),
        ([0.5, np.nan], [1, 0], NonFiniteError),
        ([0.5, 1.5], [1, 0], RefusedError),
        ([0.5], [1, 0], DataError),
    ],
)
def test_aurc_interval_refuses(confidence: Any, correct: Any, error: type[EdgesafeError]) -> None:
    with pytest.raises(error):
        aurc_interval(np.array(confidence), np.array(correct))


def test_classwise_interval_refuses() -> None:
    with pytest.raises(NonFiniteError):
        classwise_interval(np.array([[0.5, np.nan]]), np.array([0]))
