"""Checking, hashing and splitting labelled image arrays: what every data set goes through."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import labels as labels_
from edgesafe.data.cache import Cache
from edgesafe.data.rows import LazyImages, blocks, pixel_digest
from edgesafe.errors import DataError
from edgesafe.records import Images, ImageSet, Task

__all__ = ["Repeats", "checked", "image_set", "repeats", "shuffled", "split"]


def checked(images: object, labels: object, *, task: Task, where: str) -> tuple[Images, NDArray[Any]]:
    """Images and labels of a set, checked.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W), C = 1 or 3; an array, or a set that is not in memory.
        labels: of the task: integers (N,) or (N, 1), 0 <= label < K; or numbers (N, P, 2) or (N, 2 P), px.
        task: what is asked of a network.
        where: the file or split that messages name.

    Returns:
        Images (N, H, W, C), an array of them C-contiguous, and labels int64 (N,) or float32 (N, P, 2).

    Raises:
        DataError: anything else, or N = 0.
    """
    x: Images = images if isinstance(images, LazyImages) else np.asarray(images)
    if isinstance(x, np.ndarray) and x.ndim == 3:
        x = x[..., None]
    if x.dtype != np.uint8:
        raise DataError(f"images are {x.dtype}, not uint8", where=where, fix="store pixels as 0..255")
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        fix = "store them as (N, H, W, 3) or (N, H, W)" + (
            ", not channels first" if x.ndim == 4 and x.shape[1] in (1, 3) else ""
        )
        raise DataError(f"images have shape {x.shape}", where=where, fix=fix)
    y = labels_.checked(labels, task, len(x), where)
    if len(x) == 0:
        raise DataError("no images", where=where, fix="give a data set that holds at least one")
    if min(x.shape[1:3]) < 8:
        raise DataError(
            f"images of {x.shape[1]}x{x.shape[2]} pixels", where=where, fix="the least that makes sense is 8x8"
        )
    return x if isinstance(x, LazyImages) else np.ascontiguousarray(x), y


def image_set(images: Images, labels: NDArray[Any], task: Task, cache: Cache | None = None) -> ImageSet:
    """Checked images and labels with their hash: of shape, pixels and labels (little-endian), kept by the cache."""
    head, tail = repr(tuple(images.shape)).encode(), labels_.hashed(labels)
    if isinstance(images, LazyImages) and cache is not None:
        return ImageSet(images, labels, cache.sha256(images, head, tail), task)
    digest = hashlib.sha256(head)
    for rows in blocks(images):
        digest.update(np.ascontiguousarray(images[rows]).data)
    digest.update(tail)
    return ImageSet(images, labels, "sha256:" + digest.hexdigest(), task)


@dataclass(frozen=True)
class Repeats:
    """How often the same pixels come twice.

    Attributes:
        distinct: different test images.
        in_train: test images that are training or validation images, too.
    """

    distinct: int
    in_train: int


def repeats(train: ImageSet, validation: ImageSet, test: ImageSet) -> Repeats:
    """Copies among the test images, and test images that were trained on, by hash of the pixels."""
    seen = {key for part in (train, validation) for key in _hashes(part.images)}
    tested = _hashes(test.images)
    return Repeats(len(set(tested)), sum(key in seen for key in tested))


def _hashes(images: Images) -> list[bytes]:
    """The hash of each image: as it is known, or worked out."""
    known = images.digests() if isinstance(images, LazyImages) else None
    return [pixel_digest(image) for image in images] if known is None else [row.tobytes() for row in known]


def shuffled(n: int) -> NDArray[np.int64]:
    """A fixed permutation of range(n) that depends on nothing but n (SplitMix64 of the index, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable").astype(np.int64)


def split(n: int, sizes: Sequence[int], *, where: str) -> list[NDArray[np.int64]]:
    """Disjoint index sets of the given sizes out of range(n), the rest first; each sorted.

    Raises:
        DataError: nothing would be left for the first part.
    """
    taken = sum(sizes)
    if taken >= n:
        raise DataError(
            f"{taken} images are to be held out of {n}", where=where, fix="hold out fewer (data.validation)"
        )
    order = shuffled(n)
    parts = [np.sort(order[: n - taken])]
    start = n - taken
    for size in sizes:
        parts.append(np.sort(order[start : start + size]))
        start += size
    return parts
