"""The corrupted metrics of a file that was measured on a sample by its baseline's margin (`margin`).

The candidate's own level is the baseline's, known on every unit it saw, plus the estimated difference; its calibration
errors are those of the weighted rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.intervals.bounds import Interval, z_value
from edgesafe.measure.intervals.clusters import gaussian_noise
from edgesafe.measure.intervals.ece import REPLICATES
from edgesafe.measure.intervals.stated import comparison, measurement
from edgesafe.measure.metrics.calibration import BINS, ece_equal_mass
from edgesafe.measure.pooling import fixed_benchmark, pools
from edgesafe.measure.sampling.margin import (
    Columns,
    Drawn,
    Part,
    columns_of,
    drawn,
)
from edgesafe.measure.tasks import rules_of
from edgesafe.measure.tasks.keypoints import bounded
from edgesafe.records import Comparison, Evidence, IntervalMethod, Measurement, Population

__all__ = ["MarginCells", "bin_edges", "cell_differences"]

Key = tuple[str, int]
_PAIRED = IntervalMethod.PAIRED_MARGIN_STRATA


@dataclass(frozen=True)
class _Wanted:
    """A part of the sample, the cells it holds, and the ids of its metrics; an empty id is not asked for."""

    part: Part
    keys: tuple[Key, ...]
    metric: str
    ece: str = ""
    means: tuple[tuple[str, str], ...] = ()  #: ids of other means, and the quantity of each


def _cells(sample: Drawn) -> list[tuple[Key, Part]]:
    """The cells of which at least 2 units were drawn, each with its part of the sample."""
    parts = [(key, sample.part({key})) for key in sample.frame.keys]
    return [(key, part) for key, part in parts if len(part.rows) >= 2]


def _wanted(sample: Drawn) -> list[_Wanted]:
    """What is stated: the accuracy of each cell of at least 2 units, and the metrics of every pool."""
    return [_Wanted(part, (key,), f"accuracy.{key[0]}.{key[1]}") for key, part in _cells(sample)] + [
        _Wanted(sample.part(set(pool.keys)), pool.keys, pool.mpc, pool.ece, pool.means)
        for pool in pools(sample.frame.keys, rules_of(sample.evidence.task).pooled)
    ]


class MarginCells:
    """The metrics over corrupted cells of a file, and their differences to the baseline that it was drawn by.

    Both rest on the same calibration errors, which are worked out once.

    Args:
        candidate: evidence of the file, drawn by the baseline's margin.
        baseline: evidence of the baseline.
        interval_level: of the intervals, two-sided.
        seed: of the noise of calibration errors.

    Raises:
        RefusedError, IntegrityError, NothingEvaluated: see `margin.drawn`.
    """

    def __init__(self, candidate: Evidence, baseline: Evidence, *, interval_level: float, seed: int) -> None:
        self._sample = drawn(candidate, baseline)
        self._level, self._seed = interval_level, seed
        self._parts = _wanted(self._sample)
        self._eces = {
            wanted.ece: _ece(self._sample, wanted, interval_level, seed) for wanted in self._parts if wanted.ece
        }

    def own(self, images: str) -> dict[str, Measurement]:
        """The candidate's own metrics by id; `images`: what the clean images stand for, in words."""
        who = self._population(images)
        return {number.metric: number for wanted in self._parts for number in self._own(wanted, who)}

    def differences(self, images: str) -> dict[str, Comparison]:
        """Paired differences by metric id, candidate minus baseline."""
        who = self._population(images)
        return {difference.metric: difference for wanted in self._parts for difference in self._difference(wanted, who)}

    def _population(self, images: str) -> Population:
        return fixed_benchmark(images, self._sample.benchmark, len(self._sample.frame.keys))

    def _own(self, wanted: _Wanted, who: Population) -> Iterator[Measurement]:
        part, size, interval_level = wanted.part, _size(wanted), self._level
        change = part.candidate.right - part.baseline.right
        value = _whole(self._sample.evidence, wanted.keys, "right") + part.mean(change)
        rate = part.interval(min(1.0, max(0.0, value)), part.rate_se(change, part.candidate.right), interval_level)
        rate = replace(rate, low=max(0.0, rate.low), high=min(1.0, rate.high))
        yield measurement(wanted.metric, rate, who, details=size)
        if wanted.ece:
            ece = self._eces[wanted.ece]
            details = {**size, "bins_used": float(ece.bins), "few_images": float(len(part.rows) < 100 * BINS)}
            yield measurement(wanted.ece, ece.own, who, noise_floor=ece.noise_floor, details=details)
        for metric, quantity in wanted.means:
            mine, theirs = part.candidate.values[quantity], part.baseline.values[quantity]
            change = mine - theirs
            value = _whole(self._sample.evidence, wanted.keys, quantity) + part.mean(change)
            mean = part.interval(value, part.mean_se(change, mine), interval_level)
            yield measurement(metric, bounded(metric, mean), who, details=size)

    def _difference(self, wanted: _Wanted, who: Population) -> Iterator[Comparison]:
        part, baseline = wanted.part, self._sample.evidence

        def compared(metric: str, interval: Interval, of_baseline: float) -> Comparison:
            both = {"candidate": of_baseline + interval.estimate, "baseline": of_baseline}
            return comparison(metric, interval, who, details=_size(wanted), **both)

        yield compared(wanted.metric, _change(part, self._level), _whole(baseline, wanted.keys, "right"))
        if wanted.ece:
            ece = self._eces[wanted.ece]
            yield compared(wanted.ece, ece.difference, ece.baseline)
        for metric, quantity in wanted.means:
            change = part.candidate.values[quantity] - part.baseline.values[quantity]
            mean = part.interval(part.mean(change), part.mean_se(change), self._level, of=_PAIRED)
            yield compared(metric, mean, _whole(baseline, wanted.keys, quantity))


