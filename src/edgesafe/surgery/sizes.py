"""Sizes that a network keeps as numbers: attributes that its forward reads, and buffers that its file does not hold.

`torch.split(x, self.splits, 1)`, `x[:, : self.width]`, `x.view(n, self.heads, -1, h, w)` count on channels that may be
gone. The trace notes every number that an operation was told, with the channels that it counts (`SizeUse`); attributes
of the modules that were running, and that held this number, are given the new one. Whether that was right is for the
proof to say. Layers of torch itself are not touched here (`surgery.remove` knows them).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edgesafe.errors import WeightsError
from edgesafe.surgery.propagation import SizeUse, Slot
from edgesafe.surgery.remove import remove, tensors
from edgesafe.surgery.units import ChannelGraph

__all__ = ["KEY", "Sizes", "apply_sizes", "decode_sizes", "encode_sizes", "narrowed", "sizes_of"]

KEY = "edgesafe.sizes"  #: in the metadata of a weights file
_ATTRIBUTE = "edgesafe_sizes"  #: of a pruned network: what is to be set when it is built again

Value = int | list[int]
Sizes = dict[str, dict[str, Value]]  #: module path -> attribute -> number, numbers, or the shape of a buffer


def sizes_of(model: nn.Module) -> Sizes:
    """The sizes of a pruned network that differ from its architecture's; empty for any other network."""
    own: Sizes = vars(model).get(_ATTRIBUTE, {})
    return own


def encode_sizes(sizes: Sizes) -> str:
    """As text for a weights file; equal sizes give equal text."""
    return json.dumps(sizes, sort_keys=True, separators=(",", ":"))


def narrowed(model: nn.Module, graph: ChannelGraph, keep: Mapping[Slot, tuple[int, ...]]) -> nn.Module:
    """A copy of a network with only the given indices, its sizes set.

    Args:
        model: not modified.
        graph: of `model`.
        keep: indices that stay, by slot.
    """
    pruned = copy.deepcopy(model)
    remove(pruned, keep)
    sizes = _new_sizes(model, graph, keep)
    unsaved = _unsaved(pruned)
    for slot in keep:
        if slot.tensor in unsaved:
            path, _, name = slot.tensor.rpartition(".")
            sizes.setdefault(path, {})[name] = list(pruned.get_buffer(slot.tensor).shape)
    for name, groups in graph.trace.kept_groups.items():
        if Slot(name, 0) in keep or Slot(name, 1) in keep:
            path, weight = name.rpartition(".")[0], tensors(pruned)[name]
            width = {"groups": groups, "in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0]}
            sizes.setdefault(path, {}).update(width)
    if sizes:
        apply_sizes(pruned, sizes, skeleton=model)
    return pruned


def _unsaved(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }


def _new_sizes(model: nn.Module, graph: ChannelGraph, keep: Mapping[Slot, tuple[int, ...]]) -> Sizes:
    """Attributes whose number has become another one; where the forward's uses disagree, the attribute stays."""
    roots = graph.removed_roots(keep)
    modules = dict(model.named_modules())
    found: dict[tuple[str, str, int], set[int]] = {}
    for use in graph.trace.sizes:
        after = _kept(graph, use, roots)
        for path in reversed(use.stack):
            places = list(_holding(modules[path], use.number)) if path in modules else []
            for name, index in places:
                found.setdefault((path, name, index), set()).add(after)
            if places:
                break
    sizes: Sizes = {}
    for (path, name, index), values in sorted(found.items()):
        old = vars(modules[path])[name]
        (new,) = values if len(values) == 1 else (None,)
        if new is None or new == (old if index < 0 else old[index]):
            continue
        if index < 0:
            sizes.setdefault(path, {})[name] = new
        else:
            numbers = sizes.setdefault(path, {}).setdefault(name, list(old))
            assert isinstance(numbers, list)  # noqa: S101  (set in the line above)
            numbers[index] = new
    return sizes


def _kept(graph: ChannelGraph, use: SizeUse, roots: frozenset[int]) -> int:
    """How many indices stay along the dimension that the number is the size of."""
    stays = graph.stays(use.labels, roots).movedim(use.dim, 0).reshape(use.labels.shape[use.dim], -1)
    return int(stays.any(1).sum())


def _holding(module: nn.Module, number: int) -> Iterator[tuple[str, int]]:
    """Attributes that hold the number, with its index in a list or tuple of numbers (-1: a number alone)."""
    if type(module).__module__.startswith("torch."):
        return
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if type(value) is int and value == number:
            yield name, -1
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
            yield from ((name, index) for index, v in enumerate(value) if v == number)


def apply_sizes(model: nn.Module, sizes: Sizes, skeleton: nn.Module | None = None) -> None:
    """Set sizes, in place, and remember them.

    Args:
        model: with its narrower tensors.
        sizes: see `Sizes`.
        skeleton: holds the sizes that they must not exceed; `model` by default.

    Raises:
        WeightsError: there is no such module or attribute, or a size is larger than the architecture's.
    """
    modules = dict(model.named_modules())
    widest = dict(skeleton.named_modules()) if skeleton is not None else modules
    for path, attributes in sizes.items():
        for name, value in attributes.items():
            module = modules.get(path)
            old = None if module is None else vars(widest[path]).get(name, widest[path]._buffers.get(name))
            where = f"{path}.{name}" if path else name
            if module is None or old is None or not _fits(old, value):
                raise WeightsError(
                    f"its size {value} is not one that this architecture can have",
                    where=where,
                    fix="check arch and args",
                )
            if isinstance(old, torch.Tensor):
                for dim, size in enumerate(value if isinstance(value, list) else [value]):
                    old = old.narrow(dim, 0, size)
                module._buffers[name] = old.clone()
            else:
                setattr(module, name, tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value)
    own = copy.deepcopy(sizes_of(model))
    for path, attributes in sizes.items():
        own.setdefault(path, {}).update(attributes)
    object.__setattr__(model, _ATTRIBUTE, own)


def _fits(old: Any, value: Value) -> bool:
    if isinstance(old, torch.Tensor):
        given = value if isinstance(value, list) else [value]
        return len(given) == old.dim() and all(0 < a <= b for a, b in zip(given, old.shape, strict=True))
    if isinstance(old, (list, tuple)):
        if not isinstance(value, list) or len(value) != len(old):
            return False
        return all(type(b) is int and (a == b or 0 < a <= b) for a, b in zip(value, old, strict=True))
    return type(old) is int and type(value) is int and 0 < value <= old


def decode_sizes(text: str) -> Sizes:
    """Sizes from a weights file.

    Raises:
        WeightsError: the text is not what `encode_sizes` writes.
    """
    try:
        sizes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged() from error
    if not isinstance(sizes, dict):
        raise _damaged()
    for attributes in sizes.values():
        if not isinstance(attributes, dict):
            raise _damaged()
        for value in attributes.values():
            numbers = value if isinstance(value, list) else [value]
            if not all(type(number) is int for number in numbers):
                raise _damaged()
    return sizes


def _damaged() -> WeightsError:
    return WeightsError("its metadata of sizes is damaged", where=KEY, fix="take the file from the study that wrote it")
