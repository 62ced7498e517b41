"""certificates.npz: deterministic, checked in full on loading; the layout follows `measure.columns`.

header              uint8    UTF-8 JSON: schema, provenance, and per set its id, hash, range, engine and sizes
index … agrees               one entry per image and set, set after set (`_ROWS`)
answer_count        uint32   likewise: 0, or the number of answers that follow in `answers`
answers             uint16   of images whose answers differ within a complete set
witness_row         uint32   rows (within their set) of the witnesses that are kept as pixels
witness_prediction  uint16
witness_clean       uint8    (witnesses, H, W, C)
witness_changed     uint8    (witnesses, H, W, C)
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesafe.errors import NonFiniteError
from edgesafe.measure.columns import Column, Layout, pack, parse_header, unpack
from edgesafe.records import Record
from edgesafe.records.certificates import (
    CertificateEngine,
    CertificateProvenance,
    Certificates,
    SetCertificates,
    Standing,
    Witnesses,
)

__all__ = ["SCHEMA", "from_bytes", "to_bytes"]

SCHEMA = "edgesafe.certificates/1"
_ROWS = {
    "index": Column(np.uint32),
    "label": Column(np.uint16),
    "prediction": Column(np.uint16),
    "standing": Column(np.uint8),
    "margin": Column(np.float64),
    "distance": Column(np.float64),
    "witness": Column(np.int64),
    "members": Column(np.uint32),
    "ran": Column(np.uint32),
    "agrees": Column(np.int8),
    "answer_count": Column(np.uint32),
}
_WITNESSES = {
    "witness_row": Column(np.uint32),
    "witness_prediction": Column(np.uint16),
    "witness_clean": Column(np.uint8, 4),
    "witness_changed": Column(np.uint8, 4),
}
_LAYOUT = Layout("certificates", SCHEMA, {**_ROWS, "answers": Column(np.uint16), **_WITNESSES})
_KEPT_TYPES = {"standing": np.uint8, "margin": np.float64, "distance": np.float64, "agrees": np.int8}


class _SetHeader(Record):
    """What the header says of a set: its id, hash, range and engine, and the lengths of its columns."""

    id: str
    sha256: str
    unit: str
    reach: float
    engine: CertificateEngine
    outwards: bool
    complete: bool
    rows: int = Field(ge=1)
    answers: int = Field(ge=0)
    witnesses: tuple[str, ...]  #: which image of the set each is, in words


class _CertificatesHeader(Record):
    """What the member `header` holds, as JSON."""

    schema_: Literal["edgesafe.certificates/1"] = Field(default="edgesafe.certificates/1", alias="schema")
    provenance: CertificateProvenance
    sets: tuple[_SetHeader, ...] = Field(min_length=1)


def to_bytes(certificates: Certificates) -> bytes:
    """Deterministic npz of certificates.

    Raises:
        DataError: columns that contradict each other.
        NonFiniteError: a margin or a distance is not finite.
    """
    sets = certificates.sets
    if not sets:
        raise _LAYOUT.wrong("no sets")
    for part in sets:
        _validate(part)
    header = _CertificatesHeader(
        provenance=certificates.provenance,
        sets=tuple(
            _SetHeader(
                id=s.id, sha256=s.sha256, unit=s.unit, reach=s.reach, engine=s.engine, outwards=s.outwards,
                complete=s.complete, rows=len(s), answers=len(s.answers), witnesses=s.witnesses.text,
            )
            for s in sets
        ),
    )  # fmt: skip
    arrays = {name: np.concatenate([getattr(s, name) for s in sets]) for name in (*_ROWS, "answers")}
    shown = [s.witnesses for s in sets]
    arrays["witness_row"] = np.concatenate([w.row for w in shown])
    arrays["witness_prediction"] = np.concatenate([w.prediction for w in shown])
    arrays["witness_clean"] = _stacked([w.clean for w in shown])
    arrays["witness_changed"] = _stacked([w.changed for w in shown])
    return pack(_LAYOUT, header, arrays)


def _stacked(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    full = [part for part in parts if len(part)]
    return np.concatenate(full) if full else np.empty((0, 0, 0, 0), np.uint8)


def from_bytes(data: bytes) -> Certificates:
    """Certificates from `to_bytes`'s bytes.

    Raises:
        DataError: truncated, oversized, of wrong types or shapes, inconsistent, or of another schema.
        NonFiniteError: NaN or infinity in them.
    """
    arrays = unpack(data, _LAYOUT)
    header = parse_header(arrays["header"], _LAYOUT, _CertificatesHeader)
    ids = [head.id for head in header.sets]
    if len(set(ids)) != len(ids):
        raise _LAYOUT.wrong("a set twice", "header")
    for names, sizes in (
        (_ROWS, [head.rows for head in header.sets]),
        (("answers",), [head.answers for head in header.sets]),
        (_WITNESSES, [len(head.witnesses) for head in header.sets]),
    ):
        if any(len(arrays[name]) != sum(sizes) for name in names):
            raise _LAYOUT.wrong(f"columns do not have the header's {sum(sizes)} entries")
    if arrays["witness_clean"].shape != arrays["witness_changed"].shape:
        raise _LAYOUT.wrong("witnesses of two shapes")
    rows = accumulate((head.rows for head in header.sets), initial=0)
    answers = accumulate((head.answers for head in header.sets), initial=0)
    shown = accumulate((len(head.witnesses) for head in header.sets), initial=0)
    sets = tuple(
        _set(head, arrays, slice(a, a + head.rows), slice(b, b + head.answers), slice(c, c + len(head.witnesses)))
        for head, a, b, c in zip(header.sets, rows, answers, shown, strict=False)
    )
    for part in sets:
        _validate(part)
    return Certificates(sets, header.provenance)


def _set(
    head: _SetHeader, arrays: dict[str, NDArray[np.generic]], rows: slice, answers: slice, shown: slice
) -> SetCertificates:
    columns = {name: arrays[name][rows].astype(_KEPT_TYPES.get(name, np.int64)) for name in _ROWS}
    witnesses = Witnesses(
        row=arrays["witness_row"][shown].astype(np.int64),
        clean=arrays["witness_clean"][shown].astype(np.uint8),
        changed=arrays["witness_changed"][shown].astype(np.uint8),
        prediction=arrays["witness_prediction"][shown].astype(np.int64),
        text=head.witnesses,
    )
    return SetCertificates(
        id=head.id, sha256=head.sha256, unit=head.unit, reach=head.reach, engine=head.engine, outwards=head.outwards,
        complete=head.complete, answers=arrays["answers"][answers].astype(np.int64), witnesses=witnesses, **columns,
    )  # fmt: skip


def _validate(part: SetCertificates) -> None:
    """Check what metrics, gates and agreement take for granted of the certificates of a set.

    Raises:
        DataError: columns that contradict each other.
        NonFiniteError: a margin or a distance is not finite.
    """
    n = len(part.index)
    if any(getattr(part, name).shape != (n,) for name in _ROWS) or n == 0:
        raise _LAYOUT.wrong("no rows, or columns of different lengths", part.id)
    if not (np.isfinite(part.margin).all() and np.isfinite(part.distance).all()):
        raise NonFiniteError("NaN or infinity", where=f"certificates, {part.id}", fix="certify again")
    standing, witness, counts = part.standing, part.witness, part.answer_count
    falsified, certified = standing == Standing.FALSIFIED, standing == Standing.CERTIFIED
    enumerated = part.engine is CertificateEngine.ENUMERATION
    ran_all = part.ran - part.members
    wrong: list[tuple[str, bool]] = [
        ("an index comes twice or falls", bool((np.diff(part.index) <= 0).any() or part.index[0] < 0)),
        ("an unknown standing", bool((standing > max(Standing)).any())),
        ("a certified margin that is not positive", bool((part.margin[certified] <= 0.0).any())),
        ("a falsified margin that is positive", bool((part.margin[falsified] > 0.0).any())),
        ("a witness of an image that is not falsified", bool((witness[~falsified] != -1).any())),
        ("a falsified image without a witness", enumerated and bool((witness[falsified] < 0).any())),
        ("a certified image whose set was not run to the end", enumerated and bool((ran_all[certified] < 0).any())),
        ("a complete set that was not run to the end", part.complete and bool((ran_all < 0).any())),
        ("an unknown standing of an enumeration", enumerated and bool((standing == Standing.UNKNOWN).any())),
        ("a distance outside the range", bool((part.distance < 0).any() or (part.distance > part.reach).any())),
        ("an agreement other than -1, 0, 1", bool((np.abs(part.agrees.astype(int)) > 1).any())),
        ("answers that are not one per image", bool(((counts != 0) & (counts != part.members)).any())),
        ("answers of other images", int(counts.sum()) != len(part.answers)),
        ("a certified image that is predicted wrongly", bool((part.prediction != part.label)[certified].any())),
        ("witnesses of other rows", _bad_witnesses(part, falsified)),
    ]
    for what, holds in wrong:
        if holds:
            raise _LAYOUT.wrong(what, part.id)


def _bad_witnesses(part: SetCertificates, falsified: NDArray[np.bool_]) -> bool:
    shown = part.witnesses
    sizes = {len(shown.row), len(shown.clean), len(shown.changed), len(shown.prediction), len(shown.text)}
    if len(sizes) != 1 or (shown.row >= len(part)).any():
        return True
    return bool((~falsified[shown.row]).any() or (shown.prediction == part.label[shown.row]).any())
