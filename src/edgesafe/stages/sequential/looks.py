"""How large a sample is at each look, and what it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.inference import robustness
from edgesafe.measure.sampling import draw
from edgesafe.records import Evidence
from edgesafe.stages.observe import Bench

__all__ = ["ImagePool", "Look", "plan", "pool_of"]

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
        """Images that are run, clean and corrupted."""
        return self.clean + self.corrupted


def plan(bench: Bench, reference: Evidence | None, *, escalating: bool) -> tuple[Look, ...]:
    """The looks: how many images are seen at each.

    Args:
        bench: test images, budget.
        reference: evidence of the baseline that it is compared with.
        escalating: whether a policy may end it early.
    """
    section, n_test, units = bench.section, len(bench.clean), pool_of(bench, reference).units
    if not escalating:
        default = robustness.QUICK_PAIRED if reference is not None else units
        return (Look(n_test, min(section.budget or default, units)),)
    last = min(section.budget or ESCALATED, max(units, n_test))
    return tuple(Look(min(n_test, n), min(units, n)) for n in draw.looks(min(FIRST, last), last))


@dataclass(frozen=True)
class ImagePool:
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
        """How many corrupted images there are to draw from, over all cells."""
        return sum(len(indices) for indices in self.cells.values())


def pool_of(bench: Bench, reference: Evidence | None) -> ImagePool:
    """The pool of a file that is compared with `reference`, or of one alone."""
    if reference is None:
        return ImagePool(None, bench.cells, len(bench.clean), margin=False)
    cells = {key: reference.cells[key].index for key in bench.cells}
    largest = max((len(indices) for indices in cells.values()), default=0)
    drawn = reference.provenance.sample
    benchmark = drawn.benchmark if drawn is not None and drawn.benchmark is not None else largest
    enough = sum(len(indices) for indices in cells.values()) >= draw.LEAST_UNITS
    return ImagePool(reference, cells, benchmark, margin=bench.section.sampling == "margin" and enough)
