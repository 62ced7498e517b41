"""Calibration and selective-risk metrics as pure float64 functions on arrays. They fail closed.

The calibration error that edgesafe gates on is `ece_em10_top1`: ten equal-mass bins of the top-1 confidence, ties kept
together (`ece_equal_mass`). Only that one is robust to row order, to remainders and to the runs of equal confidence
that low-precision softmax makes; docs/metrics.md gives the definitions and decision 050 the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import (
    DataError,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
)
from edgesafe.measure.probabilities import (
    check_labels,
    check_logits,
    check_probabilities,
    log_softmax64,
)

__all__ = [
    "BINS",
    "CLASSWISE_BINS",
    "HIGH_CONFIDENCE",
    "EceResult",
    "ReliabilityBins",
    "aurc",
    "brier",
    "brier_rows",
    "check_pairs",
    "ece_equal_mass",
    "equal_mass_bins",
    "mce",
    "nll",
    "reliability_bins",
    "risk_coverage",
]

BINS = 10  # the seed study (arXiv 2405.20876) and DESIGN: ten
CLASSWISE_BINS = 15  # Kull et al. 2019; with K = 10 classes, ten equal-mass bins would give the positives one bin
HIGH_CONFIDENCE = 0.9  # of `high_conf_error@0.9`


@dataclass(frozen=True)
class EceResult:
    """A calibration error and how it came about.

    Attributes:
        value: in [0, 1].
        bins_used: bins that hold images; fewer than asked where there are few images or long runs of equal confidence.
        n: images.
        few_images: n < 100 x bins: the value is dominated by sampling noise; look at its noise floor.
    """

    value: float
    bins_used: int
    n: int
    few_images: bool


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram's bins, by rising confidence. All arrays have one entry per non-empty bin.

    Attributes:
        low, high: float64, smallest and largest confidence in the bin (equal mass), or its edges (equal width).
        count: int64, images.
        accuracy: float64, share of them that are right.
        confidence: float64, their mean confidence.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]


def check_pairs(
    confidence: NDArray[Any], correct: NDArray[Any], bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two columns that every top-1 metric takes, as float64, or an error.

    Args:
        confidence: floating point (n,), in [0, 1].
        correct: bool or 0/1 (n,).
        bins: >= 1.

    Raises:
        NothingEvaluated: n = 0.
        DataError: shapes differ, bins < 1, or `correct` holds anything but 0 and 1.
        NonFiniteError: a NaN or infinite confidence.
        RefusedError: a confidence outside [0, 1].
    """
    c, k = np.asarray(confidence, np.float64), np.asarray(correct)
    if c.ndim != 1 or c.shape != k.shape:
        raise DataError(
            f"shapes {c.shape} and {k.shape}", where="confidence, correct", fix="give two arrays of n entries"
        )
    if c.size == 0:
        raise NothingEvaluated("no images", where="confidence", fix="give at least one image")
    if bins < 1:
        raise DataError(f"{bins} bins", where="bins", fix="give at least 1")
    if not np.isfinite(c).all():
        bad = int((~np.isfinite(c)).sum())
        raise NonFiniteError(f"{bad} of {c.size} are NaN or infinite", where="confidence", fix="repair the network")
    if float(c.min()) < 0.0 or float(c.max()) > 1.0 + 1e-6:
        raise RefusedError(
            f"{c.min():.4g} to {c.max():.4g} is outside [0, 1]",
            where="confidence",
            fix="give probabilities, not logits",
        )
    kf = k.astype(np.float64)
    if not ((kf == 0.0) | (kf == 1.0)).all():
        raise DataError("values other than 0 and 1", where="correct", fix="give prediction == label")
    return c, kf


