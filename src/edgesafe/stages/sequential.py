"""Quick evaluation: a variant is measured on a sample of what its baseline saw, which grows until a policy is decided.

Without a policy there is one look, of the whole budget. With one, the sample doubles from look to look; after each, the
gate decides from the evidence so far, exactly as `edgesafe gate` would. Because several looks are several chances to be
wrong, every bound is held at 1 - (1 - confidence) / looks (Bonferroni), which the evidence records, so that the gate
decides the same later. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
from edgesafe.stages.observe import Bench, Keeper

__all__ = ["Look", "ModelRunner", "Pool", "Runner", "StoredRunner", "collect", "plan", "pool_of"]

FIRST = 1_200  #: images of the first look: the pilot of 900, and some
ESCALATED = 19_200  #: budget with a policy: an mPC difference within about ±0.15 pp if few answers change

Key = tuple[str, int]


@dataclass(frozen=True)
class Look:
    """How many images have been seen when the gate looks: clean ones, and over all corrupted cells."""

    clean: int
    corrupted: int

    @property
    def inferences(self) -> int:
        """Both."""
        return self.clean + self.corrupted


class Runner(Protocol):
    """Runs images through the file. `ModelRunner` is the real one; a benchmark replays stored evidence."""

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """Clean test images and their logits."""
        ...

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """Corrupted images."""
        ...

    def provenance(self, sample: Sample) -> Provenance:
        """Of evidence from these runs."""
        ...


@dataclass(frozen=True)
class ModelRunner:
    """A file under onnxruntime."""

    classifier: OnnxClassifier
    bench: Bench
    advance: Callable[[int], None]

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """Clean test images and their logits."""
        found = observe.clean(self.classifier, self.bench, indices)
        self.advance(len(indices))
        return found

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """Corrupted images."""
        return observe.corrupted(self.classifier, self.bench, wanted, self.advance)

    def provenance(self, sample: Sample) -> Provenance:
        """Of evidence from these runs."""
        return observe.provenance(self.classifier, self.bench, sample)


@dataclass(frozen=True)
class StoredRunner:
    """Evidence of a full evaluation in place of the file: what would a sample have said? For tests and benchmarks."""

    full: Evidence

    def clean(self, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
        """Clean test images and their logits."""
        rows = rows_of(self.full.clean, indices)
        return take(self.full.clean, rows), self.full.logits[rows]

    def corrupted(self, wanted: Mapping[Key, NDArray[np.int64]]) -> Mapping[Key, Cell]:
        """Corrupted images."""
        cells = self.full.cells
        return {key: take(cells[key], rows_of(cells[key], indices)) for key, indices in wanted.items()}

    def provenance(self, sample: Sample) -> Provenance:
        """Of evidence from these runs."""
        return self.full.provenance.model_copy(update={"sample": sample})


def plan(bench: Bench, reference: Evidence | None, *, escalating: bool) -> tuple[Look, ...]:
    """The looks: how many images are seen at each.

    Args:
        bench: test images, budget.
        reference: evidence of the baseline that it is compared with.
        escalating: whether a policy may end it early.
    """
    section, n_test, units = bench.section, len(bench.test), pool_of(bench, reference).units
    if not escalating:
        default = robustness.QUICK_PAIRED if reference is not None else units
        return (Look(n_test, min(section.budget or default, units)),)
    last = min(section.budget or ESCALATED, max(units, n_test))
    return tuple(Look(min(n_test, n), min(units, n)) for n in draw.looks(min(FIRST, last), last))


@dataclass(frozen=True)
class Pool:
    """What a sample is drawn from: the cells that the baseline saw, or those of the bench.

    Attributes:
        reference: the baseline's evidence, or None.
        cells: int64 positions in the test set, per (corruption, severity).
        benchmark: images that each of these cells was itself drawn from.
        margin: draw in strata of the baseline's margin.
    """

    reference: Evidence | None
    cells: Mapping[Key, NDArray[np.int64]]
    benchmark: int
    margin: bool

    @property
    def units(self) -> int:
        """Corrupted images that there are."""
        return sum(len(indices) for indices in self.cells.values())


def pool_of(bench: Bench, reference: Evidence | None) -> Pool:
    """The pool of a file that is compared with `reference`, or of one alone."""
    if reference is None:
        return Pool(None, bench.cells, len(bench.test), margin=False)
    cells = {key: reference.cells[key].index for key in bench.cells}
    largest = max((len(indices) for indices in cells.values()), default=0)
    drawn = reference.provenance.sample
    benchmark = drawn.benchmark if drawn is not None and drawn.benchmark is not None else largest
    enough = sum(len(indices) for indices in cells.values()) >= draw.LEAST_UNITS
    return Pool(reference, cells, benchmark, margin=bench.section.sampling == "margin" and enough)


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

    def __init__(self, runner: Runner, bench: Bench, pool: Pool, looks: int) -> None:
        self._runner, self._bench, self._pool = runner, bench, pool
        self._seed = bench.section.seed
        self._clean: Cell | None = None
        self._logits: NDArray[np.float32] | None = None
        self._cells: dict[Key, Cell] = {}
        self._frame = self._draw = None
        if not pool.cells:
            self._drawn = Sample(seed=self._seed, looks=looks)
        elif pool.margin and pool.reference is not None:
            self._frame = draw.frame_of(pool.reference, pool.cells)
            self._draw = draw.MarginDraw(self._frame, self._seed)
            self._drawn = Sample(
                design=SampleDesign.MARGIN, seed=self._seed, benchmark=pool.benchmark, looks=looks,
                frame_sha256=self._frame.sha256, cells=self._frame.keys,
            )  # fmt: skip
        else:
            self._drawn = Sample(design=SampleDesign.CELL, seed=self._seed, benchmark=pool.benchmark, looks=looks)

    def restore(self, evidence: Evidence) -> None:
        """Begin with what was measured before."""
        self._clean, self._logits, self._cells = evidence.clean, evidence.logits, dict(evidence.cells)

    def evidence(self, look: int) -> Evidence:
        """Everything seen so far."""
        if self._clean is None or self._logits is None:
            raise ValueError("grow first")
        provenance = self._runner.provenance(self._drawn.model_copy(update={"look": look}))
        return Evidence(self._clean, self._logits, provenance, dict(self._cells))

    def grow(self, look: Look) -> None:
        """See what the look asks for beyond what was seen."""
        self._grow_clean(robustness.draw(len(self._bench.test), look.clean, self._seed))
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
        found = np.empty(len(units))
        for c, key in enumerate(frame.keys):
            rows = np.flatnonzero(frame.cell[units] == c)
            if len(rows):
                index = frame.index[units[rows]]
                found[rows] = _right(self._cells[key], index) - _right(reference.cells[key], index)
        return found


def _without(indices: NDArray[np.int64], seen: Cell | None) -> NDArray[np.int64]:
    return indices if seen is None else np.setdiff1d(indices, seen.index)


def _right(cell: Cell, index: NDArray[np.int64]) -> NDArray[np.float64]:
    return rightness(take(cell, rows_of(cell, index)))
