"""How many images fit into a time: evaluate.hours turned into images of each cell, and a budget of compared files.

All sizes grow together, from a first look (`FIRST`) to every test image in every cell: a file that is measured by
itself sees `QUICK_ALONE` corrupted images where one that is compared with it sees `QUICK_PAIRED`, which give intervals
of one width (decision 053). Nothing is timed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgesafe.errors import UsageError
from edgesafe.measure.inference import robustness
from edgesafe.measure.inference.robustness import QUICK_ALONE, QUICK_PAIRED
from edgesafe.progress import Progress, clock
from edgesafe.records import SampleSize
from edgesafe.stages.observe import Bench
from edgesafe.stages.sequential.looks import FIRST
from edgesafe.study.writer import StudyWriter

__all__ = ["FileCost", "Work", "choose", "fitted", "in_words", "sized"]

_Z = 1.959964  # of a 95 % interval
_CHANGED = 0.06  # of the images, on which right or wrong changes
_STEPS = 60  # of the bisection: far below one image
_LEAST = FIRST / QUICK_PAIRED  # of the usual sizes


@dataclass(frozen=True)
class FileCost:
    """What one file costs.

    Attributes:
        inference_s: seconds of one image, on all cores.
        alone: whether it is measured by itself; else on a sample of what its baseline saw.
        fixed: images that it is run on whatever is chosen: clean ones, and those of certificates.
    """

    inference_s: float
    alone: bool
    fixed: int


@dataclass(frozen=True)
class Work:
    """What is to be measured.

    Attributes:
        files: at least one.
        corruption_s: seconds to make one corrupted image.
        clean: test images.
        cells: corruptions times severities.
        per_cell: images of a cell at most.
        compared: corrupted images of a compared file at most.
        cpu: of this machine.
    """

    files: Sequence[FileCost]
    corruption_s: float
    clean: int
    cells: int
    per_cell: int
    compared: int
    cpu: str

    def units(self, share: float) -> tuple[int, int]:
        """Images of a cell for a file by itself, and of all cells for one that is compared, at a share of the usual."""
        per_cell = min(self.per_cell, max(2, math.floor(share * QUICK_ALONE / self.cells)))
        return per_cell, min(self.compared, max(2, math.floor(share * QUICK_PAIRED)))

    def seconds(self, share: float) -> float:
        """What measuring and certifying takes at a share of the usual sizes."""
        per_cell, compared = self.units(share)
        return sum(
            file.fixed * file.inference_s
            + (per_cell * self.cells if file.alone else compared) * (file.inference_s + self.corruption_s)
            for file in self.files
        )


def choose(hours: float, work: Work) -> SampleSize:
    """The largest sizes that fit.

    Args:
        hours: > 0, for measuring and certifying all files.
        work: what is to be measured, and what it costs.

    Raises:
        UsageError: not even a first look fits; says what would.
    """
    least, most = _LEAST, max(_LEAST, work.cells * work.per_cell / QUICK_PAIRED)
    if work.seconds(least) > hours * 3600:
        need = math.ceil(work.seconds(least) / 36) / 100
        images = "clean images, certificates and a first look at corrupted ones"
        raise UsageError(
            f"{hours:g} h do not hold {images}, which take about {clock(work.seconds(least))}", where="evaluate.hours",
            fix=f"give at least {need:g}, fewer test images or variants, or smaller sets of certificates",
        )  # fmt: skip
    if work.seconds(most) <= hours * 3600:
        least = most
    for _ in range(_STEPS):
        middle = (least + most) / 2
        least, most = (middle, most) if work.seconds(middle) <= hours * 3600 else (least, middle)
    return _size(hours, work, least)


def _size(hours: float, work: Work, share: float) -> SampleSize:
    per_cell, compared = work.units(share)
    alone, paired = any(file.alone for file in work.files), any(not file.alone for file in work.files)
    return SampleSize(
        hours=hours,
        images_per_cell=per_cell if alone else None,
        budget=compared if paired else None,
        seconds=work.seconds(share),
        corruption_s=work.corruption_s,
        inference_s=max(file.inference_s for file in work.files),
        host=work.cpu,
        accuracy=_half_width(0.25, work.clean),
        mpc=_half_width(0.25, per_cell * work.cells) if alone else None,
        difference=_half_width(_CHANGED, compared) if paired else None,
    )


def _half_width(variance: float, n: int) -> float:
    return _Z * math.sqrt(variance / n)


def fitted(
    hours: float | None, bench: Bench, study: StudyWriter, progress: Progress, work: Callable[[], Work]
) -> Bench:
    """The bench with as many images as evaluate.hours holds; as it is, where that is not given.

    What was chosen is written down in the study, and taken from there when it is gone on with.

    Args:
        hours: evaluate.hours.
        bench: what files are measured on.
        study: written to.
        progress: told what was chosen.
        work: what is to be measured, timed when it is called: only where nothing was chosen before.

    Raises:
        UsageError: not even a first look fits; or what `work` raises.
    """
    if hours is None:
        return bench
    size = study.record.sample_size
    if size is None:
        size = choose(hours, work())
        study.put_sample_size(size)
    progress.note(in_words(size))
    return sized(bench, size)


def sized(bench: Bench, size: SampleSize) -> Bench:
    """The bench with the numbers of images that were chosen for evaluate.hours."""
    given = {"images_per_cell": size.images_per_cell, "budget": size.budget}
    section = bench.section.model_copy(update={key: n for key, n in given.items() if n is not None})
    if bench.source is None or size.images_per_cell is None:
        return replace(bench, section=section)
    cells = robustness.plan_cells(
        section.mode, bench.source.names, section.severities, len(bench.test), size.images_per_cell, section.seed
    )
    return replace(bench, section=section, cells=cells)


def in_words(size: SampleSize) -> str:
    """What was chosen, and what to expect of it, in one line."""
    chosen = [] if size.images_per_cell is None else [f"{size.images_per_cell:,} images of each cell"]
    chosen += [] if size.budget is None else [f"{size.budget:,} corrupted images of each file that is compared"]
    widths = {"accuracy": size.accuracy, "mPC": size.mpc, "a difference of mPC": size.difference}
    expected = [f"{name} within ±{100 * half:.2g} pp" for name, half in widths.items() if half is not None]
    changed = f" (if up to {_CHANGED:.0%} of the answers change)" if size.difference is not None else ""
    return (
        f"evaluate.hours = {size.hours:g}: {' and '.join(chosen)}, about {clock(size.seconds)} of measuring and "
        f"certifying; expect {', '.join(expected)}{changed}, at 95 %"
    )
