"""Folders of NumPy files, `x_train.npy`, `y_train.npy` and so on: pixels stay in their file, however many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data.cache import Cache
from edgesafe.data.rows import FileImages
from edgesafe.errors import DataError
from edgesafe.files import DAMAGE, is_file, stage_key
from edgesafe.records import Images

__all__ = ["file_key", "read_folder"]

_MOST_LABELS = 1 << 31  # bytes


def read_folder(root: Path, cache: Cache) -> dict[str, Images | NDArray[Any]]:
    """`x_train`, `y_train`, `x_test`, `y_test`, and `x_val`, `y_val`, `classes` if they are there.

    Args:
        root: holds a .npy file of each name.
        cache: says what is held in memory, and keeps hashes of what is not.

    Raises:
        DataError: a file that must be there is not, is damaged, or holds Python objects.
    """
    found: dict[str, Images | NDArray[Any]] = {}
    for name in ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val", "classes"):
        path = root / f"{name}.npy"
        if is_file(path):
            found[name] = _images(path, cache) if name.startswith("x_") else _small(path)
    return found


def _small(path: Path) -> NDArray[Any]:
    array = _mapped(path)
    if array.nbytes > _MOST_LABELS:
        raise DataError(f"holds {array.nbytes:,} bytes of labels", where=str(path), fix="store one integer per image")
    return np.array(array)


def _images(path: Path, cache: Cache) -> Images:
    """The images of a file: in memory if there are few, else where they are."""
    mapped = _mapped(path)
    if mapped.nbytes <= cache.memory_bytes:
        return np.array(mapped)
    if mapped.dtype != np.uint8 or mapped.ndim not in (3, 4):
        return mapped  # refused by its type or shape, as any array is
    if not mapped.flags.c_contiguous:
        raise DataError("is in Fortran order", where=str(path), fix="save it in C order: numpy.ascontiguousarray")
    shape = mapped.shape if mapped.ndim == 4 else (*mapped.shape, 1)
    offset = int(getattr(mapped, "offset", 0))
    return cache.checked(FileImages(path, offset, shape, file_key(path, offset, shape)))


def file_key(path: Path, offset: int, shape: tuple[int, ...]) -> str:
    """Identifies the pixels of a file that nobody has changed: place, size, time of the last change."""
    status = path.stat()
    stamp = [str(path.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    return stage_key(what="file", stamp=stamp, offset=offset, shape=list(shape))


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise DataError(
            f"not a whole NumPy file ({' '.join(str(error).split())[:200]})", where=str(path), fix="make it anew"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError("an archive, not one array", where=str(path), fix="save one array in it: numpy.save")
    mapped: NDArray[Any] = array
    return mapped
