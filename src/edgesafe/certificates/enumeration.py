"""Every image of a finite set through an ONNX file: complete and exact, under the runtime that ships.

Images go in chunks. Within a chunk, members of all undecided images are run in waves that grow, so that batches are
full although each image makes only a few members and stops at its first violation. Order within an image: by rising
distance (outwards), or extremes first, then coarse to fine. Chunks do not depend on each other: see `certification`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe import records
from edgesafe.certificates.sets import FiniteSet, Members
from edgesafe.errors import IntegrityError, RefusedError
from edgesafe.measure.inference.classifier import Classifier
from edgesafe.measure.tasks import Rules, rules_of
from edgesafe.records import Task
from edgesafe.records.certificates import CertificateEngine, SetCertificates, Standing, Witnesses

__all__ = ["Images", "SetPlan", "enumerate_chunk", "visiting_order"]

_FIRST_WAVE, _GROWTH, _LARGEST_WAVE = 8, 4, 512  # members of an image per wave


@dataclass(frozen=True)
class Images:
    """What is certified: images, labels, and their positions in the test set.

    Attributes:
        pixels: uint8 (n, H, W, C), an array, or a set that gives rows when it is asked.
        labels: of the task, one for each image.
        index: int64 (n,), rising.
        task: what is asked of the file.
    """

    pixels: records.Images
    labels: NDArray[Any]
    index: NDArray[np.int64]
    task: Task = field(default_factory=Task)

    def part(self, rows: slice | NDArray[np.int64]) -> Images:
        """The images of some rows, rising, with their labels and positions."""
        return Images(self.pixels[rows], self.labels[rows], self.index[rows], self.task)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SetPlan:
    """How a set is run.

    Attributes:
        finite: the set.
        outwards: by rising distance: gives each image's radius; else what is likeliest to fail comes first.
        complete: run every member of every image, also after a violation: others will be compared with the answers.
        baseline: certificates of the baseline, complete, on the same images: the answers are compared; None: not.
        batch_size: images per run.
    """

    finite: FiniteSet
    outwards: bool = True
    complete: bool = False
    baseline: SetCertificates | None = None
    batch_size: int = 64


@dataclass
class _Rows:
    """Columns of `SetCertificates` while images are run: one row per image of the chunk."""

    prediction: NDArray[np.int64]
    standing: NDArray[np.uint8]
    margin: NDArray[np.float64]
    distance: NDArray[np.float64]
    witness: NDArray[np.int64]
    members: NDArray[np.int64]
    ran: NDArray[np.int64]
    agrees: NDArray[np.int8]
    answers: list[NDArray[np.int64]]  # per image: to every member, if they were all run and differ; else empty

    def frozen(self, images: Images, plan: SetPlan) -> SetCertificates:
        """The record; witnesses are not kept as pixels yet."""
        finite, shape = plan.finite, images.pixels.shape[1:]
        none = np.empty(0, np.int64)
        return SetCertificates(
            id=finite.id, sha256=finite.sha256, unit=finite.unit, reach=finite.reach(shape),
            engine=CertificateEngine.ENUMERATION,
            outwards=plan.outwards, complete=plan.complete, index=images.index,
            label=rules_of(images.task).right_answers(images.labels),
            prediction=self.prediction, standing=self.standing, margin=self.margin, distance=self.distance,
            witness=self.witness, members=self.members, ran=self.ran, agrees=self.agrees,
            answer_count=np.array([len(answers) for answers in self.answers], np.int64),
            answers=np.concatenate([*self.answers, none]),
            witnesses=Witnesses(none, np.empty((0, *shape), np.uint8), np.empty((0, *shape), np.uint8), none, ()),
        )  # fmt: skip


def visiting_order(members: Members, outwards: bool) -> NDArray[np.int64]:
    """Positions of the members in the order they are run, without the untouched image, which is run before.

    Outwards: by rising distance. Else: the first and the last, then the middle, the quarters, and so on.
    """
    n = len(members)
    position = np.arange(n)
    if outwards:
        order = np.argsort(members.distance, kind="stable")
    else:
        coarse = position & -position  # the largest power of two that divides the position
        coarse[[0, n - 1]] = 1 << 62
        order = np.argsort(-coarse, kind="stable")
    kept: NDArray[np.int64] = order[order != members.clean]
    return kept


@dataclass
class _Walk:
    """One image on its way through the members of its set."""

    row: int
    label: NDArray[Any]  # (1, …): the image's own
    members: Members
    order: NDArray[np.int64]
    done: int = 0
    wrong: bool = False  # a wrong answer was seen
    reference: NDArray[np.int64] | None = None  # the baseline's answer to every member
    answers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # -1: not run

    def agreeing(self) -> bool:
        """Whether a disagreement with the baseline is still to be looked for."""
        if self.reference is None:
            return False
        seen = self.answers >= 0
        return bool((self.answers[seen] == self.reference[seen]).all())

    def live(self, complete: bool) -> bool:
        """Whether running another member could still change what is known of the image."""
        return self.done < len(self.order) and (complete or not self.wrong or self.agreeing())


def enumerate_chunk(classifier: Classifier, images: Images, plan: SetPlan) -> SetCertificates:
    """Decide some images under one set.

    Args:
        classifier: the open file.
        images: some.
        plan: the set, and how it is run.

    Raises:
        IntegrityError: the baseline's certificates are of another set, of other images, or not complete.
        RefusedError: the file answers an image alone otherwise than in a batch.
    """
    n, shape = len(images), images.pixels.shape[1:]
    rules = rules_of(images.task)
    logits = classifier.logits(images.pixels, plan.batch_size)
    prediction = rules.answers(logits, images.labels)
    margin = rules.margins(logits, images.labels)
    rows = _Rows(
        prediction=prediction, standing=np.zeros(n, np.uint8), margin=margin,
        distance=np.full(n, plan.finite.reach(shape)), witness=np.full(n, -1, np.int64),
        members=np.zeros(n, np.int64), ran=np.ones(n, np.int64), agrees=np.full(n, -1, np.int8),
        answers=[np.empty(0, np.int64)] * n,
    )  # fmt: skip
    clean_wrong = margin <= 0.0
    walks = []
    for row in range(n):
        members = plan.finite.members(images.pixels[row])
        rows.members[row] = len(members)
        walk = _Walk(row, images.labels[row : row + 1], members, visiting_order(members, plan.outwards))
        walk.wrong = bool(clean_wrong[row])
        walk.answers = np.full(len(members), -1, np.int64)
        if members.clean >= 0:
            walk.answers[members.clean] = prediction[row]
        walks.append(walk)
    if plan.baseline is not None:
        _meet(walks, images, plan.baseline, prediction, rows)
    size = _FIRST_WAVE
    while live := [walk for walk in walks if walk.live(plan.complete)]:
        _wave(classifier, rules, live, size, plan, rows)
        size = min(size * _GROWTH, _LARGEST_WAVE)
    for walk in walks:
        _close(walk, rows, plan)
    rows.standing[:] = np.where(rows.witness >= 0, Standing.FALSIFIED, Standing.CERTIFIED)
    rows.standing[clean_wrong] = Standing.WRONG
    rows.witness[clean_wrong] = -1
    rows.distance[clean_wrong] = plan.finite.reach(shape)
    _replay(classifier, images, plan.finite, rows)
    return rows.frozen(images, plan)


def _meet(
    walks: list[_Walk], images: Images, baseline: SetCertificates, prediction: NDArray[np.int64], rows: _Rows
) -> None:
    """Give each walk the baseline's answers to compare with; images answered differently when untouched do not agree.

    Raises:
        IntegrityError: the baseline's certificates are of other images, or not complete.
    """
    at = np.searchsorted(baseline.index, images.index)
    known = at < len(baseline.index)
    if not known.all() or (baseline.index[at] != images.index).any() or not baseline.complete:
        raise IntegrityError(
            "the baseline was not run on every image", where=baseline.id, fix="certify the baseline first, completely"
        )
    starts = np.concatenate([[0], np.cumsum(baseline.answer_count)])
    for walk, row in zip(walks, at.tolist(), strict=True):
        if baseline.members[row] != len(walk.members):
            raise IntegrityError("the baseline saw other images", where=baseline.id, fix="use the same data")
        own = baseline.answers[starts[row] : starts[row + 1]]
        walk.reference = own if len(own) else np.full(len(walk.members), baseline.prediction[row])
        if prediction[walk.row] != baseline.prediction[row]:
            walk.reference = None  # they differ on the untouched image already
            rows.agrees[walk.row] = 0


def _wave(classifier: Classifier, rules: Rules, live: list[_Walk], size: int, plan: SetPlan, rows: _Rows) -> None:
    """Run the next `size` members of each live image, in full batches."""
    jobs = [(walk, walk.order[walk.done : walk.done + size]) for walk in live]
    for walk, positions in jobs:
        walk.done += len(positions)
    for batch in _batches(jobs, plan.batch_size):
        pixels = np.concatenate([walk.members.make(positions) for walk, positions in batch])
        labels = np.concatenate([np.repeat(walk.label, len(positions), axis=0) for walk, positions in batch])
        logits = classifier.logits(pixels, plan.batch_size)
        least, answers = rules.margins(logits, labels), rules.answers(logits, labels)
        start = 0
        for walk, positions in batch:
            part = slice(start, start + len(positions))
            start += len(positions)
            walk.answers[positions] = answers[part]
            _take(walk, positions, least[part], rows)


def _batches(jobs: list[tuple[_Walk, NDArray[np.int64]]], size: int) -> Iterator[list[tuple[_Walk, NDArray[np.int64]]]]:
    """The same jobs, cut and joined so that each list holds `size` members."""
    batch: list[tuple[_Walk, NDArray[np.int64]]] = []
    room = size
    for walk, positions in jobs:
        rest = positions
        while len(rest):
            batch.append((walk, rest[:room]))
            room -= len(batch[-1][1])
            rest = rest[len(batch[-1][1]) :]
            if room == 0:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def _take(walk: _Walk, positions: NDArray[np.int64], least: NDArray[np.float64], rows: _Rows) -> None:
    """Note what some members showed: the least margin, and the nearest violation (of equally near ones, the worst)."""
    row = walk.row
    rows.ran[row] += len(positions)
    rows.margin[row] = min(rows.margin[row], float(least.min()))
    bad = np.flatnonzero(least <= 0.0)
    if not len(bad):
        return
    distance = walk.members.distance[positions[bad]]
    best = bad[np.lexsort((least[bad], distance))[0]]
    nearest = float(walk.members.distance[positions[best]])
    if rows.witness[row] < 0 or nearest < rows.distance[row]:
        rows.witness[row] = walk.members.number[positions[best]]
        rows.distance[row] = nearest
    walk.wrong = True


def _close(walk: _Walk, rows: _Rows, plan: SetPlan) -> None:
    """Agreement, and the answers if all were run and are not all the untouched image's."""
    if walk.reference is not None:
        rows.agrees[walk.row] = walk.agreeing()
    if plan.complete and (walk.answers != rows.prediction[walk.row]).any():
        rows.answers[walk.row] = walk.answers


def _replay(classifier: Classifier, images: Images, finite: FiniteSet, rows: _Rows) -> None:
    """Run every witness again, made anew and alone, because a certificate must not depend on the batch.

    Raises:
        RefusedError: a witness is answered rightly when it is run alone.
    """
    for row in np.flatnonzero(rows.witness >= 0).tolist():
        image = finite.image(images.pixels[row], int(rows.witness[row]))
        logits = classifier.logits(image[None], 1)
        margin = float(rules_of(images.task).margins(logits, images.labels[row : row + 1])[0])
        if margin > 0.0:
            raise RefusedError(
                f"the witness of image {int(images.index[row])} is answered rightly when it is run alone",
                where=finite.id, fix="export a file whose answers do not depend on the batch",
            )  # fmt: skip
