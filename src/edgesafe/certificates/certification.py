"""One file certified under a set: in chunks, on several threads, kept as they finish, the same whatever their number.

onnxruntime computes without Python's lock, so threads that share a session scale like processes, without copying images
and without starting interpreters from inside a library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates import archive
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.errors import IntegrityError, NothingEvaluated
from edgesafe.files import Keeper
from edgesafe.measure.inference.classifier import Classifier
from edgesafe.measure.tasks import rules_of
from edgesafe.records.certificates import (
    CertificateProvenance,
    Certificates,
    SetCertificates,
    Standing,
    Witnesses,
)

__all__ = ["Work", "certify_set"]

_CHUNK_MEMBERS = 20_000  # some 20 s of a small network: no more is lost when a run is killed
_CHUNK_IMAGES = 512
_SHOWN = 4  # witnesses of a set that are kept as pixels
_JOINED = (
    "index", "label", "prediction", "standing", "margin", "distance", "witness", "members", "ran", "agrees",
    "answer_count", "answers",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What all sets of a file share.

    Attributes:
        classifier: the open file, on one thread.
        images: what is certified.
        provenance: of file, images and runtime.
        keeper: keeps chunks.
        advance: told the number of images done.
        workers: threads; 0: one per core.
    """

    classifier: Classifier
    images: Images
    provenance: CertificateProvenance
    keeper: Keeper
    advance: Callable[[int], None]
    workers: int = 0


def certify_set(work: Work, plan: SetPlan) -> SetCertificates:
    """Every image under one set.

    Raises:
        NothingEvaluated: no images.
        IntegrityError: the baseline's certificates are of another set, of other images, or not complete.
        RefusedError: the file answers an image alone otherwise than in a batch.
    """
    images, baseline = work.images, plan.baseline
    if len(images) == 0:
        raise NothingEvaluated("no images", where=plan.finite.id, fix="certify at least one image")
    if baseline is not None and baseline.sha256 != plan.finite.sha256:
        raise IntegrityError("the baseline was certified for another set", where=plan.finite.id, fix="certify it again")
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_MEMBERS // plan.finite.size(images.pixels.shape[1:])))
    parts = [slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]
    finished: dict[int, SetCertificates] = {}
    todo: list[slice] = []
    for part in parts:
        kept = work.keeper.get(_name(plan, part))
        if kept is None:
            todo.append(part)
        else:
            finished[part.start] = archive.from_bytes(kept).sets[0]
            work.advance(part.stop - part.start)

    def enumerate_part(part: slice) -> SetCertificates:
        return enumerate_chunk(work.classifier, images.part(part), plan)

    def keep(part: slice, result: SetCertificates) -> None:
        work.keeper.put(_name(plan, part), archive.to_bytes(Certificates((result,), work.provenance)))
        finished[part.start] = result
        work.advance(part.stop - part.start)

    _run(todo, enumerate_part, keep, work.workers or len(os.sched_getaffinity(0)))
    whole = _join([finished[part.start] for part in parts])
    return replace(whole, witnesses=_shown(work, plan, whole))


def _name(plan: SetPlan, part: slice) -> str:
    return f"{plan.finite.sha256[7:23]}-{part.start}"


def _run(
    parts: Sequence[slice],
    work: Callable[[slice], SetCertificates],
    done: Callable[[slice, SetCertificates], None],
    workers: int,
) -> None:
    """Work on parts with some threads; `done` is called in this thread as they finish.

    At the first error, and when interrupted, parts that have not begun are given up.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures: dict[Future[SetCertificates], slice] = {pool.submit(work, part): part for part in parts}
        try:
            while futures:
                ended = wait(futures, return_when=FIRST_COMPLETED).done
                for future in sorted(ended, key=lambda one: one.exception() is not None):  # what is done is kept first
                    done(futures.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _join(parts: Sequence[SetCertificates]) -> SetCertificates:
    columns: dict[str, NDArray[np.generic]] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _JOINED
    }
    return replace(parts[0], **columns)  # type: ignore[arg-type]


def _shown(work: Work, plan: SetPlan, whole: SetCertificates) -> Witnesses:
    """The witnesses nearest to the untouched image, as pixels."""
    falsified = np.flatnonzero(whole.standing == Standing.FALSIFIED)
    rows = falsified[np.lexsort((whole.margin[falsified], whole.distance[falsified]))][:_SHOWN]
    clean = work.images.pixels[rows]
    numbers = whole.witness[rows].tolist()
    changed = [plan.finite.image(image, number) for image, number in zip(clean, numbers, strict=True)]
    rules, labels = rules_of(work.images.task), work.images.labels
    answers = [
        rules.answers(work.classifier.logits(image[None], 1), labels[row : row + 1])
        for row, image in zip(rows.tolist(), changed, strict=True)
    ]
    return Witnesses(
        row=rows,
        clean=clean,
        changed=np.stack(changed) if changed else clean,
        prediction=np.concatenate([np.empty(0, np.int64), *answers]),
        text=tuple(plan.finite.describe(number, clean.shape[1:]) for number in numbers),
    )
