"""A sample that grows from look to look, nested, never measured twice, resumable at every look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesafe.files import Keeper
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.cells import (
    joined,
    rightness,
    rows_of,
    take,
)
from edgesafe.measure.inference import robustness
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.sampling import draw
from edgesafe.records import Cell, Evidence, Provenance, Sample, SampleDesign
from edgesafe.stages import observe
from edgesafe.stages.observe import Bench
from edgesafe.stages.sequential.looks import ImagePool, Look, plan, pool_of

__all__ = ["ModelRunner", "Runner", "StoredRunner", "collect"]

Key = tuple[str, int]


class Runner(Protocol):
    """Runs images through the file. `ModelRunner` is the real one; a benchmark replays stored evidence."""

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """The cell and the logits, float32 (n, K), of the clean test images at these positions."""
        ...

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """The cells of the images wanted: (corruption, severity) -> positions in the test set."""
        ...

    def provenance(self, sample: Sample) -> Provenance:
        """What evidence from these runs says of where it comes from."""
        ...


@dataclass(frozen=True)
class ModelRunner:
    """Runs an open file under onnxruntime; `advance` is told the number of images done."""

    classifier: OnnxClassifier
    bench: Bench
    advance: Callable[[int], None]

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """Run the clean test images at `indices`, int64 (n,): their cell, and the logits, float32 (n, K)."""
        seen = observe.clean(self.classifier, self.bench, indices)
        self.advance(len(indices))
        return seen

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """Make and run the corrupted images wanted: (corruption, severity) -> positions in the test set."""
        return observe.corrupted(self.classifier, self.bench, wanted, self.advance)

    def provenance(self, sample: Sample) -> Provenance:
        """The hashes of file and data, the runtime, and the sample that the evidence is of."""
        return observe.provenance(self.classifier, self.bench, sample)


@dataclass(frozen=True)
class StoredRunner:
    """Gives what a sample would have shown from the evidence of a full evaluation; for tests and benchmarks."""

    full: Evidence

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """Take the clean test images at `indices`, int64 (n,), from the evidence: cell, and logits float32 (n, K)."""
        rows = rows_of(self.full.clean, indices)
        return take(self.full.clean, rows), self.full.logits[rows]

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """Take the corrupted images wanted from the evidence: (corruption, severity) -> positions in the test set."""
        cells = self.full.cells
        return {key: take(cells[key], rows_of(cells[key], indices)) for key, indices in wanted.items()}

    def provenance(self, sample: Sample) -> Provenance:
        """The provenance of the stored evidence, with `sample` in place of its own."""
        return self.full.provenance.model_copy(update={"sample": sample})


def collect(
    runner: Runner,
    bench: Bench,
    reference: Evidence | None,
    keeper: Keeper,
    decided: Callable[[Evidence], bool] | None = None,
) -> Evidence:
    """Measure a file on a growing sample. Looks that the keeper has are not measured again.

    Args:
        runner: runs the file.
        bench: the test images, the section [evaluate].
        reference: evidence of the baseline; None: there is none.
        keeper: keeps the evidence of each finished look.
        decided: asked after each look whether that is enough; None: one look of the whole budget.

    Raises:
        NothingEvaluated, DataError: the baseline lacks cells, or has cells of different sizes.
    """
    pool = pool_of(bench, reference)
    looks = plan(bench, reference, escalating=decided is not None)
    sample = _Sample(runner, bench, pool, len(looks))
    kept = max((k for k in range(len(looks)) if keeper.get(f"look-{k + 1}") is not None), default=-1)
    if kept >= 0:
        sample.restore(evidence_files.from_bytes(keeper.get(f"look-{kept + 1}") or b""))
    for k, look in enumerate(looks):
        sample.grow(look)
        if k < kept:
            continue  # it was not decided then, or there would be no later look
        evidence = sample.evidence(k + 1)
        if k > kept:
            keeper.put(f"look-{k + 1}", evidence_files.to_bytes(evidence))
        if decided is None or decided(evidence):
            break
    return evidence


class _Sample:
    """What was seen so far, and what to see next."""

    def __init__(self, runner: Runner, bench: Bench, pool: ImagePool, looks: int) -> None:
        self._runner, self._bench, self._pool = runner, bench, pool
        self._seed = bench.section.seed
        self._clean: Cell | None = None
        self._logits: NDArray[np.float32] | None = None
        self._cells: dict[Key, Cell] = {}
        self._frame = self._draw = None
        if not pool.cells:
            self._drawn = Sample(seed=self._seed, looks=looks, rivals=bench.rivals)
        elif pool.margin and pool.reference is not None:
            self._frame = draw.frame_of(pool.reference, pool.cells)
            self._draw = draw.MarginDraw(self._frame, self._seed)
            self._drawn = Sample(
                design=SampleDesign.MARGIN, seed=self._seed, benchmark=pool.benchmark, looks=looks,
                frame_sha256=self._frame.sha256, cells=self._frame.keys, rivals=bench.rivals,
            )  # fmt: skip
        else:
            self._drawn = Sample(
                design=SampleDesign.CELL, seed=self._seed, benchmark=pool.benchmark, looks=looks, rivals=bench.rivals
            )

    def restore(self, evidence: Evidence) -> None:
        """Continue from the evidence of an earlier look."""
        self._clean, self._logits, self._cells = evidence.clean, evidence.logits, dict(evidence.cells)

    def evidence(self, look: int) -> Evidence:
        """Everything seen so far, as the evidence of a look, counted from 1."""
        if self._clean is None or self._logits is None:
            raise ValueError("grow first")
        provenance = self._runner.provenance(self._drawn.model_copy(update={"look": look}))
        return Evidence(self._clean, self._logits, provenance, dict(self._cells), self._bench.test.task)

    def grow(self, look: Look) -> None:
        """See what the look asks for beyond what was seen."""
        self._grow_clean(self._drawn_clean(look.clean))
        if self._draw is not None:
            while len(units := self._draw.ask(look.corrupted)):
                self._draw.tell(units, self._changed(units))
        elif self._pool.cells:
            names = tuple(dict.fromkeys(name for name, _ in self._pool.cells))
            severities = tuple(dict.fromkeys(severity for _, severity in self._pool.cells))
            per_cell = max(2, -(-look.corrupted // len(self._pool.cells)))
            self._see(
                robustness.plan_cells(
                    "quick", names, severities, len(self._bench.test), per_cell, self._seed, within=self._pool.cells
                )
            )

    def _drawn_clean(self, count: int) -> NDArray[np.int64]:
        """The first `count` clean images of the draw, of those that may be seen; a larger draw holds the smaller."""
        if self._bench.shown is None:
            return robustness.draw(len(self._bench.test), count, self._seed)
        within = {("", 0): self._bench.shown}
        return robustness.draw_within(("", 0), len(self._bench.test), count, self._seed, within)

    def _grow_clean(self, indices: NDArray[np.int64]) -> None:
        if self._clean is None or self._logits is None:
            self._clean, self._logits = self._runner.clean(indices)
            return
        more = np.setdiff1d(indices, self._clean.index)
        if len(more) == 0:
            return
        cell, logits = self._runner.clean(more)
        both = np.concatenate([self._clean.index, cell.index])
        self._logits = np.concatenate([self._logits, logits])[np.argsort(both, kind="stable")]
        self._clean = joined(self._clean, cell)

    def _see(self, wanted: Mapping[Key, NDArray[np.int64]]) -> None:
        """Measure those images of the cells that were not seen yet."""
        new = {key: _without(indices, self._cells.get(key)) for key, indices in wanted.items()}
        new = {key: indices for key, indices in new.items() if len(indices)}
        for key, cell in self._runner.corrupted(new).items():
            self._cells[key] = joined(self._cells[key], cell) if key in self._cells else cell

    def _changed(self, units: NDArray[np.int64]) -> NDArray[np.float64]:
        """Candidate right minus baseline right, of units of the frame."""
        frame, reference = self._frame, self._pool.reference
        if frame is None or reference is None:
            raise ValueError("a sample by margin has a frame")
        self._see(frame.requests(units))
        changes = np.empty(len(units))
        for c, key in enumerate(frame.keys):
            rows = np.flatnonzero(frame.cell[units] == c)
            if len(rows):
                index = frame.index[units[rows]]
                changes[rows] = _right(self._cells[key], index) - _right(reference.cells[key], index)
        return changes


def _without(indices: NDArray[np.int64], seen: Cell | None) -> NDArray[np.int64]:
    return indices if seen is None else np.setdiff1d(indices, seen.index)


def _right(cell: Cell, index: NDArray[np.int64]) -> NDArray[np.float64]:
    return rightness(take(cell, rows_of(cell, index)))
