"""Intervals: rates, means, calibration errors, and paired differences of them. numpy only; nothing here draws images.

All intervals are two-sided at `confidence`. Which population an interval is about is the caller's to say: see
`clusters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.calibration import BINS, check_pairs, equal_mass_bins
from edgesafe.measure.clusters import Design, covariance, folded_low, gap_rows, gaussian_noise

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
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate, low, high: low <= estimate <= high where the method guarantees it (Wilson, ECE, paired-normal).
        se: standard error.
        confidence: two-sided.
        n: rows it rests on.
        method: named in JSON.
    """

    estimate: float
    low: float
    high: float
    se: float
    confidence: float
    n: int
    method: str


def z_value(confidence: float) -> float:
    """Half width of a two-sided normal interval in standard errors: 1.96 for 0.95.

    Raises:
        DataError: not in (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence {confidence}", where="confidence", fix="give a number such as 0.95")
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)


def _column(values: NDArray[Any], where: str, least: int = 2) -> NDArray[np.float64]:
    v = np.asarray(values, np.float64)
    if v.ndim != 1 or len(v) < least:
        raise NothingEvaluated(f"shape {v.shape}", where=where, fix=f"give at least {least} values in one column")
    if not np.isfinite(v).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(v)).sum())} of {len(v)} are NaN or infinite", where=where, fix="repair the network"
        )
    return v


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's (1927) score interval of a rate: never empty, never outside [0, 1], right also at 0 and n successes.

    Args:
        k: successes.
        n: trials, >= 1.
        confidence: two-sided.

    Raises:
        NothingEvaluated: n < 1.
        DataError: k outside 0..n.

    Example:
        >>> i = wilson(9173, 10_000)
        >>> round(i.low, 4), round(i.high, 4)
        (0.9117, 0.9225)
    """
    if n < 1:
        raise NothingEvaluated("no trials", where="wilson", fix="measure at least one image")
    if not 0 <= k <= n:
        raise DataError(f"{k} of {n}", where="wilson", fix="give 0 to n successes")
    z = z_value(confidence)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Interval(p, low, high, math.sqrt(p * (1 - p) / n), confidence, n, "wilson")


def mean_interval(values: NDArray[Any], confidence: float = 0.95) -> Interval:
    """Normal interval of a mean of independent values (NLL, Brier).

    Args:
        values: (n,), finite, n >= 2.
        confidence: two-sided.

    Raises:
        NothingEvaluated: fewer than 2 values.
        NonFiniteError: NaN or infinity.
    """
    v = _column(values, "mean")
    m, se = float(v.mean()), float(v.std(ddof=1) / math.sqrt(len(v)))
    half = z_value(confidence) * se
    return Interval(m, m - half, m + half, se, confidence, len(v), "normal")


def paired_difference(
    candidate: NDArray[Any],
    baseline: NDArray[Any],
    confidence: float = 0.95,
    *,
    kind: Literal["auto", "rate", "mean"] = "auto",
) -> Interval:
    """Mean of candidate minus baseline over the same images.

    0/1 columns (accuracy, high-confidence error): Bonett & Price's (2012) adjusted interval, which adds one discordant
    pair either way, so that "no image changed" is not mistaken for certainty. Others: normal.

    Args:
        candidate: (n,), finite; entry i belongs to the same image and pixels as `baseline[i]`.
        baseline: (n,).
        confidence: two-sided.
        kind: "auto": rate if both columns hold only 0 and 1.

    Returns:
        Interval of method "paired-adjusted" or "paired-normal". `se` is the standard error that the interval uses.

    Raises:
        NothingEvaluated: fewer than 2 pairs.
        NonFiniteError: NaN or infinity.
        DataError: different lengths, or "rate" of other values than 0 and 1.
    """
    a, b = _column(candidate, "candidate"), _column(baseline, "baseline")
    if a.shape != b.shape:
        raise DataError(f"{len(a)} and {len(b)} rows", where="paired difference", fix="compare the same images")
    n, z = len(a), z_value(confidence)
    binary = bool((((a == 0) | (a == 1)) & ((b == 0) | (b == 1))).all())
    if kind == "rate" and not binary:
        raise DataError("values other than 0 and 1", where="paired difference", fix="give rates, or kind='mean'")
    estimate = float((a - b).mean())
    if kind == "mean" or not binary:
        se = float((a - b).std(ddof=1) / math.sqrt(n))
        return Interval(estimate, estimate - z * se, estimate + z * se, se, confidence, n, "paired-normal")
    up, down = (float((a > b).sum()) + 1.0) / (n + 2), (float((b > a).sum()) + 1.0) / (n + 2)
    centre = up - down
    se = math.sqrt((up + down - centre * centre) / (n + 2))
    low, high = max(-1.0, centre - z * se), min(1.0, centre + z * se)
    return Interval(estimate, min(low, estimate), max(high, estimate), se, confidence, n, "paired-adjusted")


@dataclass(frozen=True)
class PairedEce:
    """A difference of two ECEs, and the two (candidate, baseline)."""

    interval: Interval
    values: tuple[float, float]