def cell_differences(candidate: Evidence, baseline: Evidence, interval_level: float = 0.95) -> dict[Key, Interval]:
    """Paired accuracy differences of the cells of which at least 2 units were drawn.

    Raises:
        RefusedError, IntegrityError, NothingEvaluated: see `margin.drawn`.
    """
    return {key: _change(part, interval_level) for key, part in _cells(drawn(candidate, baseline))}


def _change(part: Part, interval_level: float) -> Interval:
    change = part.candidate.right - part.baseline.right
    return part.interval(part.mean(change), part.rate_se(change), interval_level, of=_PAIRED)


def _size(wanted: _Wanted) -> dict[str, float]:
    """Units are what was drawn, so it is they that an estimate about the fixed benchmark rests on, not the images."""
    return {"cells": float(len(wanted.keys)), "different_images": float(wanted.part.images)}


def _whole(baseline: Evidence, keys: Collection[Key], quantity: str) -> float:
    """The baseline's mean over cells of equal size, from everything it saw; "right": its accuracy."""
    columns = columns_of([baseline.cells[key] for key in keys], baseline.task)
    return float((columns.right if quantity == "right" else columns.values[quantity]).mean())


@dataclass(frozen=True)
class _Ece:
    own: Interval
    difference: Interval
    baseline: float
    noise_floor: float
    bins: int


def _ece(sample: Drawn, wanted: _Wanted, interval_level: float, seed: int) -> _Ece:
    """The candidate's ECE over a part, and its difference to the baseline's.

    Both ECEs of the sample err alike, so that their difference is sharp where each alone is not; the candidate's own is
    the baseline's, known on all units, plus the difference. The noise of the bins' gaps is drawn from their joint
    covariance, as in `intervals.paired_ece`.
    """
    part = wanted.part
    weight = part.weight / part.weight.sum()
    sides = [_gaps(columns, weight) for columns in (part.candidate, part.baseline)]
    rows = np.concatenate(sides, axis=1)
    gaps, (second, first) = rows.sum(axis=0), part.covariances(rows)
    values = [float(np.abs(side.sum(axis=0)).sum()) for side in sides]

    def moved(cov: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        noisy = np.abs(gaps + gaussian_noise(cov, REPLICATES, seed))
        return noisy[:, :BINS].sum(axis=1), noisy[:, BINS:].sum(axis=1)

    mine, theirs = moved(second + first)
    difference = part.interval(values[0] - values[1], float((mine - theirs).std(ddof=1)), interval_level, of=_PAIRED)
    whole = columns_of([sample.evidence.cells[key] for key in wanted.keys], sample.evidence.task)
    baseline = ece_equal_mass(whole.confidence, whole.right)
    mine, theirs = moved(second)
    se = math.hypot(float((mine - theirs).std(ddof=1)), float(moved(first)[0].std(ddof=1)))
    own = part.interval(max(0.0, baseline.value + difference.estimate), se, interval_level)
    own = replace(own, low=max(0.0, own.low), high=min(1.0, own.high))
    return _Ece(own, difference, baseline.value, z_value(0.9) * se, int((sides[0] != 0.0).any(axis=0).sum()))


def _gaps(columns: Columns, weight: NDArray[np.float64], bins: int = BINS) -> NDArray[np.float64]:
    """float64 (rows, bins): weight * (right - confidence) in the row's bin, 0 elsewhere."""
    out = np.zeros((len(weight), bins))
    which = np.searchsorted(bin_edges(columns.confidence, weight, bins), columns.confidence, side="left")
    out[np.arange(len(weight)), which] = weight * (columns.right - columns.confidence)
    return out


def bin_edges(confidence: NDArray[np.float64], weight: NDArray[np.float64], bins: int = BINS) -> NDArray[np.float64]:
    """The largest confidence of each bin but the last, the bins holding equal weight.

    Args:
        confidence: float64 (rows,).
        weight: float64 (rows,), > 0. Rows of equal confidence share a bin.
        bins: wanted.

    Returns:
        float64, rising strictly, at most bins - 1.
    """
    order = np.argsort(confidence, kind="stable")
    c, until = confidence[order], np.cumsum(weight[order])
    full = np.searchsorted(until, np.arange(1, bins) / bins * until[-1] * (1.0 - 1e-12))
    edges = np.unique(c[np.minimum(full, len(c) - 1)])
    inner: NDArray[np.float64] = edges[edges < c[-1]]
    return inner
