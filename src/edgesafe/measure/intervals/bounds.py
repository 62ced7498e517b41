"""Intervals of rates, means and paired differences of single sets, and of means over cells. numpy only.

All intervals are two-sided at `interval_level`. Which population an interval over cells is about: see `clusters`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.intervals.clusters import Clustering, Design, covariance
from edgesafe.records import IntervalMethod

__all__ = [
    "CellMean",
    "Interval",
    "PairedCellMean",
    "mean_interval",
    "mean_over_cells",
    "paired_difference",
    "paired_mean_over_cells",
    "wilson",
    "z_value",
]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate, low, high: low <= estimate <= high where the method guarantees it (Wilson, ECE, paired-normal).
        se: standard error.
        interval_level: two-sided.
        n: rows it rests on.
        method: named in JSON.
    """

    estimate: float
    low: float
    high: float
    se: float
    interval_level: float
    n: int
    method: IntervalMethod

    def fields(self) -> dict[str, Any]:
        """As the fields of the same names of a `Measurement` or a `Comparison`."""
        return asdict(self)


def z_value(interval_level: float) -> float:
    """Half width of a two-sided normal interval in standard errors: 1.96 for 0.95.

    Raises:
        DataError: not in (0, 1).
    """
    if not 0.0 < interval_level < 1.0:
        raise DataError(f"interval level {interval_level}", where="interval_level", fix="give a number such as 0.95")
    return NormalDist().inv_cdf(0.5 + interval_level / 2.0)


def _column(values: NDArray[Any], where: str, least: int = 2) -> NDArray[np.float64]:
    v = np.asarray(values, np.float64)
    if v.ndim != 1 or len(v) < least:
        raise NothingEvaluated(f"shape {v.shape}", where=where, fix=f"give at least {least} values in one column")
    if not np.isfinite(v).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(v)).sum())} of {len(v)} are NaN or infinite", where=where, fix="repair the network"
        )
    return v


