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

Of keypoints there is neither confidence nor nll; after margin comes errors, float64 (rows, P), the distance of each
keypoint to its label in px; the header holds the task; logits are the outputs of the file.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated
from edgesafe.measure.columns import Column, Layout, pack, parse_header, unpack
from edgesafe.measure.probabilities import check_logits
from edgesafe.measure.tasks import columns_of, rules_of
from edgesafe.records import Cell, Evidence, Provenance, Record, Task, TaskKind

__all__ = ["SCHEMA", "from_bytes", "to_bytes"]

SCHEMA = "edgesafe.evidence/2"


def _layout(kind: TaskKind) -> Layout:
    columns = {name: Column(dtype, dims) for name, (dtype, dims) in columns_of(kind).items()}
    return Layout("evidence", SCHEMA, {**columns, "logits": Column(np.float32, 2)})


_LAYOUTS = {kind: _layout(kind) for kind in TaskKind}
_FIX = "measure again: the file is damaged or is not edgesafe's"


class _EvidenceHeader(Record):
    """What the member `header` holds, as JSON."""

    schema_: Literal["edgesafe.evidence/2"] = Field(default="edgesafe.evidence/2", alias="schema")
    provenance: Provenance
    cells: tuple[tuple[str, int, int], ...]  #: corruption, severity, rows; the clean cell first
    #: None, and not stored: a classification
    task: Task | None = Field(default=None, exclude_if=lambda task: task is None)


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
    task = evidence.task
    header = _EvidenceHeader(
        provenance=evidence.provenance,
        cells=tuple((c.corruption, c.severity, len(c.index)) for c in cells),
        task=None if task.kind is TaskKind.CLASSIFICATION else task,
    )
    _validate(evidence)
    layout = _LAYOUTS[task.kind]
    arrays = {name: np.concatenate([getattr(c, name) for c in cells]) for name in layout.columns if name != "logits"}
    return pack(layout, header, {**arrays, "logits": evidence.logits})


def _header(raw: NDArray[np.uint8]) -> _EvidenceHeader:
    layout = _LAYOUTS[TaskKind.CLASSIFICATION]
    header = parse_header(raw, layout, _EvidenceHeader)
    keys = [cell[:2] for cell in header.cells]
    if not keys or keys[0] != ("", 0) or len(set(keys)) != len(keys) or any(n < 1 for _, _, n in header.cells):
        raise layout.wrong("no clean cell first, an empty cell, or a cell twice", "header")
    return header


def from_bytes(data: bytes) -> Evidence:
    """An evidence from `to_bytes`'s bytes.

    Raises:
        DataError: truncated, oversized, of wrong types or shapes, inconsistent, or of another schema.
        NonFiniteError: NaN or infinity in it.
        NothingEvaluated: no clean images.
    """
    arrays = unpack(data, *_LAYOUTS.values())
    header = _header(arrays["header"])
    task = header.task or Task()
    layout = _LAYOUTS[task.kind]
    rows = sum(n for _, _, n in header.cells)
    columns = [name for name in layout.columns if name != "logits"]
    if any(name not in arrays or len(arrays[name]) != rows for name in columns):
        raise DataError(f"columns do not have the header's {rows} rows", where="evidence", fix=_FIX)
    cells: dict[tuple[str, int], Cell] = {}
    start = 0
    for corruption, severity, n in header.cells:
        part = slice(start, start + n)
        start += n
        own = {name: arrays[name][part] for name in columns}
        ints = {name: column.astype(np.int64) for name, column in own.items() if column.dtype.kind == "u"}
        cells[(corruption, severity)] = Cell(corruption, severity, **(_not_stated(n) | own | ints))
    evidence = Evidence(cells.pop(("", 0)), arrays["logits"], header.provenance, cells, task)
    _validate(evidence)
    return evidence


def _not_stated(n: int) -> dict[str, NDArray[Any]]:
    """What a task without confidences has in their columns."""
    return {"confidence": np.ones(n), "nll": np.zeros(n)}


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
    names = [name for name in _LAYOUTS[evidence.task.kind].columns if name != "logits"]
    if len(evidence.logits) != len(evidence.clean.index):
        raise DataError(f"{len(evidence.logits)} rows", where="evidence, logits", fix=_FIX)
    for (corruption, severity), cell in {("", 0): evidence.clean, **evidence.cells}.items():
        where = f"evidence, {corruption} {severity}" if corruption else "evidence, clean"
        if (corruption == "") != (severity == 0) or not 0 <= severity <= 5:
            raise DataError(f"severity {severity}", where=where, fix=_FIX)
        n = len(cell.index)
        columns = [getattr(cell, name) for name in names]
        if n == 0 or any(c is None or c.shape[:1] != (n,) for c in columns):
            raise DataError("empty, or columns of different lengths", where=where, fix=_FIX)
        if int(cell.index.min()) < 0 or int(cell.index.max()) >= 2**32 or len(np.unique(cell.index)) != n:
            raise DataError("an index is negative, too large or comes twice", where=where, fix=_FIX)
        if not all(np.isfinite(c).all() for c in columns):
            raise NonFiniteError("NaN or infinity", where=where, fix="repair the network and measure again")
    rules_of(evidence.task).check(evidence)
