"""Writing files under a temporary name first, so that none is ever left half written."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe.errors import StoreError

__all__ = ["npy_header", "write_atomically"]


def npy_header(shape: tuple[int, ...], dtype: type[np.generic] | np.dtype[Any]) -> bytes:
    """The first bytes of a .npy file of that shape, C order."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": tuple(int(n) for n in shape)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def write_atomically(file: Path, head: bytes, pieces: Iterable[bytes]) -> str:
    """Write a file under a temporary name, flush it to disk, then rename it.

    Returns:
        SHA-256 of the content, 64 hex digits.

    Raises:
        StoreError: the disk is full, the directory read-only, or the like. No partial file stays.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    digest = hashlib.sha256(head)
    try:
        try:
            with temporary.open("wb") as stream:
                stream.write(head)
                for piece in pieces:
                    digest.update(piece)
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"cannot be written ({reason})", where=str(file), fix="free space or choose another place"
        ) from error
    return digest.hexdigest()
