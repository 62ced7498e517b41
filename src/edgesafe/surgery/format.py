"""The file format of pruned weights: safetensors, written with deterministic bytes and read without trust.

A safetensors file is: 8 bytes, the header's length (unsigned, little-endian); the header, JSON; the tensors' bytes,
little-endian and row-major. The header gives each tensor's dtype, shape and [begin, end) within the data, and
`__metadata__` maps strings to strings. We write names in sorted order, compact JSON with sorted keys, padded with
spaces to a multiple of 8. Sparse tensors are described in `docs/format.md` and `surgery.sparse`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import WeightsError

__all__ = ["DTYPES", "HEADER_LIMIT", "decode", "encode"]

HEADER_LIMIT = 100_000_000  #: bytes; the limit of the reference implementation
_LENGTH = 8
_METADATA = "__metadata__"
_FIX = "take the file from the study that wrote it, or prune again"

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. Equal arguments give equal bytes.

    Args:
        tensors: by name, on the CPU.
        metadata: strings only.

    Raises:
        WeightsError: a dtype that the format does not know, or a reserved name.
    """
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = dict(metadata)
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype not in _NAMES or name == _METADATA:
            raise WeightsError(f"cannot store a tensor of {tensor.dtype}", where=name, fix="use float or int tensors")
        raw = _raw(tensor)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        offset += len(raw)
        chunks.append(raw)
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % _LENGTH)
    return b"".join((len(text).to_bytes(_LENGTH, "little"), text, *chunks))


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file; every byte of it must be accounted for.

    Args:
        data: the whole file.

    Returns:
        Tensors by name (copies), and the metadata.

    Raises:
        WeightsError: anything that is not exactly a safetensors file: truncated, trailing bytes, duplicate keys, holes,
            overlaps, shapes that do not fit their bytes, a pickle.
    """
    header, body = _header(data)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise _bad("its metadata is not a map of strings")
    entries = sorted((_entry(name, value) for name, value in header.items()), key=lambda e: (e.begin, e.end))
    position = 0
    tensors = {}
    for entry in entries:
        if entry.begin != position:
            raise _bad(f"a hole or an overlap before byte {entry.begin}", entry.name)
        position = entry.end
        if position > len(body):
            raise _bad(f"truncated: {len(body)} bytes of data, {position} needed", entry.name)
        tensors[entry.name] = _tensor(body[entry.begin : entry.end], entry)
    if position != len(body):
        raise _bad(f"{len(body) - position} bytes follow the last tensor")
    return dict(sorted(tensors.items())), metadata


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _bad(what: str, where: str = "safetensors") -> WeightsError:
    return WeightsError(what, where=where, fix=_FIX)


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    if data[_LENGTH : _LENGTH + 1] != b"{" and (data[:4] == b"PK\x03\x04" or data[:1] == b"\x80"):
        raise _bad("this is a pickle (a torch.save file), which can run code when it is loaded")
    if len(data) < _LENGTH + 2:
        raise _bad(f"truncated: {len(data)} bytes")
    length = int.from_bytes(data[:_LENGTH], "little")
    if length > min(HEADER_LIMIT, len(data) - _LENGTH):
        raise _bad(f"its header claims {length} bytes, the file has {len(data)}")
    text = data[_LENGTH : _LENGTH + length]
    if text[:1] != b"{":
        raise _bad("its header is not a JSON object")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise _bad(f"its header is not JSON: {error}") from error
    return header, data[_LENGTH + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [key for key, _ in pairs]
        raise _bad("a key occurs twice in the header", next(n for n in names if names.count(n) > 1))
    return result


def _no_constant(text: str) -> Any:
    raise _bad(f"its header holds {text}")


def _entry(name: str, value: Any) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad("its header entry is not {dtype, shape, data_offsets}", name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _bad(f"unknown dtype {dtype!r}", name)
    if not _integers(shape) or len(shape) > 8:
        raise _bad(f"absurd shape {str(shape)[:60]}", name)
    if not _integers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(f"absurd offsets {str(offsets)[:60]}", name)
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if size != offsets[1] - offsets[0]:
        raise _bad(f"shape {tuple(shape)} of {dtype} needs {size} bytes, {offsets[1] - offsets[0]} are given", name)
    return _Entry(name, DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _integers(values: Any) -> bool:
    """A list of whole numbers >= 0 that fit 63 bits (True is not a number)."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _raw(tensor: Tensor) -> bytes:
    if tensor.numel() == 0:
        return b""
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _tensor(raw: bytes, entry: _Entry) -> Tensor:
    if entry.dtype is torch.bool and raw.strip(b"\x00\x01"):
        raise _bad("a boolean is neither 0 nor 1", entry.name)
    if not raw:
        return torch.empty(entry.shape, dtype=entry.dtype)
    return torch.frombuffer(bytearray(raw), dtype=entry.dtype).reshape(entry.shape)
