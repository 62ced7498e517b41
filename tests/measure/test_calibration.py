"""Metrics against implementations that are not ours, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
)
from edgesafe.measure.intervals.reported import classwise_interval
from edgesafe.measure.metrics import calibration as cal
from edgesafe.measure.probabilities import (
    cell_from_logits,
    check_probabilities,
    log_softmax64,
    softmax64,
)

OWN = "own equal-mass, ties kept together"
NETCAL, TU = "netcal ECE(equal_intervals=False)", "torch-uncertainty AdaptiveCalibrationError l1"
UNCAL = "uncertainty-calibration get_ece_em(M)"  # the one library that keeps ties together as we do
# What each library computes in each of the 14 cases, by the reference's section 1.2: "same", our number; "edges", bins
# between numpy.quantile's edges, closed on the left; "ties", array_split through runs of equal confidence, so that the
# number depends on the order of rows; "none", it raised or gave no finite number.
SAME, EDGES, TIES, NONE = "same", "edges", "ties", "none"
GOLDEN: dict[str, tuple[str, str, int]] = {  # netcal, torch-uncertainty, our number of bins
    "r20_raw_f64": (SAME, SAME, 10),
    "r20_raw_f32": (NONE, SAME, 7),
    "r20_T": (SAME, SAME, 10),
    "r20_T_n9997": (EDGES, SAME, 10),
    "r20_T_n1003": (EDGES, SAME, 10),
    "r20_T_f16probs": (EDGES, TIES, 9),
    "r20_raw_f64_M15": (SAME, SAME, 15),
    "r20_T_M15": (EDGES, SAME, 15),
    "tiny_n5": (SAME, NONE, 5),
    "tiny_n1": (NONE, NONE, 1),
    "all_equal_conf": (NONE, TIES, 1),
    "all_conf_1": (NONE, SAME, 1),
    "uniform_rows": (NONE, TIES, 6),
    "hand_4x2": (SAME, SAME, 2),
}


def golden_probabilities(name: str, data: Any, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if f"{name}_probs" in data:
        return data[f"{name}_probs"], data[f"{name}_y"]
    logits, labels = data["logits_r20"], data["y"].astype(np.int64)
    if name == "r20_raw_f32":
        torch = pytest.importorskip("torch")  # the case is torch's float32 softmax: numpy's exp differs in the last bit
        return torch.softmax(torch.from_numpy(logits), 1).numpy().astype(np.float64), labels
    probs = softmax64(logits.astype(np.float64) / (temperature if "_T" in name else 1.0))
    if name == "r20_T_f16probs":
        probs = probs.astype(np.float16).astype(np.float64)
    n = int(name.rsplit("_n", 1)[1]) if "_n" in name else len(labels)
    return probs[:n], labels[:n]


def quantile_edges_ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    """netcal's definition, to show that where it differs from ours it is the definition that differs."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
    which = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    return float(np.abs(np.bincount(which, correct - confidence)).sum() / len(confidence))


def test_fewer_than_100_images_a_bin_are_few() -> None:
    confidence = np.linspace(0.3, 1.0, 1000)
    assert not cal.ece_equal_mass(confidence, np.ones(1000), 10).few_images
    assert cal.ece_equal_mass(confidence[1:], np.ones(999), 10).few_images


@pytest.mark.data
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_cases(shared_data: Path, name: str) -> None:
    cases = json.loads((shared_data / "ece_cases.json").read_text())
    temperature = cases.pop("_meta")["temperature"]
    assert set(cases) == set(GOLDEN)  # every case of the file is here
    netcal, tu, bins_used = GOLDEN[name]
    bins, values = cases[name]["bins"], cases[name]["values"]
    with np.load(shared_data / "ece_cases.npz", allow_pickle=False) as data:
        probs, labels = golden_probabilities(name, data, temperature)
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    result = cal.ece_equal_mass(confidence, correct, bins)
    assert result.value == pytest.approx(values[OWN], abs=1e-12)
    assert result.bins_used == bins_used
    assert result.few_images == (len(labels) < 100 * bins)
    assert result.value == pytest.approx(values[UNCAL], abs=1e-6)
    for library, kind in ((NETCAL, netcal), (TU, tu)):
        other = values[library]
        if kind == NONE:
            assert other is None or str(other).startswith("ERR"), library
        elif kind == SAME:
            assert result.value == pytest.approx(other, abs=1e-6), library
        else:
            assert abs(result.value - other) > 1e-6, library
        if kind == EDGES:
            assert quantile_edges_ece(confidence, correct, bins) == pytest.approx(other, abs=1e-6)
    for seed in range(3):
        p = np.random.default_rng(seed).permutation(len(labels))
        assert cal.ece_equal_mass(confidence[p], correct[p], bins).value == pytest.approx(result.value, abs=1e-12)


