"""Intervals for sums of absolute values, to which noise only adds: calibration errors.

A sum of |gap| is tested against "the true sum is t" by adding noise to gaps that sum to t. How much the noise adds
depends on how t is spread over the bins, which is not known. Each end takes the spread that is least in its favour
among those that the data suggest, so that each errs in about (1 - interval_level) / 2 of samples.
`clusters.folded_low` is the lower end; this module has the upper one, and both together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.intervals.clusters import folded_low

__all__ = ["folded_high", "folded_interval"]

_STEPS = 30  # halvings: 1e-9 of the bracket


def folded_high(gaps: NDArray[np.float64], noise: NDArray[np.float64], interval_level: float) -> float:
    """Upper end of an interval for a sum of absolute values.

    True gaps are accepted while the observed sum is not in the lower tail of sum |gaps + noise|. Of all gaps with the
    same sum, those in proportion to each bin's own noise let it add least (the slope of E|g + e| is then equal in all
    bins), so they are the last to be refused: the end is the largest sum that such gaps may have. Far above the noise
    this is the estimate plus z standard errors; within the noise it takes the bias off.

    Args:
        gaps: float64 (q,), observed signed gaps.
        noise: float64 (replicates, q), centred draws of their sampling error.
        interval_level: two-sided.

    Returns:
        At least sum |gaps|.
    """
    total = float(np.abs(gaps).sum())
    spread = noise.std(axis=0)
    if not spread.any():
        return total
    pattern = np.where(gaps < 0.0, -spread, spread) / spread.sum()
    rank = (1.0 - interval_level) / 2.0

    def lower(t: float) -> float:
        return float(np.quantile(np.abs(t * pattern + noise).sum(axis=1), rank))

    a, b = total, total + float(spread.sum())
    while lower(b) < total:
        a, b = b, 2.0 * b
    for _ in range(_STEPS):
        middle = 0.5 * (a + b)
        a, b = (middle, b) if lower(middle) < total else (a, middle)
    return b if lower(total) < total else total


def folded_interval(
    gaps: NDArray[np.float64], noise: NDArray[np.float64], interval_level: float
) -> tuple[float, float, float]:
    """Both ends, and the standard error of the sum: see `clusters.folded_low`, `folded_high`.

    Args:
        gaps: float64 (q,), observed signed gaps.
        noise: float64 (replicates, q), draws of their sampling error; centred here.
        interval_level: two-sided.

    Returns:
        low <= sum |gaps| <= high, and the standard deviation of sum |gaps + noise|.
    """
    centred = noise - noise.mean(axis=0)
    se = float(np.abs(gaps + centred).sum(axis=1).std(ddof=1))
    return folded_low(gaps, centred, interval_level), folded_high(gaps, centred, interval_level), se
