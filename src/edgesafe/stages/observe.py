"""Looking at an ONNX file: clean and corrupted images through onnxruntime, cell by cell, kept as it goes.

Shared by `edgesafe compress` and `edgesafe evaluate`; free of torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe import corruptions as corruption_package
from edgesafe import data
from edgesafe.corruptions import CorruptionSource
from edgesafe.data.rows import part
from edgesafe.errors import UsageError
from edgesafe.files import Keeper
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.cells import joined
from edgesafe.measure.inference import robustness
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.session import OnnxClassifier, require_provider
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import CORRUPTIONS, EvaluateSection, TargetSection
from edgesafe.records import (
    Cell,
    CorruptionIdentity,
    DataBundle,
    DataIdentity,
    Evidence,
    Host,
    ImageSet,
    Provenance,
    Sample,
    SampleDesign,
    Target,
    Task,
)
from edgesafe.stages.beside import mapped

__all__ = [
    "Bench",
    "clean",
    "collect",
    "collect_part",
    "corrupted",
    "identity",
    "png",
    "prepare",
    "provenance",
    "samples",
]

_KEPT = 8192  # images after which what was found is kept, so that a run that is killed loses no more
_PIECE_BYTES = 1 << 20  # of images that a thread makes and runs before it takes others; at least a batch
_PIECES = 4  # that every thread gets at least, if there are so many batches: threads end at nearly the same time
_AT_ONCE = 8  # batches at most that run beside each other: each takes memory of its own for what lies between layers
Cells = Mapping[tuple[str, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Bench:
    """What every file of a study is measured on: the same images, the same corrupted pixels."""

    test: ImageSet
    source: CorruptionSource | None
    cells: Cells  #: what a file sees by itself: (corruption, severity) -> positions in the test set
    section: EvaluateSection
    population: str  #: what the clean images stand for, in words
    target: Target
    host: Host
    sample: Sample | None = None  #: how `cells` were drawn; None: nothing was drawn at random
    threads: int = 0  #: that measuring may occupy, however many cores the host has; 0: all of them
    shown: NDArray[np.int64] | None = None  #: rising positions of the clean test images that may be seen; None: all
    rivals: int = 1  #: files that may be judged on these images, one after another, by a search

    @property
    def clean(self) -> NDArray[np.int64]:
        """Positions of the clean test images that a file is run on: int64, rising."""
        return np.arange(len(self.test), dtype=np.int64) if self.shown is None else self.shown

    @property
    def inferences(self) -> int:
        """How many images one file is run on: the clean test images, and those of all cells."""
        return len(self.clean) + sum(len(indices) for indices in self.cells.values())

    @property
    def corrupted(self) -> tuple[str, ...]:
        """The corruptions, in the order of their cells."""
        return tuple(dict.fromkeys(name for name, _ in self.cells))

    @property
    def cores(self) -> int:
        """How many threads measuring occupies. No number that is measured depends on it."""
        return self.threads or self.host.cores

    @property
    def at_once(self) -> int:
        """How many batches run beside each other: as many as divide the cores, up to 8. No number depends on it."""
        return next(count for count in range(min(self.cores, _AT_ONCE), 0, -1) if self.cores % count == 0)

    def open(self, onnx: bytes, spec: InputSpec | None = None) -> OnnxClassifier:
        """A file under onnxruntime, each batch on its share of the cores: logits do not depend on how many those are.

        Args:
            onnx: the file.
            spec: what a foreign file expects of its input; None: it is edgesafe's own.
        """
        threads = self.cores // self.at_once
        return OnnxClassifier(onnx, threads=threads, provider=self.target.provider, input_spec=spec)

    @property
    def corruptions(self) -> CorruptionIdentity | None:
        """What makes two evidences comparable, image by image; None: clean images only."""
        return self.source.identity if self.source is not None else None


def prepare(bundle: DataBundle, section: EvaluateSection, target: TargetSection, host: Host) -> Bench:
    """Open the corruption source and decide which test images each cell sees.

    Args:
        bundle: its test images, and its name.
        section: the recipe's [evaluate].
        target: the recipe's [target].
        host: this machine.

    Raises:
        DataError: the CIFAR-10-C directory or the frost photographs do not fit.
        UsageError: no such execution provider here; the images are too small for the corruptions, or these do not fit
            the task.
    """
    require_provider(target.provider, "target.provider")
    test = bundle.test
    population = f"{bundle.name} test set, {len(test):,} images"
    where = Target(name=target.name, threads=target.threads, provider=target.provider)
    if section.corruptions == "none":
        return Bench(test, None, {}, section, population, where, host)
    source = corruption_package.open_source(
        test.images,
        test.labels,
        corruptions=_still(section.corruptions, test.task),
        seed=section.seed,
        frost_dir=section.frost_dir,
        cache_dir=section.cache_dir,
        data_sha256=test.sha256,
    )
    per_cell = None if section.images_per_cell is None else min(section.images_per_cell, len(test))
    cells = robustness.plan_cells(section.mode, source.names, section.severities, len(test), per_cell, section.seed)
    drawn = Sample(design=SampleDesign.CELL, seed=section.seed, benchmark=len(test))
    sample = drawn if section.mode == "quick" else None
    return Bench(test, source, cells, section, population, where, host, sample)


def _still(asked: str | tuple[str, ...], task: Task) -> str | tuple[str, ...]:
    """The corruptions that are asked for, without those that make the labels of the task untrue.

    Raises:
        UsageError: one of those is asked for by name, or a directory of images of classes.
    """
    rules = rules_of(task)
    moving = rules.moving
    if not moving:
        return asked
    where = "evaluate.corruptions"
    if isinstance(asked, tuple):
        wrong = [name for name in asked if name in moving]
        if wrong:
            raise UsageError(f"{wrong[0]} {rules.untrue}", where=where, fix="leave it out")
        return asked
    if asked != "all":
        raise UsageError(f"{asked}: its images have classes, no {task.noun}", where=where, fix='use "all" or a list')
    return tuple(name for name in CORRUPTIONS if name not in moving)


def identity(bundle: DataBundle, section: EvaluateSection) -> DataIdentity:
    """The record of the data, with a note on the corruptions that its task leaves out of mPC."""
    known = data.identity(bundle)
    left = [name for name in CORRUPTIONS if name in rules_of(bundle.task).moving]
    if not left or section.corruptions != "all":
        return known
    note = f"mPC leaves out {', '.join(left)}: they move what is in the image, so its {bundle.task.noun} move, too"
    return known.model_copy(update={"notes": (*known.notes, note)})


def collect(classifier: OnnxClassifier, bench: Bench, keeper: Keeper, advance: Callable[[int], None]) -> Evidence:
    """Run one file over the whole bench; parts that the keeper has are not run again.

    Args:
        classifier: the open file.
        bench: what to run it on.
        keeper: keeps the clean cell and each corruption when it is done.
        advance: told the number of images done.
    """
    origin, task = provenance(classifier, bench, bench.sample), bench.test.task
    untouched, logits = _clean(classifier, bench, keeper)
    advance(len(untouched.index))
    seen: dict[tuple[str, int], Cell] = {}
    for name in bench.corrupted:
        seen.update(_corruption(classifier, bench, keeper, name, advance))
    return Evidence(untouched, logits, origin, seen, task)


def collect_part(classifier: OnnxClassifier, bench: Bench, keeper: Keeper, part: str) -> None:
    """Run one file over one part of the bench, which `collect` then finds with the keeper.

    Args:
        classifier: the open file.
        bench: what to run it on.
        keeper: keeps the part.
        part: "" for the clean images, or one of `bench.corrupted`.
    """
    if part:
        _corruption(classifier, bench, keeper, part, lambda _: None)
    else:
        _clean(classifier, bench, keeper)


def _corruption(
    classifier: OnnxClassifier, bench: Bench, keeper: Keeper, name: str, advance: Callable[[int], None]
) -> Mapping[tuple[str, int], Cell]:
    """All cells of one corruption. An evidence has clean images: that of a part has the first of them."""
    kept = keeper.get(f"cells-{name}")
    if kept is not None:
        found = evidence_files.from_bytes(kept).cells
        advance(sum(len(cell.index) for cell in found.values()))
        return found
    wanted = {key: indices for key, indices in bench.cells.items() if key[0] == name}
    first, logits = clean(classifier, bench, np.zeros(1, np.int64))
    origin, cells = provenance(classifier, bench, bench.sample), dict[tuple[str, int], Cell]()
    if sum(map(len, wanted.values())) <= _KEPT:
        cells.update(corrupted(classifier, bench, wanted, advance))
        wanted = {}
    for key, indices in wanted.items():  # too many to be lost when a run is killed: each cell is kept
        piece = keeper.get(f"cells-{name}-{key[1]}")
        if piece is not None:
            cells.update(evidence_files.from_bytes(piece).cells)
            advance(len(indices))
            continue
        made = corrupted(classifier, bench, {key: indices}, advance)
        evidence = Evidence(first, logits, origin, made, bench.test.task)
        keeper.put(f"cells-{name}-{key[1]}", evidence_files.to_bytes(evidence))
        cells.update(made)
    keeper.put(f"cells-{name}", evidence_files.to_bytes(Evidence(first, logits, origin, cells, bench.test.task)))
    return cells


def provenance(classifier: OnnxClassifier, bench: Bench, sample: Sample | None) -> Provenance:
    """Which file saw which pixels, and how they were drawn."""
    return Provenance(
        test_sha256=bench.test.sha256,
        onnx_sha256=classifier.sha256,
        provider=classifier.providers[0],
        corruptions=bench.corruptions,
        sample=sample,
    )


def _clean(classifier: OnnxClassifier, bench: Bench, keeper: Keeper) -> tuple[Cell, NDArray[np.float32]]:
    kept = keeper.get("clean")
    if kept is not None:
        evidence = evidence_files.from_bytes(kept)
        return evidence.clean, evidence.logits
    origin = provenance(classifier, bench, bench.sample)
    batch = classifier.batch or bench.section.batch_size
    step = batch * max(1, _KEPT // batch)  # whole batches, so that each is what it would be without parts
    pieces: list[tuple[Cell, NDArray[np.float32]]] = []
    for start in range(0, len(bench.clean), step):
        found = keeper.get(f"clean-{start}")
        if found is not None:
            evidence = evidence_files.from_bytes(found)
            pieces.append((evidence.clean, evidence.logits))
            continue
        pieces.append(clean(classifier, bench, bench.clean[start : start + step]))
        if len(bench.clean) > step:
            piece = Evidence(*pieces[-1], origin, task=bench.test.task)
            keeper.put(f"clean-{start}", evidence_files.to_bytes(piece))
    cell, logits = reduce(joined, (cell for cell, _ in pieces)), np.concatenate([logits for _, logits in pieces])
    keeper.put("clean", evidence_files.to_bytes(Evidence(cell, logits, origin, task=bench.test.task)))
    return cell, logits


def clean(classifier: OnnxClassifier, bench: Bench, indices: NDArray[np.int64]) -> tuple[Cell, NDArray[np.float32]]:
    """Some of the clean test images, and the logits."""
    images, labels = part(bench.test.images, indices), bench.test.labels[indices]

    def run(rows: slice) -> NDArray[np.float32]:
        return classifier.logits(images[rows], bench.section.batch_size)

    logits = np.concatenate(list(mapped(run, _pieces(classifier, bench, len(indices), len(indices)), bench.at_once)))
    return rules_of(bench.test.task).cell(logits, labels, indices, "", 0), logits


def corrupted(
    classifier: OnnxClassifier, bench: Bench, wanted: Cells, advance: Callable[[int], None]
) -> dict[tuple[str, int], Cell]:
    """Make and run the images of some corrupted cells, at most some megabytes of them in each thread.

    Every thread makes its images and runs them: no core waits for another, and cells do not wait for each other.
    """
    source = bench.source
    if source is None:
        raise ValueError("a bench with cells has a source")

    def run(piece: tuple[tuple[str, int], NDArray[np.int64]]) -> NDArray[np.float32]:
        cell, rows = piece
        return classifier.logits(source.cell(*cell, rows), bench.section.batch_size)

    total = sum(map(len, wanted.values()))
    pieces = [
        (key, rows[some]) for key, rows in wanted.items() for some in _pieces(classifier, bench, len(rows), total)
    ]
    found: dict[tuple[str, int], list[NDArray[np.float32]]] = {key: [] for key in wanted}
    cells: dict[tuple[str, int], Cell] = {}
    for (key, _), logits in zip(pieces, mapped(run, pieces, bench.at_once), strict=True):
        found[key].append(logits)
        indices = wanted[key]
        if sum(map(len, found[key])) == len(indices):
            outputs = np.concatenate(found.pop(key))
            cells[key] = rules_of(bench.test.task).cell(outputs, bench.test.labels[indices], indices, *key)
            advance(len(indices))
    return cells


def _pieces(classifier: OnnxClassifier, bench: Bench, count: int, total: int) -> list[slice]:
    """Ranges of so many images: whole batches, so that each run has the images that it would have without threads.

    Args:
        classifier: a batch size that the file fixes is kept.
        bench: says how large a batch is otherwise, and how many threads there are.
        count: images that are divided.
        total: all images of the cells that are run together: every thread gets some pieces of them.
    """
    batch = classifier.batch or bench.section.batch_size
    most = _PIECE_BYTES // (batch * int(np.prod(bench.test.images.shape[1:])))
    step = batch * max(1, min(most, total // (batch * bench.at_once * _PIECES)))
    return [slice(start, start + step) for start in range(0, max(1, count), step)]


def samples(bench: Bench) -> bytes | None:
    """A contact sheet (PNG) of the first test image under the bench's corruptions; None without generated ones."""
    generated = bench.section.corruptions != "none" and not str(bench.section.corruptions).startswith("dir:")
    if bench.source is None or not generated:
        return None
    sheet = corruption_package.contact_sheet(
        bench.test.images[0],
        seed=bench.section.seed,
        corruptions=bench.source.names,
        severities=bench.section.severities,
        frost_dir=bench.section.frost_dir,
    )
    return png(sheet)


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG of at most 256 colours: a third of the bytes, no visible difference."""
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
