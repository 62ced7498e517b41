"""What operations that move data do to channel labels: views, reshapes, parts by position, concatenation, padding.

Data movement is replayed on the labels. A reshape may spread channels over several dimensions, as channel shuffle and
attention heads do: then they go in rectangles, along one of these dimensions (`Tracer.resolve`). A tensor may be cut
into parts by position: equal parts lose the same positions each, so that halves stay halves; for unequal ones the parts
are remembered, each is ranked by itself, and the numbers that the forward cuts at follow (`surgery.sizes`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from edgesafe.surgery.labels import FIXED, PADDING, SHARED, Cause, Flag, compact, varying_dims
from edgesafe.surgery.propagation import DimensionRole, Spread, Tracer

__all__ = ["MOVES", "RESHAPES", "SAMES"]

Args = Sequence[Any]
Rule = Callable[[Tracer, str, Any, Args, dict[str, Any], Any], None]

MOST_PARTS = 8  #: equal parts whose positions are tied; beyond, parts are ranked one by one

SAMES = frozenset({
    "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "as_strided_", "detach_",
})  # fmt: skip
_REPLAYED = frozenset({
    "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "flip", "roll", "repeat", "stack", "movedim",
    "pixel_shuffle", "pixel_unshuffle", "unfold", "squeeze_", "unsqueeze_", "transpose_", "t_", "unbind",
})  # fmt: skip
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_SPLITS = frozenset({"split", "split_with_sizes", "chunk"})
_PICKS = frozenset({"select", "index", "index_select", "gather"})


def _replay(tracer: Tracer, func: Any, args: Args, kwargs: dict[str, Any], first: Tensor | None = None) -> Any:
    """Run the operation on the labels of its floating-point tensors; `first` instead of the first tensor's."""

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return tracer.labels_of(leaf)

    new_args, new_kwargs = tree_map(swap, (list(args), kwargs))
    if first is not None:
        new_args[0] = first
    return func(*new_args, **new_kwargs)


def _put_all(tracer: Tracer, result: Any, labels: Any) -> None:
    for tensor, label in zip(tree_leaves(result), tree_leaves(labels), strict=True):
        tracer.put(tensor, label)


