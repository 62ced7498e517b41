"""Reading data files: npz archives (never pickled), and CIFAR-10's hashes."""

from __future__ import annotations

import hashlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.files import is_file

__all__ = ["CIFAR10_SHA256", "check_cifar10", "memory_budget", "read_npz"]

# SHA-256 of the C-contiguous uint8 arrays, order as in the original data set.
CIFAR10_SHA256 = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
_BOMB_BYTES = 256 << 20  # below, unpacking costs nothing worth a refusal
_BOMB_FACTOR = 200  # deflate reaches 1,032 on zeros; digits on black reach 20
_DAMAGE = (OSError, ValueError, TypeError, EOFError, KeyError, AttributeError, IndexError, RuntimeError, OverflowError,
           SyntaxError, MemoryError, struct.error)  # fmt: skip


def memory_budget() -> int:
    """Bytes that a data set may take: half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def read_npz(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file. What its headers claim is compared with its sizes before anything is allocated.

    Raises:
        DataError: the file is missing, truncated, damaged, larger than the machine holds, holds Python objects, or
            lacks a required array.
    """
    if not is_file(path):
        raise DataError("no such file", where=str(path), fix="data.root must name the npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _require_room(members, path)
            arrays = {item.filename.removesuffix(".npy"): _array(archive, item) for item in members}
    except (*_DAMAGE, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"damaged, truncated or not an npz of plain arrays ({' '.join(str(error).split())[:200]})",
            where=str(path),
            fix="make it anew",
        ) from None
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(
            f"holds no {', '.join(missing)} (has: {', '.join(list(arrays)[:20])})",
            where=str(path),
            fix="name the arrays so",
        )
    return arrays


def _require_room(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive that unpacks to more than memory holds, or to far more than it is large itself."""
    whole, packed = sum(item.file_size for item in members), sum(item.compress_size for item in members)
    if whole > memory_budget() or (whole > _BOMB_BYTES and whole > _BOMB_FACTOR * packed):
        raise DataError(
            f"{packed:,} bytes would unpack to {whole:,}", where=str(path), fix="give fewer images, or an imagefolder"
        )


def _array(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> NDArray[Any]:
    """A .npy member; its header is believed only if its size is what the member holds.

    Raises:
        ValueError: it is not, or holds Python objects.
    """
    with archive.open(item) as handle:
        version = np.lib.format.read_magic(handle)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"npy version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(handle)
        if dtype.hasobject:
            raise ValueError(f"{item.filename} holds Python objects")
        size = math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or size > item.file_size:
            raise ValueError(
                f"{item.filename} claims shape {shape[:6]}, which its {item.file_size:,} bytes cannot hold"
            )
        content = handle.read(size)
    if len(content) != size:
        raise ValueError(f"{item.filename} ends early")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def check_cifar10(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Refuse anything that is not CIFAR-10 to the bit.

    Args:
        arrays: x_train, y_train, x_test, y_test; uint8.
        path: the file that messages name.

    Raises:
        DataError: an array's hash differs.
    """
    for name, expected in CIFAR10_SHA256.items():
        if (
            arrays[name].dtype != np.uint8
            or hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest() != expected
        ):
            raise DataError(
                f"{name} is not CIFAR-10's", where=str(path), fix="delete the file and run: edgesafe fetch cifar10"
            )
