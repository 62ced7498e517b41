"""Members of npz archives, and .npy files: arrays whose headers are believed only as far as their sizes bear them out.

Nothing is unpickled, and nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.files import DAMAGE

__all__ = ["Header", "read_array", "read_header"]


@dataclass(frozen=True)
class Header:
    """What a .npy file says of itself.

    Attributes:
        shape: of the array; whole numbers from 0.
        fortran: whether the first index changes fastest.
        dtype: of the array; no Python objects.
        offset: of the first value, in bytes.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], size: int) -> Header:
    """The header of a .npy file of `size` bytes; the stream then stands at the first value.

    Raises:
        ValueError: not a .npy file of version 1 or 2, one of Python objects, or values of another size than is there.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"npy version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except DAMAGE as error:
        raise ValueError(f"not a .npy array ({' '.join(str(error).split())[:120]})") from None
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError(f"claims shape {shape[:6]}")
    header = Header(shape, fortran, dtype, stream.tell())
    if header.size != size - header.offset:
        raise ValueError(f"claims shape {shape[:6]}, which does not fit its {size:,} bytes")
    return header


def read_array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a .npy file of `size` bytes; read-only.

    Raises:
        ValueError: see `read_header`; or it ends early.
    """
    header = read_header(stream, size)
    content = stream.read(header.size)
    if len(content) != header.size:
        raise ValueError("ends early")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