def equal_mass_bins(sorted_confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Where the bins start: `numpy.array_split` sizes; a cut inside a run of equal values moves to the run's end.

    Args:
        sorted_confidence: float64 (n,), rising, n >= 1.
        bins: wanted, >= 1; at most n are made.

    Returns:
        int64, first is 0, rising strictly, at most min(bins, n) entries.
    """
    n = len(sorted_confidence)
    m = min(bins, n)
    size, larger = divmod(n, m)
    ends = np.cumsum(np.full(m, size) + (np.arange(m) < larger))[:-1]
    cuts = np.unique(np.searchsorted(sorted_confidence, sorted_confidence[ends - 1], side="right"))
    return np.concatenate([[0], cuts[cuts < n]]).astype(np.int64)


def _sorted_by_confidence(
    c: NDArray[np.float64], k: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(c, kind="stable")
    return c[order], k[order]


def ece_equal_mass(confidence: NDArray[Any], correct: NDArray[Any], bins: int = BINS) -> EceResult:
    """Expected calibration error, equal-mass bins, ties kept together: sum over bins of |right - confidence| / n.

    Naeini et al. 2015, adaptive bins as in Nguyen & O'Connor 2015; the tie rule makes it a function of the multiset of
    rows. Bins: see `equal_mass_bins`.

    Args:
        confidence: (n,), top-1 probability in [0, 1].
        correct: bool or 0/1 (n,).
        bins: 10 for `ece_em10_top1`.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.

    Example:
        >>> import numpy as np
        >>> round(ece_equal_mass(np.array([0.6, 0.7, 0.8, 0.9]), np.array([1, 0, 1, 1]), bins=2).value, 12)
        0.15
    """
    c, k = _sorted_by_confidence(*check_pairs(confidence, correct, bins))
    starts = equal_mass_bins(c, bins)
    gaps = np.add.reduceat(k, starts) - np.add.reduceat(c, starts)
    n = len(c)
    return EceResult(float(np.abs(gaps).sum() / n), len(starts), n, n < 100 * bins)


def mce(confidence: NDArray[Any], correct: NDArray[Any], bins: int = BINS) -> float:
    """Maximum calibration error: the largest |accuracy - confidence| of a bin. Unstable: report, never gate."""
    r = reliability_bins(confidence, correct, bins)
    return float(np.abs(r.accuracy - r.confidence).max())


def reliability_bins(confidence: NDArray[Any], correct: NDArray[Any], bins: int = BINS) -> ReliabilityBins:
    """The bins of a reliability diagram (DeGroot & Fienberg 1983), equal-mass as in `ece_equal_mass`.

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).
        bins: wanted.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.
    """
    c, k = _sorted_by_confidence(*check_pairs(confidence, correct, bins))
    starts = equal_mass_bins(c, bins)
    ends = np.append(starts[1:], len(c))
    count = ends - starts
    return ReliabilityBins(
        low=c[starts],
        high=c[ends - 1],
        count=count.astype(np.int64),
        accuracy=np.add.reduceat(k, starts) / count,
        confidence=np.add.reduceat(c, starts) / count,
    )


def nll(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean negative log-likelihood of the labels, nats, from logits (so a probability of 0 cannot occur).

    Raises:
        NothingEvaluated, DataError, NonFiniteError: see `check_logits`, `check_labels`.
    """
    check_logits(logits)
    check_labels(labels, *logits.shape)
    return float(-log_softmax64(logits)[np.arange(len(labels)), labels].mean())


def brier_rows(probs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Brier's (1950) score of each row: sum over classes of (p - [class is the label])^2, in [0, 2].

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_probabilities`.
    """
    check_probabilities(probs, labels)
    p = probs.astype(np.float64)
    own = p[np.arange(len(labels)), labels]
    rows: NDArray[np.float64] = np.einsum("ij,ij->i", p, p) + 1.0 - 2.0 * own
    return rows


def brier(probs: NDArray[Any], labels: NDArray[Any]) -> float:
    """Brier's score of all rows, in [0, 2]: the mean of `brier_rows`.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_probabilities`.
    """
    return float(brier_rows(probs, labels).mean())


def risk_coverage(confidence: NDArray[Any], correct: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The risk-coverage curve: the share of errors among the most confident images, for every number of them.

    Images of equal confidence are taken in all orders at once (their errors are spread evenly over the run), so that
    the curve does not depend on row order.

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).

    Returns:
        coverage: float64 (n,), 1/n, 2/n, …, 1; and risk: float64 (n,), in [0, 1].

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.
    """
    c, k = _sorted_by_confidence(*check_pairs(confidence, correct))
    c, wrong = c[::-1], 1.0 - k[::-1]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(c)) + 1])
    sizes = np.diff(np.append(starts, len(c)))
    even = np.repeat(np.add.reduceat(wrong, starts) / sizes, sizes)
    taken = np.arange(1, len(c) + 1, dtype=np.float64)
    return taken / len(c), np.cumsum(even) / taken


def aurc(confidence: NDArray[Any], correct: NDArray[Any]) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages (Geifman et al. 2019), in [0, 1].

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.
    """
    return float(risk_coverage(confidence, correct)[1].mean())
