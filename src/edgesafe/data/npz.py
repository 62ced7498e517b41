"""npz archives of images and labels: what is small in memory; large images where they are, or unpacked into the cache.

A member that is stored as it is (numpy.savez) is read in place. One that is packed (numpy.savez_compressed) cannot be
read by rows, so it is unpacked once into the cache, under a hash of the archive's content. Nothing is unpickled.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import kept
from edgesafe.data.cache import Cache
from edgesafe.data.files import memory_budget
from edgesafe.data.npy import file_key
from edgesafe.data.rows import FileImages
from edgesafe.errors import DataError
from edgesafe.files import DAMAGE, is_file, stage_key
from edgesafe.files.npy import read_array, read_header
from edgesafe.records import Images

__all__ = ["read_npz"]

_BOMB_BYTES = 256 << 20  # below, unpacking costs nothing worth a refusal
_BOMB_FACTOR = 200  # deflate reaches 1,032 on zeros; digits on black reach 20
_LOCAL_HEADER, _LENGTHS_AT = 30, 26  # bytes before a member's name; where the lengths of name and extra field stand
_CHUNK = 1 << 22


def read_npz(path: Path, required: Sequence[str], cache: Cache | None = None) -> dict[str, Images | NDArray[Any]]:
    """All arrays of an npz file. What its headers claim is compared with its sizes before anything is allocated.

    Args:
        path: the archive.
        required: names of arrays that must be there.
        cache: says from which size on images (`x_…`) are not held in memory; None: everything is.

    Raises:
        DataError: the file is missing, truncated, damaged, larger than the machine holds, holds Python objects, or
            lacks a required array.
        StoreError: the cache cannot be written.
    """
    if not is_file(path):
        raise DataError("no such file", where=str(path), fix="data.root must name the npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            large = [item for item in members if cache is not None and _is_large(archive, item, cache)]
            _require_room(members, large, path)
            held = {item.filename: _array(archive, item) for item in members if item not in large}
            lazy = {item.filename: _lazy(archive, item, path, cache) for item in large if cache is not None}
    except DAMAGE as error:
        raise DataError(
            f"damaged, truncated or not an npz of plain arrays ({' '.join(str(error).split())[:200]})",
            where=str(path),
            fix="make it anew",
        ) from None
    arrays = {item.filename.removesuffix(".npy"): (held | lazy)[item.filename] for item in members}
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(
            f"holds no {', '.join(missing)} (has: {', '.join(list(arrays)[:20])})",
            where=str(path),
            fix="name the arrays so",
        )
    return arrays


def _is_large(archive: zipfile.ZipFile, item: zipfile.ZipInfo, cache: Cache) -> bool:
    """Whether a member is images that are not to be held in memory."""
    if not item.filename.startswith("x_") or item.file_size <= cache.memory_bytes:
        return False
    with archive.open(item) as handle:
        header = read_header(handle, item.file_size)
    return header.dtype == np.uint8 and len(header.shape) in (3, 4) and not header.fortran


def _require_room(members: Sequence[zipfile.ZipInfo], large: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive that unpacks to more than memory holds, or to far more than it is large itself."""
    whole, packed = sum(item.file_size for item in members), sum(item.compress_size for item in members)
    in_memory = whole - sum(item.file_size for item in large)
    if in_memory > memory_budget() or (whole > _BOMB_BYTES and whole > _BOMB_FACTOR * packed):
        raise DataError(
            f"{packed:,} bytes would unpack to {whole:,}", where=str(path), fix="give fewer images, or an imagefolder"
        )


def _array(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> NDArray[Any]:
    """A .npy member, in memory.

    Raises:
        ValueError: its header claims what the member does not hold.
    """
    with archive.open(item) as handle:
        try:
            return read_array(handle, item.file_size)
        except ValueError as error:
            raise ValueError(f"{item.filename} {error}") from None


def _lazy(archive: zipfile.ZipFile, item: zipfile.ZipInfo, path: Path, cache: Cache) -> Images:
    """A member of images, read by rows: in place, or from the cache."""
    with archive.open(item) as handle:
        header = read_header(handle, item.file_size)
        shape = header.shape if len(header.shape) == 4 else (*header.shape, 1)
        if item.compress_type == zipfile.ZIP_STORED:
            offset = _begin(path, item) + header.offset
            return cache.checked(FileImages(path, offset, shape, file_key(path, offset, shape)))
        key = stage_key(what="npz/1", archive=cache.content_of(path.parent, (path,)), member=item.filename)
        wanted = kept.Pixels(key, shape, path, f"unpacking {shape[0]:,} images of {path.name}")
        return kept.stored(wanted, cache, partial(_unpacked, handle))


def _unpacked(handle: IO[bytes]) -> Iterator[NDArray[np.uint8]]:
    """The rest of a packed member, some megabytes at a time; its checksum is compared at the end."""
    while chunk := handle.read(_CHUNK):
        yield np.frombuffer(chunk, np.uint8)


def _begin(path: Path, item: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin in the archive.

    Raises:
        ValueError: no member begins there.
    """
    with path.open("rb") as handle:
        handle.seek(item.header_offset)
        local = handle.read(_LOCAL_HEADER)
    if local[:4] != b"PK\x03\x04" or len(local) < _LOCAL_HEADER:
        raise ValueError(f"{item.filename} is not where the archive says")
    name, extra = struct.unpack_from("<HH", local, _LENGTHS_AT)
    return item.header_offset + _LOCAL_HEADER + int(name) + int(extra)
