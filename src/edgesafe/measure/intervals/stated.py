"""An interval as it is stored: with its metric, the metric's unit, and what it makes a statement about."""

from __future__ import annotations

from collections.abc import Mapping

from edgesafe.measure.intervals.bounds import Interval
from edgesafe.metrics import get
from edgesafe.records import Comparison, Measurement, Population

__all__ = ["comparison", "measurement"]


def measurement(
    metric: str,
    interval: Interval,
    population: Population,
    *,
    noise_floor: float | None = None,
    details: Mapping[str, float] | None = None,
) -> Measurement:
    """A number of one file.

    Args:
        metric: id in the catalogue.
        interval: in the metric's unit.
        population: what the interval makes a statement about.
        noise_floor: of a calibration error.
        details: more numbers, such as how many cells it rests on.
    """
    i = interval
    return Measurement(
        metric=metric, estimate=i.estimate, low=i.low, high=i.high, se=i.se, interval_level=i.interval_level, n=i.n,
        method=i.method, unit=get(metric).unit, population=population, noise_floor=noise_floor,
        details=dict(details or {}),
    )  # fmt: skip


def comparison(
    metric: str,
    interval: Interval,
    population: Population,
    *,
    candidate: float,
    baseline: float,
    details: Mapping[str, float] | None = None,
) -> Comparison:
    """A paired difference, and the two values that are compared: see `measurement`."""
    i = interval
    return Comparison(
        metric=metric, estimate=i.estimate, low=i.low, high=i.high, se=i.se, interval_level=i.interval_level, n=i.n,
        method=i.method, unit=get(metric).unit, population=population, candidate=candidate, baseline=baseline,
        details=dict(details or {}),
    )  # fmt: skip
