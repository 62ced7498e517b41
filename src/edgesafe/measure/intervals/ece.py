"""Intervals of calibration errors, their noise floor, and paired differences (those of rates and means: `bounds`).

All intervals are two-sided at `interval_level`. Which population an interval is about is the caller's to say: see
`clusters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.measure.intervals.bounds import (
    Interval,
    mean_interval,
    paired_difference,
    wilson,
    z_value,
)
from edgesafe.measure.intervals.clusters import (
    Design,
    covariance,
    gap_rows,
    gaussian_noise,
)
from edgesafe.measure.intervals.folding import folded_interval
from edgesafe.measure.metrics.calibration import BINS, check_pairs, equal_mass_bins
from edgesafe.records import IntervalMethod

__all__ = [
    "Interval",
    "PairedEce",
    "Resampler",
    "bootstrap_ece",
    "draw_counts",
    "ece_interval",
    "ece_noise_floor",
    "mean_interval",
    "paired_bootstrap_ece",
    "paired_difference",
    "paired_ece",
    "wilson",
    "z_value",
]

REPLICATES = 1000  # the 2.5 % quantile then rests on 25 draws: its error is a tenth of the interval's width
_EXACT_FLOOR = 2_000  # rows up to which the noise floor draws each label; above, bin sums are normal to 3 digits


@dataclass(frozen=True)
class PairedEce:
    """A difference of two ECEs, candidate minus baseline, and the two."""

    interval: Interval
    candidate: float
    baseline: float


class Resampler:
    """The signed gaps of bootstrap samples in the bins of the original sample, sorting once.

    The bins stay: cutting each resample anew adds the noise of repeated rows, which tie, and made 95 % intervals
    cover 97 % (decision 052).
    """

    def __init__(self, confidence: NDArray[np.float64], correct: NDArray[np.float64], bins: int) -> None:
        self.n = len(confidence)
        self.order = np.argsort(confidence, kind="stable")
        self.gap = (correct - confidence)[self.order]
        self.starts = equal_mass_bins(confidence[self.order], bins)

    def gaps(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Signed gaps (bins used,) of the resample with these counts per row, in the original order of rows."""
        sums: NDArray[np.float64] = np.add.reduceat(counts[self.order] * self.gap, self.starts) / self.n
        return sums


