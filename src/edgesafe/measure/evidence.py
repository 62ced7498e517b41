"""Evidence as bytes: an uncompressed npz of flat columns, deterministic, checked in full on loading.

Layout (members in this order, all stored, no pickles, zip timestamps 1980-01-01):

    header      uint8    UTF-8 JSON: schema, provenance, cells [[corruption, severity, rows], …], the clean cell first
    index       uint32   (rows,)   position in the test set
    label       uint16   (rows,)
    prediction  uint16   (rows,)
    confidence  float64  (rows,)
    nll         float64  (rows,)
    margin      float64  (rows,)
    logits      float32  (rows of the clean cell, K)
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.probabilities import cell_from_logits, check_logits
from edgesafe.records import Cell, Evidence, Provenance, Record

__all__ = ["SCHEMA", "from_bytes", "to_bytes"]

SCHEMA = "edgesafe.evidence/2"
_COLUMNS: dict[str, Any] = {
    "index": np.uint32,
    "label": np.uint16,
    "prediction": np.uint16,
    "confidence": np.float64,
    "nll": np.float64,
    "margin": np.float64,
}
_MEMBERS = ("header", *_COLUMNS, "logits")
_MAX_BYTES = 8 << 30  # 1,000 classes x 50,000 images x 75 cells are 0.3 GiB; anything near this is not evidence
_MAX_HEADER = 1 << 20
_FIX = "measure again: the file is damaged or is not edgesafe's"


class _Header(Record):
    """What the member `header` holds, as JSON."""

    schema_: Literal["edgesafe.evidence/2"] = Field(default="edgesafe.evidence/2", alias="schema")
    provenance: Provenance
    cells: tuple[tuple[str, int, int], ...]  #: corruption, severity, rows; the clean cell first


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def to_bytes(evidence: Evidence) -> bytes:
    """Deterministic npz of an evidence.

    Raises:
        DataError: cells, keys, indices or labels that do not fit the layout.
        NonFiniteError: a number in a cell or the logits is not finite.
        NothingEvaluated: no clean images.
    """
    cells = [evidence.clean, *(evidence.cells[k] for k in sorted(evidence.cells))]
    for key, cell in evidence.cells.items():
        if key != (cell.corruption, cell.severity):
            raise DataError(
                f"cell {key} holds {cell.corruption} {cell.severity}",
                where="evidence",
                fix="key cells by what they are",
            )
    header = _Header(
        provenance=evidence.provenance, cells=tuple((c.corruption, c.severity, len(c.index)) for c in cells)
    )
    content = header.model_dump(mode="json", by_alias=True)
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    _validate(evidence)
    arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(text.encode(), np.uint8)}
    for name, dtype in _COLUMNS.items():
        arrays[name] = np.concatenate([getattr(c, name) for c in cells]).astype(dtype)
    arrays["logits"] = evidence.logits.astype(np.float32, copy=False)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in _MEMBERS:
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, _npy(arrays[name]))
    return out.getvalue()


def _array(raw: bytes, name: str) -> NDArray[Any]:
    """A .npy member; its header is believed only if type, order and size are what the bytes hold."""
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise DataError(f"npy version {version}", where=f"evidence, {name}", fix=_FIX)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError, TypeError, OverflowError, RecursionError) as e:
        raise DataError("not a .npy array", where=f"evidence, {name}", fix=_FIX) from e
    if any(not isinstance(v, int) or v < 0 for v in shape):
        raise DataError(f"shape {shape}", where=f"evidence, {name}", fix=_FIX)
    want = {"header": np.dtype(np.uint8), "logits": np.dtype(np.float32)}.get(name) or np.dtype(_COLUMNS[name])
    if dtype != want or fortran or len(shape) != (2 if name == "logits" else 1):
        raise DataError(f"{dtype} {shape} instead of {want}", where=f"evidence, {name}", fix=_FIX)
    if math.prod(shape) * dtype.itemsize != len(raw) - stream.tell():
        raise DataError(f"shape {shape} does not fit its {len(raw)} bytes", where=f"evidence, {name}", fix=_FIX)
    return np.frombuffer(raw, dtype, offset=stream.tell()).reshape(shape)


def _members(data: bytes) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if [i.filename for i in infos] != [f"{m}.npy" for m in _MEMBERS]:
                raise DataError("not the members that evidence has", where="evidence", fix=_FIX)
            if any(i.compress_type != zipfile.ZIP_STORED or i.flag_bits & 1 for i in infos):
                raise DataError("compressed or encrypted members", where="evidence", fix=_FIX)
            if any(i.file_size != i.compress_size for i in infos) or sum(i.file_size for i in infos) > len(data):
                raise DataError("members larger than the file", where="evidence", fix=_FIX)
            return {m: _array(archive.read(i), m) for m, i in zip(_MEMBERS, infos, strict=True)}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as e:
        raise DataError("not a readable npz file", where="evidence", fix=_FIX) from e


def _header(raw: NDArray[np.uint8]) -> _Header:
    if len(raw) > _MAX_HEADER:
        raise DataError(f"header of {len(raw)} bytes", where="evidence, header", fix=_FIX)
    try:
        text = raw.tobytes().decode()
        content = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as e:
        raise DataError("not JSON", where="evidence, header", fix=_FIX) from e
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"schema {schema!r}, this edgesafe reads {SCHEMA}"[:120],
            where="evidence, header",
            fix="read it with the edgesafe that wrote it, or measure again",
        )
    try:
        header = _Header.model_validate_json(text, strict=True)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{key[:80]}: {first['msg']}", where="evidence, header", fix=_FIX) from e
    keys = [cell[:2] for cell in header.cells]
    if not keys or keys[0] != ("", 0) or len(set(keys)) != len(keys) or any(n < 1 for _, _, n in header.cells):
        raise DataError("no clean cell first, an empty cell, or a cell twice", where="evidence, header", fix=_FIX)
    return header


def from_bytes(data: bytes) -> Evidence:
    """An evidence from `to_bytes`'s bytes.

    Raises:
        DataError: truncated, oversized, of wrong types or shapes, inconsistent, or of another schema.
        NonFiniteError: NaN or infinity in it.
        NothingEvaluated: no clean images.
    """
    if len(data) > _MAX_BYTES:
        raise DataError(f"{len(data)} bytes", where="evidence", fix=_FIX)
    arrays = _members(data)
    header = _header(arrays["header"])
    rows = sum(n for _, _, n in header.cells)
    if any(len(arrays[c]) != rows for c in _COLUMNS):
        raise DataError(f"columns do not have the header's {rows} rows", where="evidence", fix=_FIX)
    cells: dict[tuple[str, int], Cell] = {}
    start = 0
    for corruption, severity, n in header.cells:
        part = slice(start, start + n)
        start += n
        ints = [arrays[c][part].astype(np.int64) for c in ("index", "label", "prediction")]
        floats = [arrays[c][part] for c in ("confidence", "nll", "margin")]
        cells[(corruption, severity)] = Cell(
            corruption, severity, ints[0], ints[1], ints[2], floats[0], floats[1], floats[2]
        )
    evidence = Evidence(cells.pop(("", 0)), arrays["logits"], header.provenance, cells)
    _validate(evidence)
    return evidence


def _validate(evidence: Evidence) -> None:
    """Everything that later statistics take for granted."""
    if len(evidence.clean.index) == 0:
        raise NothingEvaluated("no clean images", where="evidence", fix="measure at least one image")
    check_logits(evidence.logits, where="evidence, logits")
    k = evidence.logits.shape[1]
    if len(evidence.logits) != len(evidence.clean.index):
        raise DataError(f"{len(evidence.logits)} rows", where="evidence, logits", fix=_FIX)
    for (corruption, severity), cell in {("", 0): evidence.clean, **evidence.cells}.items():
        where = f"evidence, {corruption} {severity}" if corruption else "evidence, clean"
        if (corruption == "") != (severity == 0) or not 0 <= severity <= 5:
            raise DataError(f"severity {severity}", where=where, fix=_FIX)
        n = len(cell.index)
        columns = [getattr(cell, name) for name in _COLUMNS]
        if n == 0 or any(c.shape != (n,) for c in columns):
            raise DataError("empty, or columns of different lengths", where=where, fix=_FIX)
        if int(cell.index.min()) < 0 or int(cell.index.max()) >= 2**32 or len(np.unique(cell.index)) != n:
            raise DataError("an index is negative, too large or comes twice", where=where, fix=_FIX)
        for name in ("label", "prediction"):
            column = getattr(cell, name)
            if int(column.min()) < 0 or int(column.max()) >= k:
                raise DataError(f"a {name} is outside 0 to {k - 1}", where=where, fix=_FIX)
        if not all(np.isfinite(c).all() for c in columns):
            raise NonFiniteError("NaN or infinity", where=where, fix="repair the network and measure again")
        low, high = float(cell.confidence.min()), float(cell.confidence.max())
        if low < 1.0 / k - 1e-9 or high > 1.0 + 1e-9 or float(cell.nll.min()) < 0.0:
            raise DataError("a confidence or an NLL that no softmax gives", where=where, fix=_FIX)
    again = cell_from_logits(evidence.logits, evidence.clean.label, evidence.clean.index)
    same = (again.prediction == evidence.clean.prediction).all() and np.allclose(
        again.confidence, evidence.clean.confidence, rtol=0, atol=1e-9
    )
    if not same:
        raise DataError("the clean columns do not follow from the logits", where="evidence", fix=_FIX)