@pytest.mark.data
def test_published_companions(shared_data: Path) -> None:
    """Row `r20 raw` of the reference's table in section 2: second half of the test set."""
    with np.load(shared_data / "ece_cases.npz", allow_pickle=False) as data:
        logits, labels = data["logits_r20"][5000:], data["y"][5000:].astype(np.int64)
    probs = softmax64(logits)
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    assert correct.mean() == pytest.approx(0.9198, abs=1e-9)
    assert cal.ece_equal_mass(confidence, correct).value == pytest.approx(0.0509, abs=5e-5)
    assert classwise_interval(probs, labels, replicates=2).estimate == pytest.approx(0.0050, abs=5e-5)
    assert cal.nll(logits, labels) == pytest.approx(0.345, abs=5e-4)
    assert cal.brier(probs, labels) == pytest.approx(0.131, abs=5e-4)
    assert cal.aurc(confidence, correct) == pytest.approx(0.0103, abs=5e-5)


def slow_ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int) -> float:
    """The definition with lists, as a second opinion."""
    rows = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    n, m = len(rows), min(bins, len(rows))
    cuts = set()
    end = 0
    for b in range(m):
        end += n // m + (1 if b < n % m else 0)
        cut = end
        while cut < n and rows[cut][0] == rows[cut - 1][0]:
            cut += 1
        cuts.add(cut)
    total, start = 0.0, 0
    for cut in sorted(cuts):
        part = rows[start:cut]
        total += abs(sum(k for _, k in part) - sum(c for c, _ in part))
        start = cut
    return total / n


confidences = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.25, 0.5, 1.0])), min_size=1, max_size=60)


@given(confidences, st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_ece_equals_slow_version_and_ignores_order(values: list[float], seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    c, k = np.array(values), rng.random(len(values)) < 0.6
    p = rng.permutation(len(c))
    result = cal.ece_equal_mass(c, k, bins)
    assert result.value == pytest.approx(slow_ece(c, k, bins), abs=1e-12)
    assert cal.ece_equal_mass(c[p], k[p], bins).value == pytest.approx(result.value, abs=1e-12)
    assert 1 <= result.bins_used <= min(bins, len(c))
    assert 0.0 <= result.value <= 1.0


@given(confidences, st.integers(0, 2**32 - 1))
def test_selective_risk_ignores_order(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, k = np.array(values), rng.random(len(values)) < 0.6
    p = rng.permutation(len(c))
    coverage, risk = cal.risk_coverage(c, k)
    assert np.allclose(cal.risk_coverage(c[p], k[p])[1], risk, atol=1e-12)
    assert coverage[-1] == 1.0
    assert risk[-1] == pytest.approx(1.0 - k.mean(), abs=1e-12)
    assert cal.aurc(c, k) == pytest.approx(risk.mean())


def test_ties_are_averaged_over_all_orders() -> None:
    c, k = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, False, True, True])
    orders = [np.array(o) for o in ((0, 1, 2), (1, 0, 2), (2, 1, 0))]  # the error comes first, second, last
    risks = []
    for o in orders:
        wrong = np.concatenate([[0.0], (~k[1:])[o].astype(float)])
        risks.append(np.cumsum(wrong) / np.arange(1, 5))
    assert cal.risk_coverage(c, k)[1] == pytest.approx(np.mean(risks, axis=0))


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_nll_and_brier_against_sklearn_and_loops(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)).astype(np.float32) * 3, rng.integers(0, classes, n)
    probs = softmax64(logits)
    assert cal.nll(logits, labels) == pytest.approx(log_loss(labels, probs, labels=range(classes)), rel=1e-9)
    slow = np.mean([sum((probs[i, k] - (k == labels[i])) ** 2 for k in range(classes)) for i in range(n)])
    assert cal.brier(probs, labels) == pytest.approx(slow, rel=1e-12)
    assert np.exp(log_softmax64(logits)) == pytest.approx(probs, abs=1e-15)


