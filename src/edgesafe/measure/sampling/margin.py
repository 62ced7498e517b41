"""What a sample drawn in strata of the baseline's margin says about all units: estimates, intervals, covariances.

Each row stands for N_h / n_h units of its stratum (Horvitz & Thompson 1952); variances are those of stratified sampling
with the finite-population correction (Cochran 1977, chapters 5 and 5A for parts of the population). Where the
baseline itself saw only a sample of the benchmark, its own sampling error is added (double sampling, Cochran, section
12.2). All intervals are about the fixed benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import IntegrityError, NothingEvaluated, RefusedError
from edgesafe.measure.cells import in_order, rightness
from edgesafe.measure.intervals.bounds import Interval, z_value
from edgesafe.measure.intervals.clusters import within
from edgesafe.measure.sampling.draw import (
    Frame,
    frame_of,
    margin_strata,
    second_moments,
)
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Cell, Evidence, IntervalMethod, Sample, SampleDesign, Task

__all__ = ["Columns", "Drawn", "Part", "columns_of", "drawn", "is_drawn"]


@dataclass(frozen=True)
class Columns:
    """What one file did on the rows of a sample: float64 (rows,) each."""

    right: NDArray[np.float64]
    confidence: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]  #: the quantities whose means the task asks for, by name


@dataclass(frozen=True)
class Drawn:
    """The rows of a candidate that were drawn from a baseline's, sorted by stratum.

    Attributes:
        frame: all units.
        stratum: int64 (rows,), rising.
        cell: int64 (rows,), position in `frame.keys`.
        index: int64 (rows,), position in the test set.
        taken: int64 (strata,), rows of each stratum.
        sizes: int64 (strata,), units of each.
        benchmark: images that each of the baseline's cells was drawn from.
        candidate: its columns.
        baseline: its columns, of the same rows.
        evidence: the baseline's, whole.
    """

    frame: Frame
    stratum: NDArray[np.int64]
    cell: NDArray[np.int64]
    index: NDArray[np.int64]
    taken: NDArray[np.int64]
    sizes: NDArray[np.int64]
    benchmark: int
    candidate: Columns
    baseline: Columns
    evidence: Evidence

    def part(self, keys: Collection[tuple[str, int]]) -> Part:
        """The rows that lie in some of the cells."""
        return Part(self, np.array([key in keys for key in self.frame.keys]))


def is_drawn(evidence: Evidence) -> bool:
    """Whether a file's corrupted cells are a sample by a baseline's margin: then its rows do not count alike."""
    return _sample(evidence) is not None


def _sample(evidence: Evidence) -> Sample | None:
    """How it was drawn, if that was by a baseline's margin."""
    sample = evidence.provenance.sample
    return sample if sample is not None and sample.design is SampleDesign.MARGIN else None


def drawn(candidate: Evidence, baseline: Evidence) -> Drawn:
    """Match a sample to the baseline that it was drawn by.

    Raises:
        RefusedError: `baseline` is such a sample itself.
        IntegrityError: the sample was drawn by another baseline's margins, or the same image has two labels.
        NothingEvaluated: a stratum with fewer than 2 rows.
    """
    if is_drawn(baseline):
        raise RefusedError(
            "the file to compare with was itself measured on a sample by another's margins",
            where="compare",
            fix='compare with the baseline, or measure with evaluate.sampling = "cell" or evaluate.mode = "full"',
        )
    sample = _sample(candidate)
    # the cells that it was drawn from, also those of which no unit was drawn
    frame = frame_of(baseline, {*(sample.cells if sample is not None else ()), *candidate.cells})
    if sample is None or sample.frame_sha256 != frame.sha256:
        raise IntegrityError(
            "the sample was drawn by another baseline's margins",
            where="compare",
            fix="compare with the baseline that it was measured against, or measure again",
        )
    strata = margin_strata(frame.margin)
    cells = [(c, candidate.cells[key]) for c, key in enumerate(frame.keys) if key in candidate.cells]
    units = np.concatenate([frame.units(c, cell.index) for c, cell in cells])
    mine = columns_of([cell for _, cell in cells], candidate.task)
    labels = np.concatenate([cell.label for _, cell in cells])
    whole = [in_order(baseline.cells[key]) for key in frame.keys]
    theirs = columns_of(whole, candidate.task)
    expected = np.concatenate([cell.label for cell in whole])
    if (labels != expected[units]).any():
        raise IntegrityError("the same image has two labels", where="compare", fix="measure both on the same data")
    which = strata.of_unit[units]
    order = np.argsort(which, kind="stable")
    taken = np.bincount(which, minlength=len(strata.sizes))
    if int(taken.min()) < 2:
        raise NothingEvaluated("a stratum with fewer than 2 rows", where="compare", fix="measure more images")
    return Drawn(
        frame=frame,
        stratum=which[order],
        cell=frame.cell[units][order],
        index=frame.index[units][order],
        taken=taken,
        sizes=strata.sizes,
        benchmark=max(sample.benchmark or 0, frame.per_cell),
        candidate=_take(mine, order),
        baseline=_take(theirs, units[order]),
        evidence=baseline,
    )


