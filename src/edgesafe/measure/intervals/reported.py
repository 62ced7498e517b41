"""Intervals of the numbers that are for the report only: classwise calibration error and area under risk-coverage.

The maximum calibration error has none. It is the largest of ten noisy numbers, and which bin it comes from changes from
sample to sample: an inverted bootstrap covered 97 to 99 %, the usual one claims a precision that is not there (decision
052).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import NothingEvaluated
from edgesafe.measure.intervals.bounds import Interval, wilson, z_value
from edgesafe.measure.intervals.clusters import gap_rows
from edgesafe.measure.intervals.folding import folded_interval
from edgesafe.measure.metrics.calibration import CLASSWISE_BINS, aurc, check_pairs
from edgesafe.measure.probabilities import check_probabilities
from edgesafe.records import IntervalMethod

__all__ = ["aurc_interval", "classwise_interval"]

REPLICATES = 500  # of the classwise bootstrap


def classwise_interval(
    probs: NDArray[Any],
    labels: NDArray[Any],
    bins: int = CLASSWISE_BINS,
    *,
    interval_level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Mean over classes of the calibration error of that class's probability (Kull et al. 2019), with its interval.

    Equal-mass bins, independent images; ends as in `folding` (K x bins gaps instead of ten).

    Args:
        probs: (n, K), rows sum to 1.
        labels: integers (n,) in [0, K).
        bins: per class.
        interval_level: two-sided.
        replicates: bootstrap samples of rows, the same for all classes, whose gaps are not independent.
        seed: of the resampling.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_probabilities`.
    """
    check_probabilities(probs, labels)
    p = np.clip(probs.astype(np.float64), 0.0, 1.0)
    n, classes = p.shape
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = np.empty((replicates, n), np.float32)  # small whole numbers
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    gaps, draws = [], []
    for k in range(classes):
        rows = gap_rows(p[:, k], (labels == k).astype(np.float64), bins) / classes
        gaps.append(rows.sum(axis=0))
        draws.append((counts @ rows.astype(np.float32)).astype(np.float64))
    observed = np.concatenate(gaps)
    low, high, se = folded_interval(observed, np.concatenate(draws, axis=1), interval_level)
    return Interval(float(np.abs(observed).sum()), low, min(1.0, high), se, interval_level, n, IntervalMethod.BOOTSTRAP)


def aurc_interval(confidence: NDArray[Any], correct: NDArray[Any], *, interval_level: float = 0.95) -> Interval:
    """Interval of `aurc` over independent images: exact jackknife standard error, normal in log AURC.

    Where there are no errors, or nothing but errors, nothing varies: the ends are then the least and the largest area
    that Wilson's interval of the error rate allows (errors all last, or all first).

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,), n >= 2.
        interval_level: two-sided.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; one image.
    """
    c, k = check_pairs(confidence, correct)
    n, wrong = len(c), int((k == 0.0).sum())
    if n < 2:
        raise NothingEvaluated("1 image has no spread", where="aurc", fix="give at least 2 images")
    area, se = aurc(c, k), _jackknife_error(c, k)
    if wrong in (0, n):
        rate = wilson(wrong, n, interval_level)
        low = rate.low + (1.0 - rate.low) * math.log1p(-rate.low) if rate.low < 1.0 else 1.0
        high = rate.high * (1.0 - math.log(rate.high))
    else:
        factor = math.exp(z_value(interval_level) * se / area)
        low, high = area / factor, area * factor
    return Interval(
        area, min(low, area), max(area, min(1.0, high)), se, interval_level, n, IntervalMethod.JACKKNIFE_LOG
    )


def _jackknife_error(c: NDArray[np.float64], k: NDArray[np.float64]) -> float:
    """Jackknife standard error of the area, all n areas without one row each at once.

    Rows of equal confidence form runs, whose errors are spread evenly (`risk_coverage`), so an area without one row
    depends on its run and on whether it is wrong. Sums of 1 / j are differences of harmonic numbers. `moved[0]` is
    never used: no run lies before the first.
    """
    n = len(c)
    order = np.argsort(-c, kind="stable")
    start = np.concatenate([[0], np.flatnonzero(np.diff(c[order])) + 1])
    size = np.diff(np.append(start, n))
    errors = np.add.reduceat(1.0 - k[order], start)
    earlier = np.cumsum(errors) - errors
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])
    whole = harmonic[start + size] - harmonic[start]
    risks = earlier * whole + errors / size * (size - start * whole)
    before = np.cumsum(risks) - risks
    moved = (earlier + (1 - start) * errors / size) * (harmonic[start + size - 1] - harmonic[start - 1]) + errors
    after = np.append(np.cumsum(moved[::-1])[::-1][1:], 0.0)  # risks of later runs, each one place further up
    later = harmonic[n - 1] - harmonic[start + size - 1]
    one_less = harmonic[start + size - 1] - harmonic[start]
    places = size - 1 - start * one_less
    left = []
    for wrong in (0.0, 1.0):
        rate = np.where(size > 1, (errors - wrong) / np.maximum(size - 1, 1), 0.0)
        left.append((before + earlier * one_less + rate * places + after - wrong * later) / (n - 1))
    many = (size - errors, errors)
    mean = sum(float(m @ a) for m, a in zip(many, left, strict=True)) / n
    spread = sum(float(m @ (a - mean) ** 2) for m, a in zip(many, left, strict=True))
    return math.sqrt((n - 1) / n * spread)