def test_known_values() -> None:
    right = np.r_[np.ones(60), np.zeros(40)]
    assert cal.ece_equal_mass(np.full(100, 0.7), right).value == pytest.approx(0.1, abs=1e-12)
    assert cal.ece_equal_mass(np.full(100, 0.7), right).bins_used == 1
    assert cal.mce(np.array([0.5, 0.5, 1.0, 1.0]), np.array([1, 1, 1, 0]), 2) == pytest.approx(0.5)
    perfect = cal.reliability_bins(np.array([0.25, 0.25, 0.25, 0.25]), np.array([1, 0, 0, 0]))
    assert perfect.accuracy == pytest.approx(perfect.confidence)


def test_reliability_bins_hold_every_image() -> None:
    rng = np.random.default_rng(1)
    c = rng.random(997)
    k = rng.random(997) < c
    r = cal.reliability_bins(c, k, 10)
    assert r.count.sum() == 997
    assert (r.accuracy * r.count).sum() == pytest.approx(k.sum())
    assert (np.abs(r.accuracy - r.confidence) * r.count).sum() / 997 == pytest.approx(cal.ece_equal_mass(c, k).value)


@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 10_000), st.booleans())
def test_classwise_ece_ignores_order(classes: int, n: int, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (n, classes)).astype(float) if tied else rng.normal(size=(n, classes))
    probs, labels, p = softmax64(logits), rng.integers(0, classes, n), rng.permutation(n)
    ours, theirs = (classwise_interval(q, y, replicates=2) for q, y in ((probs, labels), (probs[p], labels[p])))
    assert ours.estimate == pytest.approx(theirs.estimate, abs=1e-12)


OK = np.full((4, 2), 0.5)
Y = np.zeros(4, np.int64)
NAN, INF = OK.copy(), OK.copy()
NAN[1, 0], INF[2, 1] = np.nan, np.inf
# All that the reference's section 1.3 lists as malformed, and more.
MALFORMED: list[tuple[str, NDArray[Any], NDArray[Any], type[EdgesafeError], str]] = [
    ("NaN row", NAN, Y, NonFiniteError, "1 of 4 rows"),
    ("infinity", INF, Y, NonFiniteError, "1 of 4 rows"),
    ("minus infinity", -INF, Y, NonFiniteError, "1 of 4 rows"),
    ("no images", OK[:0], Y[:0], NothingEvaluated, "no images"),
    ("one class", np.ones((4, 1)), Y, DataError, "1 class"),
    ("rows x 1.1", OK * 1.1, Y, RefusedError, "differs from 1"),
    ("logits", np.array([[5.0, -3.0]] * 4), Y, RefusedError, "logits"),
    ("label 12 of 2", OK, np.array([0, 1, 12, 0]), DataError, "labels run from 0 to 12"),
    ("label 12 of 10", np.full((4, 10), 0.1), np.array([0, 1, 12, 0]), DataError, "the network has 10 classes"),
    ("label -1", OK, np.array([0, 1, -1, 0]), DataError, "labels run from -1"),
    ("too few labels", OK, Y[:3], DataError, "shape"),
    ("float labels", OK, Y.astype(float), DataError, "not an integer"),
    ("one-dimensional", OK[0], Y, DataError, "is not (n, K)"),
    ("integers", np.eye(4, 2, dtype=np.int64), Y, DataError, "not floating point"),
]