def columns_of(cells: Sequence[Cell], task: Task) -> Columns:
    """Columns of whole cells, one cell after the other, each in its own order."""
    rules = rules_of(task)
    quantities = dict.fromkeys(quantity for form in rules.pooled.means.values() for quantity in form)
    return Columns(
        np.concatenate([rightness(c) for c in cells]),
        np.concatenate([c.confidence for c in cells]),
        {quantity: np.concatenate([rules.values(c, quantity) for c in cells]) for quantity in quantities},
    )


def _take(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    values = {quantity: column[rows] for quantity, column in columns.values.items()}
    return Columns(columns.right[rows], columns.confidence[rows], values)


class Part:
    """The rows of a sample that lie in some cells: the estimators of a pool.

    Attributes:
        rows: int64, the rows of the sample that lie in the part.
        share: of the frame's units that lie in it.
        weight: float64 (rows,): share of the part's units that each row stands for; sums to about 1.
    """

    def __init__(self, sample: Drawn, cells: NDArray[np.bool_]) -> None:
        """Take the rows of some cells.

        Args:
            sample: the drawn rows.
            cells: bool (cells of the frame,): which belong to the part.
        """
        self._sample = sample
        self.rows = np.flatnonzero(cells[sample.cell])
        self.share = float(cells.mean())
        stratum = sample.stratum[self.rows]
        self.weight = (sample.sizes / sample.taken)[stratum] / (self.share * sample.sizes.sum())
        self.candidate, self.baseline = _take(sample.candidate, self.rows), _take(sample.baseline, self.rows)
        self._units = self.share * float(sample.sizes.sum())
        self._beyond = 1.0 - sample.frame.per_cell / sample.benchmark  # of the benchmark, not in the frame

    @property
    def images(self) -> int:
        """Number of different test images among the rows."""
        return len(np.unique(self._sample.index[self.rows]))

    def mean(self, values: NDArray[np.float64]) -> float:
        """Estimate of the part's mean of a quantity (rows,)."""
        return float(self.weight @ values)

    def rate_se(self, values: NDArray[np.float64], own: NDArray[np.float64] | None = None) -> float:
        """Standard error of `mean` of values in {-1, 0, 1}; "nothing changed" is not taken for certainty.

        Args:
            values: (rows,), for example candidate right minus baseline right.
            own: (rows,), if the estimate is the baseline's mean plus that of `values`: the sum.
        """
        sample = self._sample
        which, strata = sample.stratum[self.rows], len(sample.sizes)
        sums: NDArray[np.float64] = np.bincount(which, values, minlength=strata).astype(np.float64)
        squares: NDArray[np.float64] = np.bincount(which, values * values, minlength=strata).astype(np.float64)
        spread = second_moments(squares, sample.taken, prior=self.share) - (sums / sample.taken) ** 2
        w = sample.sizes / sample.sizes.sum() / self.share
        second = w * w * np.maximum(spread, 0.0) / sample.taken * (1.0 - sample.taken / sample.sizes)
        return math.sqrt(float(second.sum()) + self._first_stage(values if own is None else own))

    def mean_se(self, values: NDArray[np.float64], own: NDArray[np.float64] | None = None) -> float:
        """Standard error of `mean` of any real values.

        Args:
            values: float64 (rows,).
            own: float64 (rows,), if the estimate is the baseline's mean plus that of `values`: the sum.
        """
        second = float(self._second_stage((self.weight * values)[:, None])[0, 0])
        return math.sqrt(second + self._first_stage(values if own is None else own))

    def covariances(self, rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Covariances (q, q) of the column sums of rows (rows, q) that hold their weight already.

        Returns:
            From the draw within the strata; from the baseline's own sample of the benchmark.
        """
        total = rows.sum(axis=0)
        first = (rows / self.weight[:, None]).T @ rows - np.outer(total, total)
        return self._second_stage(rows), first * (self._beyond / self._units)

    def interval(
        self, estimate: float, se: float, interval_level: float, *, of: IntervalMethod = IntervalMethod.MARGIN_STRATA
    ) -> Interval:
        """Two-sided normal interval of an estimate.

        Args:
            estimate: in the unit of the metric.
            se: its standard error.
            interval_level: in (0, 1).
            of: the method that is recorded.
        """
        half = z_value(interval_level) * se
        return Interval(estimate, estimate - half, estimate + half, se, interval_level, len(self.rows), of)

    def _first_stage(self, values: NDArray[np.float64]) -> float:
        """Variance that the baseline's own sample of the benchmark adds; spread between cells counts: cautious."""
        spread = self.mean(values * values) - self.mean(values) ** 2
        return self._beyond * max(spread, 0.0) / self._units

    def _second_stage(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariance (q, q) from the draw within the strata; a row outside of the part counts 0."""
        sample = self._sample
        everywhere = np.zeros((len(sample.stratum), rows.shape[1]))
        everywhere[self.rows] = rows
        return within(
            everywhere, sample.taken, sample.taken / (sample.taken - 1.0) * (1.0 - sample.taken / sample.sizes)
        )
