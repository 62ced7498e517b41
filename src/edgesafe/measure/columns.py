"""Arrays by name as bytes: an uncompressed npz, deterministic, believed only if it is exactly what was agreed.

All members are stored, none is pickled, zip timestamps are 1980-01-01. Reading takes nothing from the file's own
description of itself that its size does not bear out.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import ValidationError

from edgesafe.errors import DataError
from edgesafe.files import DAMAGE
from edgesafe.files.npy import read_array
from edgesafe.records import Record

__all__ = ["Column", "Layout", "pack", "parse_header", "unpack"]

_MAX_BYTES = 8 << 30  # 1,000 classes x 50,000 images x 75 cells are 0.3 GiB; anything near this is no record of ours
_MAX_HEADER = 1 << 20
_FIX = "measure again: the file is damaged or is not edgesafe's"
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True)
class Column:
    """The dtype of an array of the file, and how many dimensions it has."""

    dtype: DTypeLike
    dims: int = 1


@dataclass(frozen=True)
class Layout:
    """What a kind of file holds.

    Attributes:
        name: of the kind, for messages ("evidence").
        schema: as the header names it ("edgesafe.evidence/2").
        columns: by name, in the order of the file, after the header.
    """

    name: str
    schema: str
    columns: Mapping[str, Column]

    def wrong(self, what: str, member: str = "") -> DataError:
        """The error that says what is wrong with such a file."""
        return DataError(what, where=f"{self.name}, {member}" if member else self.name, fix=_FIX)


def pack(layout: Layout, header: Record, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A header (JSON, as UTF-8 bytes) and the arrays of a layout, converted to its types."""
    content = header.model_dump(mode="json", by_alias=True)
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _store(archive, "header", np.frombuffer(text.encode(), np.uint8))
        for name, column in layout.columns.items():
            _store(archive, name, arrays[name].astype(column.dtype, copy=False))
    return out.getvalue()


def _store(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    archive.writestr(info, out.getvalue())


def unpack(data: bytes, *layouts: Layout) -> dict[str, NDArray[Any]]:
    """The header's bytes and the arrays, by the first of the layouts whose members the file has.

    Raises:
        DataError: truncated, oversized, compressed, or not the members, types and dimensions of a layout.
    """
    layout = layouts[0]
    if len(data) > _MAX_BYTES:
        raise layout.wrong(f"{len(data)} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [i.filename for i in infos]
            fitting = [one for one in layouts if names == [f"{m}.npy" for m in ("header", *one.columns)]]
            if not fitting:
                raise layout.wrong(f"not the members that {layout.name} has")
            columns = {"header": Column(np.uint8), **fitting[0].columns}
            if any(i.compress_type != zipfile.ZIP_STORED or i.flag_bits & 1 for i in infos):
                raise layout.wrong("compressed or encrypted members")
            if any(i.file_size != i.compress_size for i in infos) or sum(i.file_size for i in infos) > len(data):
                raise layout.wrong("members larger than the file")
            return {m: _array(archive.read(i), layout, m, columns[m]) for m, i in zip(columns, infos, strict=True)}
    except DAMAGE as e:
        raise layout.wrong("not a readable npz file") from e


def _array(raw: bytes, layout: Layout, name: str, column: Column) -> NDArray[Any]:
    """A .npy member of the type and the number of dimensions that were agreed."""
    try:
        array = read_array(io.BytesIO(raw), len(raw))
    except ValueError as e:
        raise layout.wrong(str(e), name) from e
    want = np.dtype(column.dtype)
    if array.dtype != want or not array.flags.c_contiguous or array.ndim != column.dims:
        raise layout.wrong(f"{array.dtype} {array.shape} instead of {want}", name)
    return array


def parse_header(raw: NDArray[np.uint8], layout: Layout, model: type[_R]) -> _R:
    """The header as a record.

    Raises:
        DataError: too long, not JSON, of another schema, or not such a record.
    """
    if len(raw) > _MAX_HEADER:
        raise layout.wrong(f"header of {len(raw)} bytes", "header")
    try:
        text = raw.tobytes().decode()
        content = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as e:
        raise layout.wrong("not JSON", "header") from e
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != layout.schema:
        raise DataError(
            f"schema {schema!r}, this edgesafe reads {layout.schema}"[:120],
            where=f"{layout.name}, header",
            fix="read it with the edgesafe that wrote it, or measure again",
        )
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise layout.wrong(f"{key[:80]}: {first['msg']}", "header") from e
