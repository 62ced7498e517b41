"""Images that an object of the user's gives one by one: `len(images)`, and `images[k]` for a whole number k.

A set that fits is read into memory. Of a larger one each image is asked for whenever it is needed, and compared with
the hash that it had when the set was first gone through. That is once in a run; if the object has an attribute
`version`, a text that says which pixels it gives, the hashes are kept for later runs.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe.data.cache import Cache
from edgesafe.data.rows import HashedImages
from edgesafe.errors import DataError, EdgesafeError, one_line
from edgesafe.files import sha256_bytes, stage_key
from edgesafe.records import Images

__all__ = ["First", "images_of", "is_asked_for", "labels_of"]


def is_asked_for(images: Any, cache: Cache) -> bool:
    """Whether images are to be asked for one by one: no array, or one that is neither in memory nor fits there."""
    if isinstance(images, np.ndarray | list | tuple) or not hasattr(images, "__getitem__"):
        return False
    return not hasattr(images, "__array__") or int(getattr(images, "nbytes", 0)) > cache.memory_bytes


def images_of(source: Any, where: str, cache: Cache) -> Images:
    """The images that an object gives: an array if they fit into memory, else a set that asks for them by rows.

    Args:
        source: has __len__ and __getitem__; gives uint8 (H, W, C), (H, W) or a Pillow image.
        where: names it in messages.
        cache: says what fits, and keeps hashes.

    Raises:
        DataError: no images, one that is no uint8 image or has another size than the first, or the object fails.
    """
    n = _length(source, where)
    shape = (n, *_pixels(source, 0, where).shape)
    images = _Asked(source, shape, where)
    if int(np.prod(shape, dtype=np.int64)) > cache.memory_bytes:
        return cache.checked(images)
    held = np.empty(shape, np.uint8)
    with cache.progress.stage(f"reading {n:,} images of {where}", n) as advance:
        for k in range(n):
            held[k] = images.read(np.array([k]))[0]
            advance(1)
    return held


def labels_of(source: Any, where: str, cache: Cache) -> NDArray[Any]:
    """The labels of a data set of pairs: its `targets`, or the second of each pair.

    Raises:
        DataError: an item is no pair, or the object fails.
    """
    n, targets = _length(source, where), getattr(source, "targets", None)
    if targets is not None and len(targets) == n:
        return np.asarray(targets)
    labels = []
    with cache.progress.stage(f"reading {n:,} labels of {where}", n) as advance:
        for k in range(n):
            labels.append(np.asarray(_pair(source, k, where)[1]))
            advance(1)
    return np.asarray(labels)


class First:
    """The images of a data set of pairs: the first of each.

    Args:
        source: gives (image, label).
        where: names it in messages.
    """

    def __init__(self, source: Any, where: str) -> None:
        self._source, self._where = source, where
        version = getattr(source, "version", None)
        if version is not None:
            self.version = version

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, k: int) -> Any:
        return _pair(self._source, k, self._where)[0]


class _Asked(HashedImages):
    """Images that are asked for one by one, never two at a time: objects of others are seldom made for threads."""

    def __init__(
        self, source: Any, shape: tuple[int, ...], where: str, digests: NDArray[np.uint8] | None = None
    ) -> None:
        super().__init__(shape, where, digests)
        self._source, self._lock = source, threading.Lock()

    @cached_property
    def key(self) -> str:
        """Of the hashes of all images."""
        if self._digests is None:
            raise ValueError("hash the images first")
        return stage_key(what="items/1", shape=list(self.shape), digests=sha256_bytes(self._digests.tobytes()))

    @property
    def stamp(self) -> str | None:
        """Of the object's `version`, if it has one."""
        version = getattr(self._source, "version", None)
        if not isinstance(version, str):
            return None
        return stage_key(what="items/1", where=self.place, shape=list(self.shape), version=version)

    def with_digests(self, digests: NDArray[np.uint8]) -> Self:
        """The same set, whose images are compared with these hashes, uint8 (N, 16), whenever they are read."""
        return type(self)(self._source, self.shape, self.place, digests)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Ask for rows: uint8 (n, H, W, C).

        Raises:
            DataError: the object fails, or gives an image of another size.
            IntegrityError: an image is not what it was when it was hashed.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        with self._lock:
            for place, row in zip(out, rows.tolist(), strict=True):
                pixels = _pixels(self._source, row, self.place)
                if pixels.shape != self.shape[1:]:
                    what = f"has shape {pixels.shape}, the first {self.shape[1:]}"
                    raise DataError(what, where=f"{self.place}[{row}]", fix="give images of one size")
                place[:] = pixels
        self._compare(rows, out)
        return out


def _length(source: Any, where: str) -> int:
    try:
        n = len(source)
    except Exception as error:
        raise DataError(f"has no length ({one_line(error)})", where=where, fix="give it __len__") from error
    if n == 0:
        raise DataError("no images", where=where, fix="give a data set that holds at least one")
    return int(n)


def _item(source: Any, k: int, where: str) -> Any:
    try:
        return source[k]
    except EdgesafeError:
        raise
    except Exception as error:
        raise DataError(f"fails: {one_line(error)}", where=f"{where}[{k}]", fix="mend its __getitem__") from error


def _pair(source: Any, k: int, where: str) -> tuple[Any, Any]:
    item = _item(source, k, where)
    if not isinstance(item, list | tuple) or len(item) != 2:
        fix = "return pairs, or give x_train, y_train, x_test, y_test"
        raise DataError(f"is a {type(item).__name__}, no (image, label)", where=f"{where}[{k}]", fix=fix)
    return item[0], item[1]


def _pixels(source: Any, k: int, where: str) -> NDArray[np.uint8]:
    """Image k as uint8 (H, W, C)."""
    item = _item(source, k, where)
    pixels = np.asarray(item.convert("RGB") if isinstance(item, Image.Image) else item)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        fix = "give uint8 (H, W, 3) or (H, W), or a Pillow image: neither scaled nor normalised, channels last"
        raise DataError(f"is {pixels.dtype} {pixels.shape}, not uint8 (H, W, C)", where=f"{where}[{k}]", fix=fix)
    return pixels if pixels.ndim == 3 else pixels[..., None]