def draw_counts(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """How often each of n rows comes in a bootstrap sample: int64 (n,), sum n."""
    return np.bincount(rng.integers(0, n, n), minlength=n)


def _ece_from_noise(
    gaps: NDArray[np.float64], noise: NDArray[np.float64], interval_level: float, n: int, method: IntervalMethod
) -> Interval:
    low, high, se = folded_interval(gaps, noise, interval_level)
    return Interval(float(np.abs(gaps).sum()), low, min(1.0, high), se, interval_level, n, method)


def bootstrap_ece(
    confidence: NDArray[Any],
    correct: NDArray[Any],
    bins: int = BINS,
    *,
    interval_level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Interval of `ece_equal_mass` over independent images.

    An ECE is biased upwards by its noise, and a percentile bootstrap doubles that bias: near perfect calibration it
    covers the truth almost never (decision 052). Here both ends invert the bootstrap as a test (`folding`): the lower
    one reaches 0 when the value is within the noise, the upper one is the estimate plus z standard errors above it.

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).
        bins: of the ECE.
        interval_level: two-sided of the interval.
        replicates: bootstrap samples.
        seed: of the resampling.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.
    """
    c, k = check_pairs(confidence, correct, bins)
    rng = np.random.Generator(np.random.PCG64(seed))
    sampler = Resampler(c, k, bins)
    draws = np.stack([sampler.gaps(draw_counts(rng, len(c))) for _ in range(replicates)])
    gaps = sampler.gaps(np.ones(len(c), np.int64))
    return _ece_from_noise(gaps, draws, interval_level, len(c), IntervalMethod.BOOTSTRAP)


def ece_interval(
    confidence: NDArray[np.float64],
    correct: NDArray[np.float64],
    design: Design,
    bins: int = BINS,
    *,
    interval_level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the ECE of rows pooled over cells, which share images.

    As `bootstrap_ece`, with the noise of the bins' gaps drawn from their cluster-robust (or stratified) covariance
    instead of by resampling 150,000 rows.

    Args:
        confidence: float64 (rows,).
        correct: float64 0/1 (rows,).
        design: of the rows.
        bins: of the ECE.
        interval_level: two-sided.
        seed: of the normal draws.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; a cell of one image.
    """
    c, k = check_pairs(confidence, correct, bins)
    rows = gap_rows(c, k, bins)
    noise = gaussian_noise(covariance(rows, design, design.by), REPLICATES, seed)
    return _ece_from_noise(rows.sum(axis=0), noise, interval_level, len(c), design.method)


def ece_noise_floor(
    confidence: NDArray[Any],
    correct: NDArray[Any] | None = None,
    bins: int = BINS,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> float:
    """The ECE that a perfectly calibrated network with these confidences stays under in 95 % of all test sets.

    Each label is drawn right with its own confidence; above 2,000 rows the bins' sums are drawn as normal. A limit
    below this number cannot be met reliably by any network at this n.

    Args:
        confidence: (n,), in [0, 1].
        correct: ignored except for its checks.
        bins: of the ECE.
        replicates: simulated test sets.
        seed: of the simulation.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`.
    """
    c, _ = check_pairs(confidence, np.zeros(np.shape(confidence)) if correct is None else correct, bins)
    c = np.sort(np.clip(c, 0.0, 1.0))
    starts, n = equal_mass_bins(c, bins), len(c)
    rng = np.random.Generator(np.random.PCG64(seed))
    if n > _EXACT_FLOOR:
        spread = np.sqrt(np.add.reduceat(c * (1.0 - c), starts))
        totals = np.abs(rng.standard_normal((replicates, len(starts))) * spread).sum(axis=1)
    else:
        expected = np.add.reduceat(c, starts)
        totals = np.array(
            [
                np.abs(np.add.reduceat((rng.random(n) < c).astype(np.float64), starts) - expected).sum()
                for _ in range(replicates)
            ]
        )
    return float(np.quantile(totals, 0.95) / n)


def paired_bootstrap_ece(
    candidate: tuple[NDArray[Any], NDArray[Any]],
    baseline: tuple[NDArray[Any], NDArray[Any]],
    bins: int = BINS,
    *,
    interval_level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> PairedEce:
    """Difference of two ECEs on the same independent images, resampled together.

    Args:
        candidate: (confidence, correct), each (n,).
        baseline: the same of the baseline.
        bins: of the ECE.
        interval_level: two-sided.
        replicates: bootstrap samples.
        seed: of the resampling.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; different lengths.
    """
    a, b = check_pairs(*candidate, bins), check_pairs(*baseline, bins)
    n = _same_length(a[0], b[0])
    rng = np.random.Generator(np.random.PCG64(seed))
    first, second = Resampler(*a, bins), Resampler(*b, bins)
    ones = np.ones(n, np.int64)
    gaps = first.gaps(ones), second.gaps(ones)
    draws = (np.empty((replicates, len(gaps[0]))), np.empty((replicates, len(gaps[1]))))
    for r in range(replicates):
        counts = draw_counts(rng, n)
        draws[0][r], draws[1][r] = first.gaps(counts), second.gaps(counts)
    return _paired_from_noise(
        gaps, (draws[0] - gaps[0], draws[1] - gaps[1]), interval_level, n, IntervalMethod.PAIRED_BOOTSTRAP
    )


def paired_ece(
    candidate: tuple[NDArray[np.float64], NDArray[np.float64]],
    baseline: tuple[NDArray[np.float64], NDArray[np.float64]],
    design: Design,
    bins: int = BINS,
    *,
    interval_level: float = 0.95,
    seed: int = 0,
) -> PairedEce:
    """Difference of two ECEs of rows pooled over the same cells and images: see `ece_interval`.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; a cell of one image.
    """
    a, b = check_pairs(*candidate, bins), check_pairs(*baseline, bins)
    n = _same_length(a[0], b[0])
    rows = np.concatenate([gap_rows(*a, bins), gap_rows(*b, bins)], axis=1)
    gaps = rows.sum(axis=0)
    noise = gaussian_noise(covariance(rows, design, design.by), REPLICATES, seed)
    both = (gaps[:bins], gaps[bins:]), (noise[:, :bins], noise[:, bins:])
    return _paired_from_noise(*both, interval_level, n, design.method.paired)


def _same_length(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} rows", where="paired difference", fix="compare the same images")
    return len(a)


def _paired_from_noise(
    gaps: tuple[NDArray[np.float64], NDArray[np.float64]],
    noise: tuple[NDArray[np.float64], NDArray[np.float64]],
    interval_level: float,
    n: int,
    method: IntervalMethod,
) -> PairedEce:
    """Difference of two sums of |gap| from the ends of each and their correlation (MOVER, Zou & Donner 2008).

    Within the noise each ECE is biased, and so is their difference where one is more so than the other: a normal
    interval missed above up to three times as often as it should (decision 052). Far above the noise this is normal.
    """
    centred = [e - e.mean(axis=0) for e in noise]
    sums = [np.abs(g + e).sum(axis=1) for g, e in zip(gaps, centred, strict=True)]
    values = float(np.abs(gaps[0]).sum()), float(np.abs(gaps[1]).sum())
    estimate, se = values[0] - values[1], float((sums[0] - sums[1]).std(ddof=1))
    if se == 0.0:  # the same predictions: nothing differs, whatever the images
        return PairedEce(Interval(estimate, estimate, estimate, se, interval_level, n, method), *values)
    (low_a, high_a, se_a), (low_b, high_b, se_b) = (
        folded_interval(g, e, interval_level) for g, e in zip(gaps, centred, strict=True)
    )
    spread = se_a * se_b
    r = float(np.clip((se_a**2 + se_b**2 - se**2) / (2.0 * spread), -1.0, 1.0)) if spread > 0.0 else 0.0
    below = _combined(values[0] - low_a, high_b - values[1], r)
    above = _combined(high_a - values[0], values[1] - low_b, r)
    return PairedEce(Interval(estimate, estimate - below, estimate + above, se, interval_level, n, method), *values)


def _combined(a: float, b: float, r: float) -> float:
    return math.sqrt(max(0.0, a * a + b * b - 2.0 * r * a * b))
