"""Finished cells on disk: one NumPy file for each corruption and severity, and its hash beside it.

A file is used only if its hash is right; otherwise the cell is made again. Files appear under their names whole or not
at all. The directory's name is a hash of everything that the pixels depend on, so different seeds or data never mix.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.files import npy_header, write_atomically
from edgesafe.errors import DataError
from edgesafe.records import GeneratedCorruptions

__all__ = ["CellCache"]

_PIECE = 1024  #: images made at once


class CellCache:
    """A cache for one test set, profile, seed and choice of frost.

    Args:
        directory: of all caches; made if it is missing.
        identity: what the pixels depend on; hashed into the subdirectory's name.
        shape: (n, H, W, C) of a cell.
    """

    def __init__(self, directory: Path, identity: GeneratedCorruptions, shape: tuple[int, ...]) -> None:
        text = json.dumps({**identity.model_dump(mode="json"), "shape": list(shape)}, sort_keys=True)
        self._directory = directory / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._shape = shape
        self._open: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._lock = threading.Lock()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot be made ({error.strerror})", where=str(directory), fix="give a writable cache directory"
            ) from error

    def cell(self, corruption: str, severity: int, make: Callable[[slice], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The whole cell, memory-mapped: uint8 (n, H, W, C).

        Args:
            corruption: its name.
            severity: 1..5.
            make: gives the images of a range of positions; called only if the cell is not on disk.
        """
        key = (corruption, severity)
        with self._lock:  # threads that ask for one cell wait until the first of them has it
            if key not in self._open:
                file = self._directory / f"{corruption}-{severity}.npy"
                if not self._intact(file):
                    self._write(file, make)
                self._open[key] = np.load(file, mmap_mode="r", allow_pickle=False)
            return self._open[key]

    def _intact(self, file: Path) -> bool:
        note = file.with_suffix(".sha256")
        if not file.is_file() or not note.is_file():
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == note.read_text("ascii", "replace").strip()

    def _write(self, file: Path, make: Callable[[slice], NDArray[np.uint8]]) -> None:
        n = self._shape[0]
        pieces = (make(slice(start, min(start + _PIECE, n))).tobytes() for start in range(0, n, _PIECE))
        digest = write_atomically(file, npy_header(self._shape, np.uint8), pieces)
        write_atomically(file.with_suffix(".sha256"), digest.encode("ascii"), ())
