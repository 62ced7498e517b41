"""Evidence files: round trip, determinism, and every attack ends in a named error."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measure_fixtures import synthetic_evidence

from edgesafe.errors import DataError, EdgesafeError, NonFiniteError
from edgesafe.measure.evidence import (
    SCHEMA,
    from_bytes,
    to_bytes,
)
from edgesafe.records import DirectoryCorruptions, Evidence, GeneratedCorruptions, Provenance, Sample, SampleDesign

CELLS = {("fog", 2): np.arange(3, 40), ("blur", 5): np.arange(0, 400, 7)}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return synthetic_evidence(400, CELLS)


@pytest.fixture(scope="module")
def data(evidence: Evidence) -> bytes:
    return to_bytes(evidence)


def test_round_trip(evidence: Evidence, data: bytes) -> None:
    again = from_bytes(data)
    assert set(again.cells) == set(CELLS)
    assert again.provenance == evidence.provenance
    assert (again.logits == evidence.logits).all()
    for a, b in [(again.clean, evidence.clean), *((again.cells[k], evidence.cells[k]) for k in CELLS)]:
        assert (a.corruption, a.severity) == (b.corruption, b.severity)
        for name in ("index", "label", "prediction", "confidence", "nll", "margin"):
            assert (getattr(a, name) == getattr(b, name)).all()
            assert getattr(a, name).dtype == getattr(b, name).dtype
    assert to_bytes(again) == data


def test_bytes_do_not_depend_on_the_order_of_cells(evidence: Evidence, data: bytes) -> None:
    turned = Evidence(
        evidence.clean,
        evidence.logits,
        evidence.provenance,
        dict(reversed(list(evidence.cells.items()))),
    )
    assert to_bytes(turned) == data


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_CORRUPTIONS = st.one_of(
    st.none(),
    st.builds(
        GeneratedCorruptions, generator=_TEXT, profile=_TEXT, seed=st.integers(), frost=_TEXT, frost_sha256=_TEXT,
        data_sha256=_TEXT, not_meaningful=st.lists(_TEXT, max_size=2).map(tuple),
    ),
    st.builds(DirectoryCorruptions, made_by=_TEXT, fingerprint=_TEXT, frost=_TEXT, seed=st.none() | st.integers()),
)  # fmt: skip
_SAMPLES = st.none() | st.builds(
    Sample, design=st.none() | st.sampled_from(SampleDesign), seed=st.integers(), benchmark=st.none() | st.integers(1),
    looks=st.integers(1, 9), look=st.integers(1, 9), frame_sha256=st.none() | _TEXT,
    cells=st.lists(st.tuples(_TEXT, st.integers(1, 5)), max_size=2).map(tuple),
)  # fmt: skip
_PROVENANCES = st.builds(
    Provenance, test_sha256=_TEXT, onnx_sha256=_TEXT, provider=_TEXT, corruptions=_CORRUPTIONS, sample=_SAMPLES
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 30), st.integers(0, 1000), _PROVENANCES)
def test_round_trip_of_any_provenance(n: int, seed: int, provenance: Provenance) -> None:
    e = replace(synthetic_evidence(n, {("é", 1): np.arange(n)}, seed=seed), provenance=provenance)
    again = from_bytes(to_bytes(e))
    assert again.provenance == provenance
    assert to_bytes(again) == to_bytes(e)


def test_numpy_reads_it_without_pickle(data: bytes) -> None:
    with np.load(io.BytesIO(data), allow_pickle=False) as z:
        assert json.loads(z["header"].tobytes())["schema"] == SCHEMA
        assert z["index"].dtype == np.uint32


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated(data: bytes, share: float) -> None:
    with pytest.raises(DataError):
        from_bytes(data[: int(share * len(data))])


@settings(max_examples=150)
@given(st.data())
def test_flipped_bytes_never_pass_silently_as_something_else(draw: st.DataObject) -> None:
    """A changed byte is refused (zip CRCs), or the evidence is the same (unused zip fields)."""
    e = synthetic_evidence(20)
    raw = bytearray(to_bytes(e))
    at = draw.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= draw.draw(st.integers(1, 255))
    try:
        again = from_bytes(bytes(raw))
    except EdgesafeError:
        return
    assert to_bytes(again) == to_bytes(e)


def rewritten(
    data: bytes,
    changes: dict[str, bytes | None],
    *,
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """The file with members replaced (None: left out) and added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", method) as target:
        for info in source.infolist():
            body = changes.get(info.filename, source.read(info))
            if body is not None:
                target.writestr(info.filename, body)
        for name, body in (extra or {}).items():
            target.writestr(name, body)
    return out.getvalue()


