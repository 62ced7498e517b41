"""Sparse tensors inside a safetensors file: one bit per element, and the values of the elements that are not zero.

A tensor NAME of n elements becomes two: `NAME#mask`, U8 (ceil(n / 8),), bit i % 8 of byte i // 8 (least significant
first) is 1 where element i (row-major) is stored, spare bits are 0; and `NAME#values`, the stored elements in order.
Metadata key `edgesafe.sparse` holds {NAME: shape} as JSON. "Zero" means all bits zero: -0.0 is stored, so that nothing
changes.

Break-even: n/8 + w (1 - s) n < w n, so a share of zeros s > 1/(8 w): 3.125 % for float32, 6.25 % for float16. A tensor
is stored sparse only where that saves bytes, the longer header included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgesafe.errors import WeightsError

__all__ = ["HEADER_COST", "METADATA_KEY", "pack", "unpack"]

METADATA_KEY = "edgesafe.sparse"
HEADER_COST = 160  #: bytes that a second header entry and the shape cost at most
_MASK, _VALUES = "#mask", "#values"
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Replace each tensor that gets smaller by its mask and values.

    Returns:
        The tensors to store, and metadata to store with them (empty if none is sparse).

    Raises:
        WeightsError: a tensor's own name looks like a mask or values.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if name.endswith((_MASK, _VALUES)):
            raise WeightsError("a parameter's name ends like a sparse tensor's part", where=name, fix="rename it")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        present = _bits(flat) != 0
        size = -(-flat.numel() // 8) + int(present.sum()) * flat.element_size()
        if tensor.is_floating_point() and size + HEADER_COST < flat.numel() * flat.element_size():
            packed = np.packbits(present.numpy(), bitorder="little")
            stored[name + _MASK] = torch.from_numpy(packed)
            stored[name + _VALUES] = flat[present]
            shapes[name] = list(tensor.shape)
        else:
            stored[name] = tensor
    metadata = {METADATA_KEY: json.dumps(shapes, sort_keys=True, separators=(",", ":"))} if shapes else {}
    return stored, metadata


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The dense tensors again, bit for bit.

    Raises:
        WeightsError: mask, values and shape do not belong together.
    """
    dense = dict(tensors)
    for name, shape in _shapes(metadata).items():
        if name in dense:
            raise WeightsError("a tensor is stored dense and sparse", where=name)
        mask, values = dense.pop(name + _MASK, None), dense.pop(name + _VALUES, None)
        if mask is None or values is None:
            raise WeightsError("mask or values of a sparse tensor are missing", where=name)
        dense[name] = _inflate(name, shape, mask, values)
    stray = [name for name in dense if name.endswith((_MASK, _VALUES))]
    if stray:
        raise WeightsError("a part of a sparse tensor that the metadata do not name", where=stray[0])
    return dense


def _shapes(metadata: Mapping[str, str]) -> dict[str, list[int]]:
    try:
        shapes = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the sparse shapes are not JSON: {error}", where=METADATA_KEY) from error
    if not isinstance(shapes, dict) or any(
        not isinstance(shape, list) or len(shape) > 8 or any(type(v) is not int or not 0 <= v < 2**63 for v in shape)
        for shape in shapes.values()
    ):
        raise WeightsError("absurd sparse shapes", where=METADATA_KEY)
    return shapes


def _inflate(name: str, shape: list[int], mask: Tensor, values: Tensor) -> Tensor:
    size = math.prod(shape)
    if mask.dtype is not torch.uint8 or mask.dim() != 1 or values.dim() != 1 or not values.is_floating_point():
        raise WeightsError("mask or values of a sparse tensor have the wrong type or shape", where=name)
    if mask.numel() != -(-size // 8):  # bounds the memory of what follows by the size of the file
        raise WeightsError(f"a mask of {mask.numel()} bytes does not fit shape {tuple(shape)}", where=name)
    bits = np.unpackbits(mask.numpy(), bitorder="little").astype(bool)
    if bits[size:].any() or int(bits.sum()) != values.numel():
        raise WeightsError(f"the mask names {int(bits.sum())} values, {values.numel()} are stored", where=name)
    flat = torch.zeros(size, dtype=values.dtype)
    flat[torch.from_numpy(bits[:size])] = values
    return flat.reshape(shape)


def _bits(flat: Tensor) -> Tensor:
    """The elements as integers of the same width."""
    return flat.view(_INTEGERS[flat.element_size()]) if flat.is_floating_point() else flat
