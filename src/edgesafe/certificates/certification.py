"""One file certified under a set: in chunks, on several threads, kept as they finish, the same whatever their number.

onnxruntime computes without Python's lock, so threads that share a session scale like processes, without copying images
and without starting interpreters from inside a library.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates import archive
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.sets import KEEP_BYTES, FiniteSet
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

__all__ = ["Work", "certify_set", "certify_some", "shards"]

_CHUNK_MEMBERS = 20_000  # some 20 s of a small network: no more is lost when a run is killed
_CHUNK_IMAGES = 512
_CHUNK_BYTES = 256 << 20  # of a thread: images of a set that are held at a time
_SHOWN = 4  # witnesses of a set that are kept as pixels
_ROWS = (
    "index", "label", "prediction", "standing", "margin", "distance", "witness", "members", "ran", "agrees",
    "answer_count",
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
        groups: rows of the images, in the order in which a growing sample drew them: chunks of an earlier look are
            found again at a later one; empty: all are one group.
    """

    classifier: Classifier
    images: Images
    provenance: CertificateProvenance
    keeper: Keeper
    advance: Callable[[int], None]
    workers: int = 0
    groups: tuple[NDArray[np.int64], ...] = ()


def certify_set(work: Work, plan: SetPlan) -> SetCertificates:
    """Every image under one set.

    Raises:
        NothingEvaluated: no images.
        IntegrityError: the baseline's certificates are of another set, of other images, or not complete.
        RefusedError: the file answers an image alone otherwise than in a batch.
    """
    whole = _join(_certified(work, plan, _chunks(work, plan)))
    return replace(whole, witnesses=_shown(work, plan, whole))


def certify_some(work: Work, plan: SetPlan, number: int, of: int) -> None:
    """Certify a share of the chunks of images and keep them, so that `certify_set` finds them.

    Args:
        work: with a keeper.
        plan: as `certify_set` will be given it.
        number: of the share, from 1.
        of: how many shares there are.

    Raises:
        NothingEvaluated, IntegrityError, RefusedError: as `certify_set`.
    """
    _certified(work, plan, dict(list(_chunks(work, plan).items())[number - 1 :: of]))


def shards(images: int, shape: tuple[int, int, int], finite: FiniteSet) -> int:
    """How many shares of a set are worth a worker each: at least 1, and no more than there are chunks.

    Args:
        images: how many are certified.
        shape: of an image, (H, W, C).
        finite: the set.
    """
    chunks = -(-images // _chunk_of(finite, shape))
    return max(1, min(chunks, -(-images * finite.size(shape) // _CHUNK_MEMBERS)))


def _chunk_of(finite: FiniteSet, shape: tuple[int, int, int]) -> int:
    """How many images of a shape are a chunk."""
    size = finite.size(shape)
    held = min(size * math.prod(shape), KEEP_BYTES)
    return max(1, min(_CHUNK_IMAGES, _CHUNK_MEMBERS // size, _CHUNK_BYTES // held))


def _certified(work: Work, plan: SetPlan, chunks: Mapping[str, NDArray[np.int64]]) -> list[SetCertificates]:
    """The certificates of chunks: those that the keeper has, and the others made and kept."""
    images = work.images
    finished: dict[str, SetCertificates] = {}
    todo: list[str] = []
    for name, rows in chunks.items():
        kept = work.keeper.get(name)
        if kept is None:
            todo.append(name)
        else:
            finished[name] = archive.from_bytes(kept).sets[0]
            work.advance(len(rows))

    def enumerate_part(name: str) -> SetCertificates:
        return enumerate_chunk(work.classifier, images.part(chunks[name]), plan)

    def keep(name: str, result: SetCertificates) -> None:
        work.keeper.put(name, archive.to_bytes(Certificates((result,), work.provenance)))
        finished[name] = result
        work.advance(len(result))

    _run(todo, enumerate_part, keep, work.workers or len(os.sched_getaffinity(0)))
    return [finished[name] for name in chunks]


def _chunks(work: Work, plan: SetPlan) -> dict[str, NDArray[np.int64]]:
    """The rows of each chunk, rising, under the name by which it is kept, if images and baseline can be used."""
    images, baseline = work.images, plan.baseline
    if len(images) == 0:
        raise NothingEvaluated("no images", where=plan.finite.id, fix="certify at least one image")
    if baseline is not None and baseline.sha256 != plan.finite.sha256:
        raise IntegrityError("the baseline was certified for another set", where=plan.finite.id, fix="certify it again")
    step = _chunk_of(plan.finite, images.pixels.shape[1:])
    groups = work.groups or (np.arange(len(images)),)
    return {
        f"{plan.finite.sha256[7:23]}-{number}-{start}": rows[start : start + step]
        for number, rows in enumerate(groups)
        for start in range(0, len(rows), step)
    }


def _run(
    names: Sequence[str],
    work: Callable[[str], SetCertificates],
    done: Callable[[str, SetCertificates], None],
    workers: int,
) -> None:
    """Work on chunks with some threads; `done` is called in this thread as they finish.

    At the first error, and when interrupted, chunks that have not begun are given up.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures: dict[Future[SetCertificates], str] = {pool.submit(work, name): name for name in names}
        try:
            while futures:
                ended = wait(futures, return_when=FIRST_COMPLETED).done
                for future in sorted(ended, key=lambda one: one.exception() is not None):  # what is done is kept first
                    done(futures.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _join(parts: Sequence[SetCertificates]) -> SetCertificates:
    """The certificates of all images of some parts, by rising position in the test set."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ROWS}
    order = np.argsort(columns["index"], kind="stable")
    answers = np.concatenate([part.answers for part in parts])
    of_rows = np.split(answers, np.cumsum(columns["answer_count"])[:-1])
    sorted_: dict[str, NDArray[np.generic]] = {name: column[order] for name, column in columns.items()}
    sorted_["answers"] = np.concatenate([of_rows[row] for row in order])
    return replace(parts[0], **sorted_)  # type: ignore[arg-type]


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
