"""Files made to break the reader of pruned weights. Each must end in a named error, without a large allocation."""

from __future__ import annotations

import io
import json
import pickle
import random
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesafe.errors import EdgesafeError, WeightsError
from edgesafe.surgery.format import decode, encode
from edgesafe.surgery.rebuild import load_bytes, save_bytes
from edgesafe.surgery.sparse import METADATA_KEY, pack, unpack

GOOD = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_good_file_is_good() -> None:
    data = encode(GOOD, {"k": "v"})
    tensors, metadata = decode(data)
    assert metadata == {"k": "v"}
    assert all(torch.equal(tensors[k], v) for k, v in GOOD.items())


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "truncated"),
    "seven bytes": (lambda: b"\x01" * 7, "truncated"),
    "header longer than the file": (lambda: file({}, length=10_000), "claims"),
    "header of 2^63 bytes": (lambda: file({}, length=2**63), "claims"),
    "header is a list": (lambda: file([]), "not a JSON object"),
    "header is not JSON": (lambda: file(b"{'a': 1}"), "not JSON"),
    "header is not UTF-8": (lambda: file(b"{\xff\xfe}"), "not JSON"),
    "header nested a million deep": (lambda: file(b'{"a":' + b"[" * 1_000_000), "not JSON"),
    "duplicate key": (
        lambda: file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                     b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4), "twice"),
    "duplicate key inside": (
        lambda: file(b'{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4), "twice"),
    "NaN in the header": (lambda: file(b'{"a":NaN}'), "NaN"),
    "metadata of numbers": (lambda: file({"__metadata__": {"a": 1}}), "metadata"),
    "entry is a number": (lambda: file({"a": 1}), "header entry"),
    "unknown field": (lambda: file({"a": {**entry([1], [0, 4]), "x": 1}}, b"\0" * 4), "header entry"),
    "unknown dtype": (lambda: file({"a": entry([1], [0, 4], "F31")}, b"\0" * 4), "dtype"),
    "dtype is a list": (lambda: file({"a": entry([1], [0, 4], [])}, b"\0" * 4), "dtype"),
    "negative shape": (lambda: file({"a": entry([-1, -1], [0, 4])}, b"\0" * 4), "absurd shape"),
    "shape of true": (lambda: file({"a": entry([True], [0, 4])}, b"\0" * 4), "absurd shape"),
    "shape of 2^70": (lambda: file({"a": entry([2**70], [0, 4])}, b"\0" * 4), "absurd shape"),
    "shape whose product overflows": (lambda: file({"a": entry([2**62, 4], [0, 4])}, b"\0" * 4), "needs"),
    "shape of 10^12 elements": (lambda: file({"a": entry([10**6, 10**6], [0, 4])}, b"\0" * 4), "needs"),
    "a thousand dimensions": (lambda: file({"a": entry([1] * 1000, [0, 4])}, b"\0" * 4), "absurd shape"),
    "offsets reversed": (lambda: file({"a": entry([1], [4, 0])}, b"\0" * 4), "offsets"),
    "three offsets": (lambda: file({"a": entry([1], [0, 4, 8])}, b"\0" * 4), "offsets"),
    "offset beyond the end": (lambda: file({"a": entry([2], [0, 8])}, b"\0" * 4), "truncated"),
    "a hole": (lambda: file({"a": entry([1], [4, 8])}, b"\0" * 8), "hole"),
    "overlap": (lambda: file({"a": entry([2], [0, 8]), "b": entry([1], [4, 8])}, b"\0" * 8), "overlap"),
    "trailing bytes": (lambda: encode(GOOD, {}) + b"\0", "follow"),
    "truncated by a byte": (lambda: encode(GOOD, {})[:-1], "truncated"),
    "a boolean of 2": (lambda: file({"a": entry([1], [0, 1], "BOOL")}, b"\x02"), "boolean"),
    "a pickle": (lambda: pickle.dumps(GOOD), "pickle"),
    "a torch file": (lambda: torch_file(zipped=True), "pickle"),
    "an old torch file": (lambda: torch_file(zipped=False), "pickle"),
}  # fmt: skip


def torch_file(*, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(GOOD, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_file_is_a_named_error(name: str) -> None:
    make, words = ATTACKS[name]
    data = make()
    tracemalloc.start()
    with pytest.raises(WeightsError, match=words):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(data) + 1_000_000


class Boom:
    """Unpickling this would end the test run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pickle_bomb_is_never_run() -> None:
    for data in (pickle.dumps(Boom()), pickle.dumps(Boom(), 0), file({}, pickle.dumps(Boom()))):
        with pytest.raises(WeightsError):
            decode(data)


EMPTY = torch.zeros(2, dtype=torch.uint8)
SPARSE: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "mask too long": ({"w#mask": torch.zeros(3, dtype=torch.uint8), "w#values": torch.zeros(0)}, "does not fit"),
    "spare bits set": ({"w#mask": torch.tensor([0, 0xF0], dtype=torch.uint8), "w#values": torch.zeros(0)}, "names"),
    "too few values": ({"w#mask": torch.tensor([3, 0], dtype=torch.uint8), "w#values": torch.zeros(1)}, "names 2"),
    "mask of floats": ({"w#mask": torch.zeros(2), "w#values": torch.zeros(0)}, "wrong type"),
    "values missing": ({"w#mask": torch.zeros(2, dtype=torch.uint8)}, "missing"),
    "dense as well": ({"w": torch.zeros(1), "w#mask": EMPTY, "w#values": torch.zeros(0)}, "dense and sparse"),
    "unnamed part": ({"w#mask": EMPTY, "w#values": torch.zeros(0), "x#mask": EMPTY}, "not name"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPARSE)
def test_bad_sparse_parts(name: str) -> None:
    tensors, words = SPARSE[name]
    with pytest.raises(WeightsError, match=words):
        unpack(tensors, {METADATA_KEY: '{"w":[3,4]}'})


@pytest.mark.parametrize("text", ["[]", "{", '{"w":4}', '{"w":[-1]}', '{"w":[true]}', '{"w":[1e9]}', "[" * 100_000])
def test_bad_sparse_shapes(text: str) -> None:
    with pytest.raises(WeightsError):
        unpack({"w#mask": torch.zeros(2, dtype=torch.uint8), "w#values": torch.zeros(0)}, {METADATA_KEY: text})


def test_a_sparse_bomb_allocates_nothing() -> None:
    """A shape of 10^18 with a tiny mask must not be believed."""
    tensors = {"w#mask": torch.zeros(2, dtype=torch.uint8), "w#values": torch.zeros(0)}
    with pytest.raises(WeightsError, match="does not fit"):
        unpack(tensors, {METADATA_KEY: '{"w":[1000000000,1000000000]}'})


def test_names_that_look_like_parts_are_refused_when_writing() -> None:
    with pytest.raises(WeightsError, match="rename"):
        pack({"a#mask": torch.zeros(3)})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_damaged_byte_is_an_error_or_other_values(seed: int) -> None:
    """Flip bytes anywhere: a typed error, or a file of the same structure; never another exception."""
    rng = random.Random(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    data = bytearray(save_bytes(model, sparse=rng.random() < 0.5))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data) if rng.random() < 0.3 else 400)] = rng.randrange(256)
    try:
        loaded = load_bytes(model, bytes(data))
    except EdgesafeError:
        return
    assert loaded[0].out_channels == loaded[1].num_features


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_an_error(data: bytes) -> None:
    with pytest.raises(WeightsError):
        decode(data)