def _same(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    tracer.put(result, labels if labels.shape == result.shape else labels.reshape(result.shape))


def _move(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    labels = tracer.labels_of(first)
    if name in {"pixel_shuffle", "pixel_unshuffle"}:
        moved = func(labels.contiguous().double(), *args[1:], **kwargs).long()
        _put_all(tracer, result, moved)
        return
    if name in {"unbind", "repeat", "flip", "roll", "unfold"} and varying_dims(labels) and _acts_on(name, labels, args):
        labels = tracer.canonical(first)
        varying = varying_dims(labels)
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) if name == "unbind" else None
        if dim is not None and len(varying) > 1 and dim % labels.dim() in varying:
            labels = tracer.atoms.tie_along(labels, [dim % labels.dim()], tracer.place, "several parts of one tensor")
            _put_all(tracer, result, _replay(tracer, func, args, kwargs, labels))
            return
        if dim is None or dim % labels.dim() in varying:
            tracer.freeze(labels, Cause.SPLIT, f"aten.{name} rearranges its channels")
    moved = _replay(tracer, func, args, kwargs)
    if name == "expand":
        ahead = result.dim() - labels.dim()
        for dim in varying_dims(labels):
            tracer.use_size(result.shape[dim + ahead], labels, dim)
        if not varying_dims(labels) and int(labels.flatten()[0]) == FIXED and _widened(labels, result):
            moved = torch.full((1,) * result.dim(), SHARED).expand(result.shape)
    _put_all(tracer, result, moved)


def _widened(labels: Tensor, result: Tensor) -> bool:
    """Whether an `expand` repeats a number over the channels, the second or the last dimension."""
    ahead = result.dim() - labels.dim()
    sizes = [1] * ahead + list(labels.shape)
    return any(sizes[dim] == 1 < result.shape[dim] for dim in {1, result.dim() - 1} if dim < result.dim())


def _acts_on(name: str, labels: Tensor, args: Args) -> bool:
    """Whether the operation works along a dimension of channels."""
    varying = varying_dims(labels)
    if name == "repeat":
        repeats = list(args[1])
        return any(repeats[len(repeats) - labels.dim() + d] > 1 for d in varying)
    dims = args[1] if len(args) > 1 and name in {"unbind", "unfold", "flip"} else args[2] if len(args) > 2 else 0
    chosen = [dims] if isinstance(dims, int) else list(dims)
    return any(d % labels.dim() in varying for d in chosen)


def _reshape(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    shape = tuple(result.shape)
    spread = [outs for ins, outs in _blocks(tuple(labels.shape), shape) if set(ins) & set(varying_dims(labels))]
    if any(sum(shape[dim] > 1 for dim in outs) > 1 for outs in spread):
        labels = tracer.canonical(args[0])
    moved = compact(labels.reshape(shape)) if labels.numel() else labels.reshape(shape)
    for outs in spread:
        dims = tuple(dim for dim in outs if dim in varying_dims(moved))
        if len(dims) > 1:
            tracer.spreads.append(Spread(moved, dims, tracer.place))
    for dim in varying_dims(moved):
        tracer.use_size(shape[dim], moved, dim)
    tracer.put(result, moved)


def _blocks(source: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of `source`, and the runs of `shape` that they become."""
    i = j = 0
    while i < len(source) and j < len(shape):
        ins, outs, a, b = [i], [j], source[i], shape[j]
        while a != b:
            if a < b:
                i += 1
                ins.append(i)
                a *= source[i]
            else:
                j += 1
                outs.append(j)
                b *= shape[j]
        while j + 1 < len(shape) and shape[j + 1] == 1:
            j += 1
            outs.append(j)
        yield ins, outs
        i, j = i + 1, j + 1


# ---------------------------------------------------------------------------------------------- parts by position


def _cut(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    if name == "index" and _selected_by_mask(tracer, labels, args[1]):
        _put_all(tracer, result, _replay(tracer, func, args, kwargs))
        return
    if name == "index":
        dims = [d for d, index in enumerate(args[1]) if index is not None]
    else:
        at = 2 if name in _SPLITS else 1
        dims = [(args[at] if len(args) > at else kwargs.get("dim", 0)) % labels.dim()]
    if not set(dims) & set(varying_dims(labels)):
        _put_all(tracer, result, _replay(tracer, func, args, kwargs))
        return
    labels = tracer.canonical(args[0])
    varying = set(varying_dims(labels))
    hit = sorted(set(dims) & varying)
    if hit and varying - set(hit):
        labels = tracer.atoms.tie_along(labels, hit, tracer.place, "several parts of one tensor")
    elif hit and (name in _PICKS or not _parts(tracer, name, labels, args, result)):
        tracer.freeze(labels, Cause.INDEX, f"aten.{name} picks channels by position")
    moved = _replay(tracer, func, args, kwargs, labels)
    _put_all(tracer, result, moved)


def _parts(tracer: Tracer, name: str, labels: Tensor, args: Args, result: Any) -> bool:
    """Follow a cut along the only dimension of channels; False if it cannot be followed."""
    (dim,) = varying_dims(labels)
    size = labels.shape[dim]
    vector = labels.movedim(dim, 0).reshape(size, -1)[:, 0]
    if name in _SPLITS:
        lengths = [part.shape[dim] for part in result]
        bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        told = list(itertools.pairwise(bounds))
    else:
        given = list(args[2:5])
        start, end, step = given + [None, None, 1][len(given) :]
        start, end = (_within(value, size, default) for value, default in ((start, 0), (end, size)))
        if step != 1:
            return False
        if (start, end) == (0, size):
            return True
        lengths = [end - start]
        told = [(0, start), (0, end), (start, end), (end, size), (start, size)]
        bounds = sorted({0, start, end, size})
    common = math.gcd(size, *bounds)
    if size // common <= MOST_PARTS or (name in _SPLITS and len(set(lengths)) == 1):
        rows = vector.view(-1, common)
        tracer.atoms.tie_along(rows, [0], tracer.place, "equal parts of one tensor")
    else:
        tracer.atoms.cut(vector[a:b] for a, b in itertools.pairwise(bounds))
    for a, b in [(0, size), *told]:
        tracer.use_size(b - a, vector[a:b], 0)
    return True


def _within(value: int | None, size: int, default: int) -> int:
    """The position that an end of a slice means."""
    if value is None:
        return default
    return max(0, min(size, value + size if value < 0 else value))


def _selected_by_mask(tracer: Tracer, labels: Tensor, indices: Sequence[Tensor | None]) -> bool:
    """x[:, positions] where a vector of the module says which: it is narrowed with the channels, positions follow."""
    given = [dim for dim, index in enumerate(indices) if index is not None]
    index = indices[1] if given == [1] else None
    if index is None or index.dim() != 1 or index.dtype is not torch.int64 or varying_dims(labels) != (1,):
        return False
    mask = tracer.mask_of(index, labels.shape[1])
    if mask is None:
        return False
    channels = tracer.atoms.tie(labels, 1, tracer.place)
    tracer.slot(mask, 0, len(channels), DimensionRole.STATE, channels)
    return True


# ------------------------------------------------------------------------------------------------ putting together


def _cat(tracer: Tracer, _name: str, _func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.dim()
    tensors = [t for t in args[0] if t.dim() == result.dim()]
    parts = [tracer.labels_of(t).expand(t.shape) for t in tensors]
    labels = torch.cat([p.contiguous() for p in parts], dim)
    if dim in varying_dims(labels):
        for part in parts:
            tracer.atoms.flag(part, Flag.CONCAT)
    tracer.put(result, compact(labels))


def _pad(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    amounts = list(args[1])
    varying = varying_dims(labels)
    for index in range(len(amounts) // 2):
        dim = labels.dim() - 1 - index
        before, after = amounts[2 * index], amounts[2 * index + 1]
        if dim in varying or (not varying and labels.dim() > 2 and dim == 1 and (before or after)):
            pads = [0, 0] * index + [before, after]
            labels = torch.nn.functional.pad(labels, pads, value=PADDING)
        else:
            shape = list(labels.shape)
            shape[dim] += before + after
            labels = labels.narrow(dim, 0, 1).expand(shape)
    tracer.put(result, labels)


def _copy(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    tracer.put(result, tracer.labels_of(args[1]).expand(args[1].shape).expand(result.shape))


MOVES: Mapping[str, Rule] = {
    **dict.fromkeys(SAMES, _same),
    **dict.fromkeys(_REPLAYED, _move),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(_SPLITS | _PICKS | {"slice", "narrow"}, _cut),
    "cat": _cat,
    "constant_pad_nd": _pad,
    "copy_": _copy,
}
