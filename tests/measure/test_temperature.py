"""Temperature scaling against scipy's scalar minimiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.metrics import calibration
from edgesafe.measure.metrics.temperature import (
    T_MAX,
    T_MIN,
    apply,
    fit,
)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(20, 200), st.floats(0.3, 8.0), st.integers(0, 10_000))
def test_fit_against_scipy(classes: int, n: int, sharpness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, classes))
    labels = np.array([rng.choice(classes, p=np.exp(r) / np.exp(r).sum()) for r in z])
    logits = (sharpness * z).astype(np.float32)
    t, before, after = fit(logits, labels)

    def loss(log_t: float) -> float:
        return calibration.nll(logits.astype(np.float64) / np.exp(log_t), labels)

    best = minimize_scalar(loss, bounds=(np.log(T_MIN), np.log(T_MAX)), method="bounded", options={"xatol": 1e-10})
    assert before == pytest.approx(loss(0.0))
    assert after == pytest.approx(loss(np.log(t)), abs=1e-12)
    assert after <= before
    assert after <= best.fun + 1e-12
    if T_MIN * 1.01 < t < T_MAX * 0.99:
        assert t == pytest.approx(np.exp(best.x), rel=1e-4)


def test_recovers_the_temperature_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60_000, 5)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = (rng.random((60_000, 1)) > np.cumsum(p, 1)).sum(1)
    t, _, _ = fit(2.5 * z, labels)
    assert t == pytest.approx(2.5, rel=0.02)


def test_an_optimum_inside_is_found_to_machine_precision() -> None:
    """The slope of the NLL at the optimum is 0."""
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(500, 4)) * 3, rng.integers(0, 4, 500)
    labels[:300] = z[:300].argmax(1)
    t, _, _ = fit(z, labels)
    e = np.exp(z / t - (z / t).max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    assert abs(((p * z).sum(1) - z[np.arange(500), labels]).mean()) < 1e-10


def test_no_error_at_all_does_not_send_it_to_zero() -> None:
    t, before, after = fit(np.eye(5) * 3, np.arange(5))
    assert t == pytest.approx(T_MIN)
    assert after < before


def test_nothing_known_sends_it_to_the_upper_end() -> None:
    t, _, _ = fit(np.eye(4)[[0, 0, 0, 0]] * 9, np.array([0, 1, 2, 3]))
    assert t == pytest.approx(T_MAX)


def test_refusals() -> None:
    with pytest.raises(NothingEvaluated):
        fit(np.zeros((0, 3)), np.zeros(0, np.int64))
    with pytest.raises(NonFiniteError):
        fit(np.full((2, 3), np.nan), np.zeros(2, np.int64))
    with pytest.raises(DataError, match="all logits are equal"):
        fit(np.full((2, 3), 7.0), np.zeros(2, np.int64))
    with pytest.raises(DataError):
        fit(np.zeros((2, 3)), np.array([0, 3]))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError):
            apply(np.zeros((1, 2)), bad)


@pytest.mark.data
def test_published_temperature(shared_data: Path) -> None:
    """Reference, section 1: T = 2.386 for the third-party ResNet-20, fitted on the first half of its logits."""
    with np.load(shared_data / "ece_cases.npz", allow_pickle=False) as data:
        logits, labels = data["logits_r20"], data["y"].astype(np.int64)
    t, before, after = fit(logits[:5000], labels[:5000])
    assert t == pytest.approx(2.386, abs=0.02)
    assert after < before