class Resampler:
    """The equal-mass signed gaps of bootstrap samples, sorting once.

    A resample of sorted rows is a vector of counts; its cuts are found in the cumulative counts. Cut and tie rule are
    those of `equal_mass_bins` (tested: the same value as `ece_equal_mass` on the expanded resample).
    """

    def __init__(self, confidence: NDArray[np.float64], correct: NDArray[np.float64], bins: int) -> None:
        self.n = len(confidence)
        self.order = np.argsort(confidence, kind="stable")
        c = confidence[self.order]
        self.gap = (correct - confidence)[self.order]
        self.run_end = np.searchsorted(c, c, side="right")
        m = min(bins, self.n)
        size, larger = divmod(self.n, m)
        self.cuts = np.cumsum(np.full(m, size) + (np.arange(m) < larger))[:-1]

    def gaps(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Signed gaps (min(bins, n),) of the resample with these counts per row, in the original order of rows."""
        w = counts[self.order]
        sums = np.concatenate([[0.0], np.cumsum(w * self.gap)])
        ends = self.run_end[np.searchsorted(np.cumsum(w), self.cuts, side="left")]
        return np.diff(np.concatenate([[0.0], sums[ends], sums[-1:]])) / self.n


def draw_counts(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """How often each of n rows comes in a bootstrap sample: int64 (n,), sum n."""
    return np.bincount(rng.integers(0, n, n), minlength=n)


def _ece_from_noise(
    gaps: NDArray[np.float64], noise: NDArray[np.float64], confidence: float, n: int, method: str
) -> Interval:
    total = float(np.abs(gaps).sum())
    se = float(np.abs(gaps + noise).sum(axis=1).std(ddof=1))
    low = folded_low(gaps, noise, confidence)
    high = min(1.0, total + z_value(confidence) * se)
    return Interval(total, low, high, se, confidence, n, method)


def bootstrap_ece(
    confidence: NDArray[Any],
    correct: NDArray[Any],
    bins: int = BINS,
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """Interval of `ece_equal_mass` over independent images.

    An ECE is biased upwards by its noise, and a percentile bootstrap doubles that bias: near perfect calibration it
    covers the truth almost never (decision 052). Here the lower end inverts the bootstrap as a test (`folded_low`) and
    reaches 0 when the value is within the noise; the upper end is the estimate plus z bootstrap standard errors.

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).
        bins: of the ECE.
        level: two-sided confidence of the interval.
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
    return _ece_from_noise(gaps, draws - draws.mean(axis=0), level, len(c), "bootstrap")


def ece_interval(
    confidence: NDArray[np.float64],
    correct: NDArray[np.float64],
    design: Design,
    bins: int = BINS,
    *,
    level: float = 0.95,
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
        level: two-sided confidence.
        seed: of the normal draws.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; a cell of one image.
    """
    c, k = check_pairs(confidence, correct, bins)
    rows = gap_rows(c, k, bins)
    noise = gaussian_noise(covariance(rows, design, design.by), REPLICATES, seed)
    return _ece_from_noise(rows.sum(axis=0), noise, level, len(c), f"cluster-{design.by}")


def ece_noise_floor(
    confidence: NDArray[Any],
    correct: NDArray[Any] | None = None,
    bins: int = BINS,
    *,
    quantile: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> float:
    """The ECE that a perfectly calibrated network with these confidences stays under in `quantile` of all test sets.

    Each label is drawn right with its own confidence; above 2,000 rows the bins' sums are drawn as normal. A limit
    below this number cannot be met reliably by any network at this n.

    Args:
        confidence: (n,), in [0, 1].
        correct: ignored except for its checks.
        bins: of the ECE.
        quantile: in (0, 1).
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
    return float(np.quantile(totals, quantile) / n)


def paired_bootstrap_ece(
    candidate: tuple[NDArray[Any], NDArray[Any]],
    baseline: tuple[NDArray[Any], NDArray[Any]],
    bins: int = BINS,
    *,
    level: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> PairedEce:
    """Difference of two ECEs on the same independent images, resampled together.

    Args:
        candidate: (confidence, correct), each (n,).
        baseline: the same of the baseline.
        bins: of the ECE.
        level: two-sided confidence.
        replicates: bootstrap samples.
        seed: of the resampling.

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `check_pairs`; different lengths.
    """
    a, b = check_pairs(*candidate, bins), check_pairs(*baseline, bins)
    n = _same_length(a[0], b[0])
    rng = np.random.Generator(np.random.PCG64(seed))
    first, second = Resampler(*a, bins), Resampler(*b, bins)
    draws = np.empty(replicates)
    for r in range(replicates):
        counts = draw_counts(rng, n)
        draws[r] = np.abs(first.gaps(counts)).sum() - np.abs(second.gaps(counts)).sum()
    one = np.ones(n, np.int64)
    values = float(np.abs(first.gaps(one)).sum()), float(np.abs(second.gaps(one)).sum())
    return PairedEce(_normal(values[0] - values[1], float(draws.std(ddof=1)), level, n, "paired-bootstrap"), values)


def paired_ece(
    candidate: tuple[NDArray[np.float64], NDArray[np.float64]],
    baseline: tuple[NDArray[np.float64], NDArray[np.float64]],
    design: Design,
    bins: int = BINS,
    *,
    level: float = 0.95,
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
    noisy = np.abs(gaps + gaussian_noise(covariance(rows, design, design.by), REPLICATES, seed))
    values = float(np.abs(gaps[:bins]).sum()), float(np.abs(gaps[bins:]).sum())
    se = float((noisy[:, :bins].sum(axis=1) - noisy[:, bins:].sum(axis=1)).std(ddof=1))
    return PairedEce(_normal(values[0] - values[1], se, level, n, f"paired-cluster-{design.by}"), values)


def _same_length(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} rows", where="paired difference", fix="compare the same images")
    return len(a)


def _normal(estimate: float, se: float, level: float, n: int, method: str) -> Interval:
    half = z_value(level) * se
    return Interval(estimate, estimate - half, estimate + half, se, level, n, method)