@pytest.mark.parametrize(("name", "probs", "labels", "error", "words"), MALFORMED, ids=[m[0] for m in MALFORMED])
def test_malformed_probabilities_are_refused(
    name: str, probs: NDArray[Any], labels: NDArray[Any], error: type[EdgesafeError], words: str
) -> None:
    for function in (check_probabilities, cal.brier, classwise_interval):
        with pytest.raises(error) as caught:
            function(probs, labels)
        assert words in str(caught.value)
        assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "logits", "labels", "error", "words"),
    [m for m in MALFORMED if m[3] is not RefusedError],  # rows that do not sum to 1 are good logits
    ids=[m[0] for m in MALFORMED if m[3] is not RefusedError],
)
def test_malformed_logits_are_refused(
    name: str, logits: NDArray[Any], labels: NDArray[Any], error: type[EdgesafeError], words: str
) -> None:
    with pytest.raises(error) as caught:
        cal.nll(logits, labels)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([0.5, np.nan], [1, 0], NonFiniteError),
        ([0.5, np.inf], [1, 0], NonFiniteError),
        ([0.5, 1.5], [1, 0], RefusedError),
        ([-0.1, 0.5], [1, 0], RefusedError),
        ([], [], NothingEvaluated),
        ([0.5], [1, 0], DataError),
        ([0.5, 0.5], [1, 2], DataError),
        ([[0.5, 0.5]], [[1, 0]], DataError),
    ],
)
def test_malformed_pairs_are_refused(confidence: Any, correct: Any, error: type[EdgesafeError]) -> None:
    for function in (cal.ece_equal_mass, cal.mce, cal.aurc, cal.reliability_bins):
        with pytest.raises(error):
            function(np.array(confidence), np.array(correct))


def test_no_bins_are_refused() -> None:
    with pytest.raises(DataError, match="0 bins"):
        cal.ece_equal_mass(np.array([0.5]), np.array([1]), 0)


@given(st.integers(2, 8), st.integers(1, 50), st.integers(0, 10_000))
def test_cell_follows_from_softmax(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = (rng.normal(size=(n, classes)) * 20).astype(np.float32), rng.integers(0, classes, n)
    cell = cell_from_logits(logits, labels, np.arange(n), "fog", 3)
    probs = softmax64(logits)
    assert (cell.prediction == logits.argmax(1)).all()
    assert cell.confidence == pytest.approx(probs.max(1), abs=1e-14)
    assert cell.nll == pytest.approx(-log_softmax64(logits)[np.arange(n), labels], abs=1e-12)
    best_other = np.where(np.eye(classes, dtype=bool)[labels], -np.inf, logits.astype(float)).max(1)
    assert cell.margin == pytest.approx(logits[np.arange(n), labels].astype(float) - best_other)
    strictly = cell.margin != 0
    assert ((cell.margin > 0) == (cell.prediction == labels))[strictly].all()


def test_huge_logits_stay_finite() -> None:
    cell = cell_from_logits(np.array([[3e38, -3e38]], np.float32), np.array([1]), np.array([7]))
    assert np.isfinite(cell.nll).all()
    assert cell.confidence[0] == 1.0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"logits": np.full((2, 3), np.nan, np.float32)}, NonFiniteError),
        ({"logits": np.zeros((2, 3), np.int64)}, DataError),
        ({"labels": np.array([0, 3])}, DataError),
        ({"indices": np.array([1, 1])}, DataError),
        ({"indices": np.array([-1, 1])}, DataError),
        ({"indices": np.array([1])}, DataError),
        ({"severity": 6}, DataError),
        ({"severity": 0}, DataError),
        ({"logits": np.zeros((0, 3), np.float32)}, NothingEvaluated),
    ],
)
def test_malformed_cells_are_refused(changes: dict[str, Any], error: type[EdgesafeError]) -> None:
    good = {
        "logits": np.zeros((2, 3), np.float32),
        "labels": np.array([0, 1]),
        "indices": np.array([4, 9]),
        "corruption": "fog",
        "severity": 1,
    }
    cell_from_logits(**good)
    with pytest.raises(error):
        cell_from_logits(**{**good, **changes})