def wilson(k: int, n: int, interval_level: float = 0.95) -> Interval:
    """Wilson's (1927) score interval of a rate: never empty, never outside [0, 1], right also at 0 and n successes.

    Args:
        k: successes.
        n: trials, >= 1.
        interval_level: two-sided.

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
    z = z_value(interval_level)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Interval(p, low, high, math.sqrt(p * (1 - p) / n), interval_level, n, IntervalMethod.WILSON)


def mean_interval(values: NDArray[Any], interval_level: float = 0.95) -> Interval:
    """Normal interval of a mean of independent values (NLL, Brier).

    Args:
        values: (n,), finite, n >= 2.
        interval_level: two-sided.

    Raises:
        NothingEvaluated: fewer than 2 values.
        NonFiniteError: NaN or infinity.
    """
    v = _column(values, "mean")
    m, se = float(v.mean()), float(v.std(ddof=1) / math.sqrt(len(v)))
    half = z_value(interval_level) * se
    return Interval(m, m - half, m + half, se, interval_level, len(v), IntervalMethod.NORMAL)


def paired_difference(
    candidate: NDArray[Any],
    baseline: NDArray[Any],
    interval_level: float = 0.95,
    *,
    kind: Literal["auto", "rate", "mean"] = "auto",
) -> Interval:
    """Mean of candidate minus baseline over the same images.

    0/1 columns (accuracy, high-confidence error): Bonett & Price's (2012) adjusted interval, which adds one discordant
    pair either way, so that "no image changed" is not mistaken for certainty. Others: normal.

    Args:
        candidate: (n,), finite; entry i belongs to the same image and pixels as `baseline[i]`.
        baseline: (n,).
        interval_level: two-sided.
        kind: "auto": rate if both columns hold only 0 and 1.

    Returns:
        Interval of method PAIRED_ADJUSTED or PAIRED_NORMAL. `se` is the standard error that the interval uses.

    Raises:
        NothingEvaluated: fewer than 2 pairs.
        NonFiniteError: NaN or infinity.
        DataError: different lengths, or "rate" of other values than 0 and 1.
    """
    a, b = _column(candidate, "candidate"), _column(baseline, "baseline")
    if a.shape != b.shape:
        raise DataError(f"{len(a)} and {len(b)} rows", where="paired difference", fix="compare the same images")
    n, z = len(a), z_value(interval_level)
    binary = bool((((a == 0) | (a == 1)) & ((b == 0) | (b == 1))).all())
    if kind == "rate" and not binary:
        raise DataError("values other than 0 and 1", where="paired difference", fix="give rates, or kind='mean'")
    estimate = float((a - b).mean())
    if kind == "mean" or not binary:
        se = float((a - b).std(ddof=1) / math.sqrt(n))
        return Interval(
            estimate, estimate - z * se, estimate + z * se, se, interval_level, n, IntervalMethod.PAIRED_NORMAL
        )
    up, down = (float((a > b).sum()) + 1.0) / (n + 2), (float((b > a).sum()) + 1.0) / (n + 2)
    centre = up - down
    se = math.sqrt((up + down - centre * centre) / (n + 2))
    low, high = max(-1.0, centre - z * se), min(1.0, centre + z * se)
    return Interval(
        estimate, min(low, estimate), max(high, estimate), se, interval_level, n, IntervalMethod.PAIRED_ADJUSTED
    )


@dataclass(frozen=True)
class CellMean:
    """A mean over cells of the cells' means.

    Attributes:
        interval: about what `Design.by` says: new images, or the fixed benchmark.
        se_new_images: standard error about new images, in either case.
    """

    interval: Interval
    se_new_images: float


@dataclass(frozen=True)
class PairedCellMean:
    """The difference of two means over cells.

    Attributes:
        interval: of candidate minus baseline, about what `Design.by` says.
        candidate: its mean.
        baseline: its mean.
        se_new_images: standard error about new images, in either case.
    """

    interval: Interval
    candidate: float
    baseline: float
    se_new_images: float


def mean_over_cells(values: Sequence[NDArray[np.float64]], design: Design, interval_level: float = 0.95) -> CellMean:
    """Mean over cells of the mean within each, all cells counting alike (mPC: mean over corruptions and severities).

    Args:
        values: float64 (n_c,) per cell, for example 1 where the prediction is right.
        design: of the rows.
        interval_level: two-sided.

    Raises:
        DataError: a cell of one image.
    """
    rows = np.concatenate(values) * _weights(design)
    interval, new = _clustered(rows, design, interval_level, 0.0)
    return CellMean(interval, new)


def paired_mean_over_cells(
    candidate: Sequence[NDArray[np.float64]],
    baseline: Sequence[NDArray[np.float64]],
    design: Design,
    interval_level: float = 0.95,
    *,
    rate: bool,
) -> PairedCellMean:
    """Difference of two means over cells, on the same images and pixels.

    Args:
        candidate: float64 (n_c,) per cell.
        baseline: the same of the baseline.
        design: of the rows.
        interval_level: two-sided.
        rate: values are 0 and 1: one changed row either way is added to the variance, as Bonett & Price (2012) do, so
            that "no image changed" is not mistaken for certainty.

    Raises:
        DataError: a cell of one image.
    """
    weights = _weights(design)
    first, second = np.concatenate(candidate) * weights, np.concatenate(baseline) * weights
    floor = 2.0 * float(weights.max()) ** 2 if rate else 0.0
    interval, new = _clustered(first - second, design, interval_level, floor)
    interval = replace(interval, method=interval.method.paired)
    return PairedCellMean(interval, float(first.sum()), float(second.sum()), new)


def _weights(design: Design) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = (1.0 / (len(design.sizes) * design.sizes))[design.cell]
    return weights


def _clustered(
    rows: NDArray[np.float64], design: Design, interval_level: float, floor: float
) -> tuple[Interval, float]:
    column = rows[:, None]
    se = math.sqrt(float(covariance(column, design, design.by)[0, 0]) + floor)
    new = (
        se
        if design.by is Clustering.IMAGE
        else math.sqrt(float(covariance(column, design, Clustering.IMAGE)[0, 0]) + floor)
    )
    estimate, half = float(rows.sum()), z_value(interval_level) * se
    return Interval(estimate, estimate - half, estimate + half, se, interval_level, len(rows), design.method), new
