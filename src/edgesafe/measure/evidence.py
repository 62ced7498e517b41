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

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.columns import Column, Layout, pack, parse_header, unpack
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
_LAYOUT = Layout(
    "evidence", SCHEMA, {**{name: Column(dtype) for name, dtype in _COLUMNS.items()}, "logits": Column(np.float32, 2)}
)
_FIX = "measure again: the file is damaged or is not edgesafe's"


class _EvidenceHeader(Record):
    """What the member `header` holds, as JSON."""

    schema_: Literal["edgesafe.evidence/2"] = Field(default="edgesafe.evidence/2", alias="schema")
    provenance: Provenance
    cells: tuple[tuple[str, int, int], ...]  #: corruption, severity, rows; the clean cell first


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
    header = _EvidenceHeader(
        provenance=evidence.provenance, cells=tuple((c.corruption, c.severity, len(c.index)) for c in cells)
    )
    _validate(evidence)
    arrays = {name: np.concatenate([getattr(c, name) for c in cells]) for name in _COLUMNS}
    return pack(_LAYOUT, header, {**arrays, "logits": evidence.logits})


def _header(raw: NDArray[np.uint8]) -> _EvidenceHeader:
    header = parse_header(raw, _LAYOUT, _EvidenceHeader)
    keys = [cell[:2] for cell in header.cells]
    if not keys or keys[0] != ("", 0) or len(set(keys)) != len(keys) or any(n < 1 for _, _, n in header.cells):
        raise _LAYOUT.wrong("no clean cell first, an empty cell, or a cell twice", "header")
    return header


def from_bytes(data: bytes) -> Evidence:
    """An evidence from `to_bytes`'s bytes.

    Raises:
        DataError: truncated, oversized, of wrong types or shapes, inconsistent, or of another schema.
        NonFiniteError: NaN or infinity in it.
        NothingEvaluated: no clean images.
    """
    arrays = unpack(data, _LAYOUT)
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
    """Check what later statistics take for granted: lengths, ranges, and that the clean columns follow from the logits.

    Raises:
        DataError: columns that contradict each other, or numbers out of range.
        NonFiniteError: NaN or infinity in a cell or the logits.
        NothingEvaluated: no clean images.
    """
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
