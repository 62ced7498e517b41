"""Image sets that are not in memory: pixels in a file, and parts of a set. Both are indexed like an array.

Files are read by position, not mapped: pages of a mapping count as resident memory until the system takes them back,
and a read that ends early is an error that can be named, not a signal that kills the process.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, IntegrityError
from edgesafe.files import sha256_bytes, stage_key
from edgesafe.records import Images

__all__ = ["FileImages", "HashedImages", "LazyImages", "Subset", "blocks", "part", "pixel_digest"]

_BLOCK_BYTES = 4 << 20  # of pixels that are looked at together where a whole set is gone through
DIGEST_BYTES = 16


def pixel_digest(image: NDArray[np.uint8]) -> bytes:
    """The BLAKE2b hash of an image's pixels, 16 bytes."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_BYTES).digest()


def blocks(images: Images) -> Iterator[slice]:
    """Ranges of rows that cover a set in order, each of some 4 MB of pixels."""
    step = max(1, _BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    return (slice(start, min(start + step, len(images))) for start in range(0, len(images), step))


def part(images: Images, rows: NDArray[np.int64] | slice) -> Images:
    """Some rows of a set: an array of an array, else a set that reads when it is asked."""
    if isinstance(images, LazyImages):
        return Subset.of(images, rows)
    taken: Images = images[rows]
    return taken


class LazyImages(ABC):
    """Base of image sets that are not in memory; a subclass gives the pixels of rows.

    Args:
        shape: (N, H, W, C).
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    @property
    @abstractmethod
    def key(self) -> str:
        """Identifies the pixels: equal keys, equal pixels."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of rows, each in 0..N-1: uint8 (n, H, W, C)."""

    def digests(self) -> NDArray[np.uint8] | None:
        """Hashes of all images, uint8 (N, 16), if they are known; see `pixel_digest`."""
        return None

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for rows in blocks(self):
            yield from self[rows]

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        n = len(self)
        if isinstance(rows, slice):
            return self.read(np.arange(*rows.indices(n), dtype=np.int64))
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        if index.ndim > 1 or (index.size and index.dtype.kind not in "iu"):
            raise IndexError(f"rows are {index.dtype} {index.shape}, not whole numbers (n,)")
        wanted = np.where(index < 0, index + n, index).astype(np.int64).reshape(-1)
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < n):
            raise IndexError(f"row {int(wanted.max())} of {n}")
        pixels = self.read(wanted)
        return pixels if index.ndim else pixels[0]


class Subset(LazyImages):
    """Some rows of a set that is not in memory, in any order.

    Args:
        base: the set.
        rows: int64 (n,), positions in it.
    """

    def __init__(self, base: LazyImages, rows: NDArray[np.int64]) -> None:
        super().__init__((len(rows), *base.shape[1:]))
        self._base, self._rows = base, rows

    @classmethod
    def of(cls, images: LazyImages, rows: NDArray[np.int64] | slice) -> LazyImages:
        """The rows of a set or of a part of it; the set itself if those are all, in order."""
        index = np.arange(*rows.indices(len(images)), dtype=np.int64) if isinstance(rows, slice) else rows
        if np.array_equal(index, np.arange(len(images))):
            return images
        return cls(images._base, images._rows[index]) if isinstance(images, Subset) else cls(images, index)

    @cached_property
    def key(self) -> str:
        """Of the set and the rows."""
        return stage_key(of=self._base.key, rows=sha256_bytes(self._rows.astype("<i8").tobytes()))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of rows of the part: uint8 (n, H, W, C)."""
        return self._base.read(self._rows[rows])

    def digests(self) -> NDArray[np.uint8] | None:
        """Hashes of the part's images, uint8 (n, 16), if those of the set are known."""
        known = self._base.digests()
        return None if known is None else known[self._rows]


class HashedImages(LazyImages):
    """Images that come from outside, each of which is compared with its hash whenever it is read, once that is known.

    Args:
        shape: (N, H, W, C).
        place: what they come from, for messages.
        digests: hashes of the images, uint8 (N, 16); None: not yet known.
    """

    def __init__(self, shape: tuple[int, ...], place: str, digests: NDArray[np.uint8] | None = None) -> None:
        super().__init__(shape)
        self.place, self._digests = place, digests

    @property
    @abstractmethod
    def stamp(self) -> str | None:
        """What their hashes may be kept under: equal stamps, equal pixels. None: nothing says that they are equal."""

    @abstractmethod
    def with_digests(self, digests: NDArray[np.uint8]) -> Self:
        """The same set, whose images are compared with these hashes, uint8 (N, 16), whenever they are read."""

    def digests(self) -> NDArray[np.uint8] | None:
        """Hashes of the images, uint8 (N, 16); None: not known."""
        return self._digests

    def _compare(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Raise IntegrityError if one of the rows does not have the hash that is known of it."""
        if self._digests is None:
            return
        for row, image in zip(rows.tolist(), pixels, strict=True):
            if pixel_digest(image) != self._digests[row].tobytes():
                raise IntegrityError(
                    f"image {row} is not what it was when it was hashed",
                    where=self.place,
                    fix="restore it, or remove what the cache holds of it and run anew",
                )


class FileImages(HashedImages):
    """Pixels of images one after another in a file, as a .npy file or a member of an npz that is not packed has them.

    Args:
        path: the file.
        offset: of the first pixel, in bytes.
        shape: (N, H, W, C).
        key: identifies the pixels.
        digests: hashes of the images, uint8 (N, 16): every image that is read is compared with its own; None: not yet
            known.

    Raises:
        DataError: the file is too short, or cannot be opened.
    """

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], key: str, digests: NDArray[np.uint8] | None = None
    ) -> None:
        super().__init__(shape, str(path), digests)
        self.path, self._offset, self._key = path, offset, key
        self._size = int(np.prod(shape[1:], dtype=np.int64))
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})", where=str(path), fix="check that it is there"
            ) from error
        if os.fstat(self._file).st_size < offset + shape[0] * self._size:
            raise DataError("ends before its last image", where=str(path), fix="make it anew")

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    @property
    def key(self) -> str:
        """A text that identifies the pixels, as it was given for the file."""
        return self._key

    @property
    def stamp(self) -> str:
        """The key that was given for the file: equal keys, equal pixels, so hashes are kept under it."""
        return self._key

    def with_digests(self, digests: NDArray[np.uint8]) -> Self:
        """The same set, whose images are compared with these hashes, uint8 (N, 16), whenever they are read."""
        return type(self)(self.path, self._offset, self.shape, self._key, digests)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read rows; neighbours in the file in one go.

        Raises:
            DataError: the file became shorter or unreadable.
            IntegrityError: an image is not what it was when it was hashed.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        if not len(rows):
            return out
        flat = out.reshape(len(rows), self._size)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            self._fill(flat[start:stop].reshape(-1).data, self._offset + int(rows[start]) * self._size)
        self._compare(rows, out)
        return out

    def _fill(self, place: memoryview, position: int) -> None:
        done = 0
        while done < len(place):
            try:
                got = os.preadv(self._file, [place[done:]], position + done)
            except OSError as error:
                raise DataError(
                    f"cannot be read ({error.strerror})", where=str(self.path), fix="check the disk"
                ) from error
            if got == 0:
                raise DataError("became shorter while it was read", where=str(self.path), fix="do not change it")
            done += got
