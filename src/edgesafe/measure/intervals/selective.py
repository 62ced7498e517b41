"""Selective prediction: what is left wrong if the least confident images are set aside by a threshold.

A threshold keeps or sets aside all images of one confidence together, so every result here is a function of the
multiset of rows. The area under the curve (`aurc`) is in `calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.measure.intervals.bounds import Interval, wilson
from edgesafe.measure.metrics.calibration import check_pairs

__all__ = ["COVERAGE", "RiskSteps", "SelectiveRisk", "risk_at_coverage", "risk_steps"]

COVERAGE = 0.8  # of the report: one image in five goes to the fallback


@dataclass(frozen=True)
class RiskSteps:
    """Every operating point that a threshold on the confidence can reach, by rising coverage: one per distinct value.

    Attributes:
        threshold: float64 (m,), falling; images of this confidence or more are kept.
        kept: int64 (m,), how many, rising strictly to n.
        wrong: int64 (m,), how many of them are wrong.
    """

    threshold: NDArray[np.float64]
    kept: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of all images that is kept, (m,), in (0, 1]."""
        return np.asarray(self.kept / self.kept[-1], dtype=np.float64)

    @property
    def risk(self) -> NDArray[np.float64]:
        """Share of the kept images that is wrong, (m,), in [0, 1]."""
        return np.asarray(self.wrong / self.kept, dtype=np.float64)

    def reaching(self, coverage: float) -> int:
        """The index of the highest threshold that keeps at least `coverage` of the images.

        Raises:
            DataError: a coverage outside (0, 1].
        """
        if not 0.0 < coverage <= 1.0:
            raise DataError(f"coverage {coverage}", where="coverage", fix="give a share above 0, at most 1")
        needed = ceil(coverage * int(self.kept[-1]) - 1e-9)  # 0.07 * 100 is 7.000000000000001
        return int(np.searchsorted(self.kept, needed))


@dataclass(frozen=True)
class SelectiveRisk:
    """The risk at one threshold.

    Attributes:
        threshold: the smallest confidence that is kept.
        coverage: share kept; at least what was asked for, and more where equal confidences must stay together.
        interval: of the risk, over the images kept at this threshold; the threshold itself is taken as given.
    """

    threshold: float
    coverage: float
    interval: Interval


def risk_steps(confidence: NDArray[Any], correct: NDArray[Any]) -> RiskSteps:
    """The risk-coverage curve at the thresholds that exist (Geifman & El-Yaniv 2017).

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `calibration.check_pairs`.

    Example:
        >>> import numpy as np
        >>> steps = risk_steps(np.array([0.9, 0.5, 0.5, 0.7]), np.array([1, 0, 1, 1]))
        >>> steps.coverage.tolist(), steps.risk.tolist()
        ([0.25, 0.5, 1.0], [0.0, 0.0, 0.25])
    """
    c, k = check_pairs(confidence, correct)
    values, member = np.unique(-c, return_inverse=True)
    kept = np.cumsum(np.bincount(member))
    wrong = np.cumsum(np.bincount(member, weights=1.0 - k)).astype(np.int64)
    return RiskSteps(-values, kept.astype(np.int64), wrong)


def risk_at_coverage(confidence: NDArray[Any], correct: NDArray[Any], coverage: float = COVERAGE) -> SelectiveRisk:
    """The share of errors among the most confident images, at least `coverage` of all, with Wilson's 95 % interval.

    Args:
        confidence: (n,), in [0, 1].
        correct: bool or 0/1 (n,).
        coverage: in (0, 1].

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `calibration.check_pairs`; a coverage outside its
            range.
    """
    steps = risk_steps(confidence, correct)
    at = steps.reaching(coverage)
    interval = wilson(int(steps.wrong[at]), int(steps.kept[at]))
    return SelectiveRisk(float(steps.threshold[at]), float(steps.coverage[at]), interval)
