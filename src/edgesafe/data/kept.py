"""Decoded or unpacked pixels in a file of the cache: made once, by whoever needs them first, and found by their key."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.data.cache import Cache
from edgesafe.data.rows import FileImages
from edgesafe.errors import DataError, StoreError
from edgesafe.files import is_file

__all__ = ["Pixels", "place", "stored"]

_GB = 1 << 30


@dataclass(frozen=True)
class Pixels:
    """Pixels that the cache holds, or shall hold.

    Attributes:
        key: identifies them: equal keys, equal pixels.
        shape: (N, H, W, C).
        source: what they come from, for messages.
        doing: how making them is announced ("decoding 12 images of train/").
    """

    key: str
    shape: tuple[int, ...]
    source: Path
    doing: str

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(np.prod(self.shape, dtype=np.int64))


def place(cache: Cache, key: str) -> Path:
    """Where the pixels of a key lie, if they do."""
    return cache.directory / "pixels" / f"{key}.u8"


def stored(wanted: Pixels, cache: Cache, make: Callable[[], Iterator[NDArray[np.uint8]]]) -> FileImages:
    """The pixels by rows, each image compared with its hash; they are made if the cache does not have them.

    Args:
        wanted: which pixels.
        cache: where they lie.
        make: gives them as arrays, uint8, whose bytes one after another are the file.

    Raises:
        DataError: they are more than the cache may hold, or than the disk has.
        StoreError: the cache cannot be written.
    """
    file = place(cache, wanted.key)
    if not (is_file(file) and file.stat().st_size == wanted.bytes):
        _require_room(wanted, file.parent, cache)
        size = f"{wanted.shape[0]:,} images of {wanted.source.name} take {wanted.bytes / _GB:.1f} GB"
        cache.progress.note(f"data: {size} in {file.parent}")
        _write(wanted, file, cache, make)
    return cache.checked(FileImages(file, 0, wanted.shape, wanted.key))


def _require_room(wanted: Pixels, folder: Path, cache: Cache) -> None:
    fix = "raise data.cache_gb, give fewer images, or smaller ones (data.args.resize)"
    _require(wanted, cache.disk_bytes, "the limit is", fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StoreError(f"cannot be made ({error.strerror})", where=str(folder), fix="give data.cache_dir") from error
    _require(wanted, free, "the disk has", "give another data.cache_dir")


def _require(wanted: Pixels, limit: int, what: str, fix: str) -> None:
    if wanted.bytes > limit:
        raise DataError(
            f"{wanted.shape[0]:,} decoded images take {wanted.bytes / _GB:.2f} GB, {what} {limit / _GB:.2f} GB",
            where=str(wanted.source), fix=fix,
        )  # fmt: skip


def _write(wanted: Pixels, file: Path, cache: Cache, make: Callable[[], Iterator[NDArray[np.uint8]]]) -> None:
    """Into a file that gets its name when it is whole."""
    image, done = max(1, wanted.bytes // max(1, wanted.shape[0])), 0
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream, cache.progress.stage(wanted.doing, wanted.shape[0]) as advance:
            for block in make():
                stream.write(block.data)
                advance((done + block.nbytes) // image - done // image)
                done += block.nbytes
            stream.flush()
            os.fsync(stream.fileno())
        if done != wanted.bytes:
            what = f"gave {done:,} bytes of pixels instead of {wanted.bytes:,}"
            raise DataError(what, where=str(wanted.source), fix="do not change it while it is read")
        temporary.replace(file)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})", where=str(file), fix="free space, or give data.cache_dir"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
