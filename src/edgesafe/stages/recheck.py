"""A part of a variant's certificates run again on the target's device: the same images, the device's own outputs.

Of each set that was enumerated: the witnesses of the first falsified images, and every image of the set for the first
certified ones, as many as fit. What differs is recorded and said; it does not change the certificate, which names the
runtime that it holds for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates import archive
from edgesafe.certificates.ids import parse
from edgesafe.deploy.device.outputs import agreement, outputs_on_device
from edgesafe.errors import IntegrityError
from edgesafe.measure.inference.inputs import InputSpec, prepare, to_logits, whole_batches
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.progress import Progress
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import CertificateEngine, DeviceRecheck, ImageSet, SetCertificates, Standing
from edgesafe.study.study import MODEL
from edgesafe.study.writer import StudyWriter

__all__ = ["CERTIFIED", "FALSIFIED", "MOST_BYTES", "RecheckOrder", "recheck", "rechecked"]

FALSIFIED = 16  #: witnesses of a set that are run
CERTIFIED = 16  #: certified images of a set whose every image is run
MOST_BYTES = 4 << 20  #: pixels of a set that are sent; certified images whose images do not fit are left out

Outputs = Callable[[TargetSection, bytes, NDArray[np.generic]], NDArray[np.float32]]


@dataclass(frozen=True)
class RecheckOrder:
    """Whose certificates are run again, and where.

    Attributes:
        study: holds the variant's file, certificates and measurements, and is written to.
        variant: id; measured, and not yet finished.
        target: the device.
        test: the test images.
        progress: told what happens.
        spec: what the file expects of its input; None: it is edgesafe's own.
    """

    study: StudyWriter
    variant: str
    target: TargetSection
    test: ImageSet
    progress: Progress
    spec: InputSpec | None = None


def recheck(order: RecheckOrder) -> None:
    """Run a part of the certificates on the device and add what was found to the measurements.

    Nothing is done where the variant was not timed on a device, or was not certified.

    Raises:
        DeviceError: the device cannot be used.
        IntegrityError: the certificates are of other images or of other sets.
    """
    measured, content = order.study.measurements(order.variant), order.study.certificates_bytes(order.variant)
    if measured.device is None or order.target.ssh is None or content is None:
        return
    certificates = archive.from_bytes(content)
    if certificates.provenance.test_sha256 != order.test.sha256:
        raise IntegrityError("certificates of other test images", where=order.variant, fix="certify it again")
    file = OnnxClassifier(order.study.file_bytes(order.variant, MODEL), threads=1, input_spec=order.spec)
    enumerated = [one for one in certificates.sets if one.engine is CertificateEngine.ENUMERATION]
    found = [rechecked(one, order, file, outputs_on_device) for one in enumerated]
    told = measured.device.model_copy(update={"rechecks": tuple(found)})
    order.study.put_measurements(measured.model_copy(update={"device": told}))
    for one in found:
        said = f"differ on {len(one.differ)}" if one.differ else "the same verdicts"
        order.progress.note(
            f"  {one.set} on {order.target.name}: {one.falsified} witnesses and {one.certified} certified images, "
            f"{one.runs} runs: {said}"
        )


@dataclass(frozen=True)
class _Case:
    """An image, and those of its set that are run: one witness, or all of them."""

    row: int
    pixels: NDArray[np.uint8]  # (k, H, W, C)
    certified: bool


def rechecked(one: SetCertificates, order: RecheckOrder, file: OnnxClassifier, outputs: Outputs) -> DeviceRecheck:
    """One set on the device.

    Args:
        one: its certificates.
        order: target and test images.
        file: the variant's file, open here.
        outputs: runs a file on the target's device: images as it takes them, float32 (n, K).

    Raises:
        DeviceError: the device cannot be used.
        IntegrityError: the set of that id makes other images in this edgesafe.
    """
    cases = _cases(one, order.test)
    runs = sum(len(case.pixels) for case in cases)
    shown = order.test.images.shape[1:]
    pixels = np.concatenate([np.empty((0, *shown), np.uint8), *(case.pixels for case in cases)])
    if not runs:
        nothing = np.empty((0, 0), np.float32)
        return DeviceRecheck(
            set=one.id, certified=0, falsified=0, runs=0, differ=(), **dict(agreement(nothing, nothing))
        )
    whole = whole_batches(pixels, file.batch)
    theirs = outputs(order.target, order.study.file_bytes(order.variant, MODEL), prepare(whole, file.input_spec))[:runs]
    ours = file.scores(pixels, 1)
    rules = rules_of(order.test.task)
    logits = to_logits(theirs, file.input_spec)
    ends = accumulate((len(case.pixels) for case in cases), initial=0)
    differ = []
    for case, (start, end) in zip(cases, pairwise(ends), strict=True):
        label = order.test.labels[one.index[case.row]][None]
        right = rules.margins(logits[start:end], np.repeat(label, end - start, axis=0)) > 0.0
        if bool(right.all()) is not case.certified:
            differ.append(int(one.index[case.row]))
    return DeviceRecheck(
        set=one.id,
        certified=sum(case.certified for case in cases),
        falsified=sum(not case.certified for case in cases),
        runs=runs,
        differ=tuple(sorted(differ)),
        **dict(agreement(ours, theirs)),
    )


def _cases(one: SetCertificates, test: ImageSet) -> list[_Case]:
    """What is run of a set: the first witnesses, then whole sets of certified images, as many as fit."""
    finite = parse(one.id)
    if finite.sha256 != one.sha256:
        raise IntegrityError("makes other images than when it was certified", where=one.id, fix="certify it again")
    cases: list[_Case] = []
    room = MOST_BYTES
    for row in np.flatnonzero(one.standing == Standing.FALSIFIED)[:FALSIFIED].tolist():
        image = test.images[one.index[row] : one.index[row] + 1][0]
        if image.nbytes <= room:
            room -= image.nbytes
            cases.append(_Case(row, finite.image(image, int(one.witness[row]))[None], certified=False))
    taken = 0
    for row in np.flatnonzero(one.standing == Standing.CERTIFIED).tolist():
        image = test.images[one.index[row] : one.index[row] + 1][0]
        needed = int(one.members[row]) * image.nbytes
        if taken == CERTIFIED or needed > room:
            break
        members = finite.members(image)
        cases.append(_Case(row, members.make(np.arange(len(members))), certified=True))
        room, taken = room - needed, taken + 1
    return cases