def npy(array: Any, **kw: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array), **kw)
    return out.getvalue()


def member(data: bytes, name: str) -> Any:
    with np.load(io.BytesIO(data), allow_pickle=False) as z:
        return z[name]


def header(data: bytes, **changes: Any) -> bytes:
    found = {**json.loads(member(data, "header").tobytes()), **changes}
    return npy(np.frombuffer(json.dumps(found).encode(), np.uint8))


SAMPLE: dict[str, Any] = {"design": "cell", "seed": 0, "benchmark": 9}


def provenance(data: bytes, **changes: Any) -> bytes:
    return header(data, provenance={**json.loads(member(data, "header").tobytes())["provenance"], **changes})


def corruptions(data: bytes, **changes: Any) -> bytes:
    found = json.loads(member(data, "header").tobytes())["provenance"]["corruptions"]
    return provenance(data, corruptions={**found, **changes})


def claims(shape: str) -> bytes:
    """A .npy that claims a shape its bytes do not have."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 64


ATTACKS: dict[str, Any] = {
    "member missing": lambda d: rewritten(d, {"nll.npy": None}),
    "member added": lambda d: rewritten(d, {}, extra={"x.npy": npy([1])}),
    "path in a name": lambda d: rewritten(d, {"nll.npy": None}, extra={"../nll.npy": npy([1.0])}),
    "compressed (zip bomb)": lambda d: rewritten(d, {"nll.npy": npy(np.zeros(10**6))}, method=zipfile.ZIP_DEFLATED),
    "pickle inside": lambda d: rewritten(d, {"nll.npy": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)}),
    "absurd shape": lambda d: rewritten(d, {"nll.npy": claims("(1152921504606846976,)")}),
    "negative shape": lambda d: rewritten(d, {"nll.npy": claims("(-1,)")}),
    "shape not numbers": lambda d: rewritten(d, {"nll.npy": claims("('a',)")}),
    "float32 column": lambda d: rewritten(d, {"nll.npy": npy(member(d, "nll").astype(np.float32))}),
    "big-endian column": lambda d: rewritten(d, {"nll.npy": npy(member(d, "nll").astype(">f8"))}),
    "two-dimensional column": lambda d: rewritten(d, {"nll.npy": npy(member(d, "nll")[None])}),
    "short column": lambda d: rewritten(d, {"nll.npy": npy(member(d, "nll")[:-1])}),
    "logits of other rows": lambda d: rewritten(d, {"logits.npy": npy(member(d, "logits")[:-1])}),
    "logits swapped": lambda d: rewritten(d, {"logits.npy": npy(member(d, "logits")[::-1].copy())}),
    "not a npy": lambda d: rewritten(d, {"nll.npy": b"hello"}),
    "empty member": lambda d: rewritten(d, {"nll.npy": b""}),
    "older schema": lambda d: rewritten(d, {"header.npy": header(d, schema="edgesafe.evidence/1")}),
    "newer schema": lambda d: rewritten(d, {"header.npy": header(d, schema="edgesafe.evidence/3")}),
    "schema not text": lambda d: rewritten(d, {"header.npy": header(d, schema=[["x" * 10**4]])}),
    "provenance missing": lambda d: rewritten(d, {"header.npy": header(d, provenance=None)}),
    "provenance unknown key": lambda d: rewritten(d, {"header.npy": provenance(d, more=1)}),
    "provenance text for a hash": lambda d: rewritten(d, {"header.npy": provenance(d, test_sha256=5)}),
    "corruptions of no source": lambda d: rewritten(d, {"header.npy": provenance(d, corruptions={"source": "x"})}),
    "corruptions without a seed": lambda d: rewritten(d, {"header.npy": corruptions(d, seed=None)}),
    "seed as text": lambda d: rewritten(d, {"header.npy": corruptions(d, seed="0")}),
    "sample of no known design": lambda d: rewritten(d, {"header.npy": provenance(d, sample=SAMPLE | {"design": "x"})}),
    "sample of no looks": lambda d: rewritten(d, {"header.npy": provenance(d, sample=SAMPLE | {"looks": 0})}),
    "sample of no benchmark": lambda d: rewritten(d, {"header.npy": provenance(d, sample=SAMPLE | {"benchmark": 0})}),
    "NaN in the header": lambda d: rewritten(d, {"header.npy": provenance(d, sample=SAMPLE | {"seed": float("nan")})}),
    "unknown key": lambda d: rewritten(d, {"header.npy": header(d, more=1)}),
    "rows that do not add up": lambda d: rewritten(d, {"header.npy": header(d, cells=[["", 0, 400]])}),
    "no clean cell": lambda d: rewritten(d, {"header.npy": header(d, cells=[["fog", 1, 495]])}),
    "cell twice": lambda d: rewritten(d, {"header.npy": header(d, cells=[["", 0, 400], ["fog", 2, 37], ["fog", 2,
    58]])}), "negative rows": lambda d: rewritten(d, {"header.npy": header(d, cells=[["", 0, -400]])}),
    "severity 9": lambda d: rewritten(d, {"header.npy": header(d, cells=[["", 0, 400], ["blur", 9, 58], ["fog", 2,
    37]])}), "cells not a list": lambda d: rewritten(d, {"header.npy": header(d, cells=3)}),
    "true for a number": lambda d: rewritten(d, {"header.npy": header(d, cells=[["", False, 495]])}),
    "header not JSON": lambda d: rewritten(d, {"header.npy": npy(np.frombuffer(b"{", np.uint8))}),
    "deep JSON": lambda d: rewritten(d, {"header.npy": npy(np.frombuffer(b"[" * 10**5, np.uint8))}),
    "huge header": lambda d: rewritten(d, {"header.npy": npy(np.full(2 << 20, 32, np.uint8))}),
    "index twice": lambda d: rewritten(d, {"index.npy": npy(np.zeros_like(member(d, "index")))}),
    "label out of range": lambda d: rewritten(d, {"label.npy": npy(np.full_like(member(d, "label"), 5))}),
    "confidence above 1": lambda d: rewritten(d, {"confidence.npy": npy(member(d, "confidence") + 1)}),
    "confidence below 1/K": lambda d: rewritten(d, {"confidence.npy": npy(member(d, "confidence") * 0.1)}),
    "prediction changed": lambda d: rewritten(d, {"prediction.npy": npy((member(d, "prediction") + 1) % 5)}),
    "negative NLL": lambda d: rewritten(d, {"nll.npy": npy(-1 - member(d, "nll"))}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(data: bytes, name: str) -> None:
    with pytest.raises(DataError) as caught:
        from_bytes(ATTACKS[name](data))
    assert "evidence" in caught.value.where
    assert "\n" not in str(caught.value)


def test_the_attack_tool_itself_changes_nothing(data: bytes) -> None:
    assert to_bytes(from_bytes(rewritten(data, {}))) == data


@pytest.mark.parametrize("name", ["confidence", "nll", "margin", "logits"])
def test_nan_is_refused_both_ways(evidence: Evidence, data: bytes, name: str) -> None:
    column = member(data, name).copy()
    column.ravel()[3] = np.nan
    with pytest.raises(NonFiniteError):
        from_bytes(rewritten(data, {f"{name}.npy": npy(column)}))
    if name != "logits":
        broken = getattr(evidence.clean, name).copy()
        broken[0] = np.inf
        with pytest.raises(NonFiniteError):
            to_bytes(replace(evidence, clean=replace(evidence.clean, **{name: broken})))


def test_the_attack_on_a_sample_begins_with_one_that_passes(data: bytes) -> None:
    again = from_bytes(rewritten(data, {"header.npy": provenance(data, sample=SAMPLE)}))
    assert again.provenance.sample == Sample(design=SampleDesign.CELL, seed=0, benchmark=9)


def test_what_cannot_be_stored(evidence: Evidence) -> None:
    with pytest.raises(DataError, match="key cells"):
        to_bytes(replace(evidence, cells={("fog", 3): evidence.cells["fog", 2]}))
