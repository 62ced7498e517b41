"""What layers with parameters do to channel labels: convolution, linear, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgesafe.surgery.labels import FIXED, Cause, varying_dims
from edgesafe.surgery.propagation import DimensionRole, Slot, Standardised, Tracer, fixed, unknown

__all__ = ["batch_norm", "convolution", "group_norm", "layer_norm", "matmul"]

Args = Sequence[Any]
_Gains = tuple[tuple[str, int], ...]  #: vectors that scale a weight's rows, each with its long dimension
FEW_GROUPS = 2  #: up to so many groups of a convolution, none is removed, but channels of each


def convolution(tracer: Tracer, _name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    """Output channels are fresh atoms; input channels own the columns. Grouped: a group in and out goes together."""
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    name = tracer.names.get(id(weight))
    standardised, gains = name is None, _Gains()
    if name is None:
        name, gains = _source(tracer, weight)
    if name is None or (standardised and transposed):
        unknown(tracer, "convolution (with a computed weight)", func, args, kwargs, result)
        tracer.count_computed(_conv_macs(weight, x, result, transposed=transposed), result.shape[1], x.shape[1])
        return
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if _along_channels(tracer, name, x, result, weight, groups):
        return
    channels = tracer.atoms.tie(tracer.labels_of(x), 1, tracer.place)
    if groups == 1:
        out = tracer.slot(name, out_dim, result.shape[1], DimensionRole.OUT)
        tracer.slot(name, in_dim, len(channels), DimensionRole.IN, channels)
    elif transposed:  # its rows are input channels: a group of them goes with the outputs of that group
        rows = channels.view(groups, -1)
        tracer.atoms.union(rows, rows[:, :1], tracer.place, inside="a grouped convolution")
        tracer.slot(name, 0, len(channels), DimensionRole.OUT, channels)
        tracer.groups[name] = groups
        out = rows[:, :1].expand(groups, result.shape[1] // groups).reshape(-1)
    elif groups <= FEW_GROUPS and groups < min(len(channels), result.shape[1]):
        out = _within_groups(tracer, name, channels, result.shape[1], groups)
    else:
        out = tracer.slot(name, 0, result.shape[1], DimensionRole.OUT)
        rows = torch.cat((channels.view(groups, -1), out.view(groups, -1)), dim=1)
        tracer.atoms.union(
            rows, rows[:, -1:], tracer.place, inside="a grouped convolution" if groups < len(out) else ""
        )
        tracer.groups[name] = groups
        tracer.use_size(groups, rows[:, 0], 0)
    if standardised:
        into = tracer.slots.get(Slot(name, 1), torch.full((weight.shape[1],), FIXED))
        ordinal = tracer.called.get("convolution", 1) - 1
        tracer.standardised.append(Standardised(ordinal, out, into, tracer.place))
        for gain, dim in gains:
            tracer.slot(gain, dim, len(out), DimensionRole.STATE, out)
    _bias(tracer, bias, out)
    tracer.count(name, _conv_macs(weight, x, result, transposed=transposed))
    tracer.put(result, out.view(1, -1, *[1] * (result.dim() - 2)).expand(result.shape))


def _source(tracer: Tracer, weight: Tensor) -> tuple[str | None, _Gains]:
    """The parameter of its shape that a weight is computed from, and (vector, dimension) of what scales its rows."""
    _, names = tracer.derived.get(id(weight), (weight, frozenset()))
    same = [name for name in names if tracer.shapes[name] == tuple(weight.shape)]
    gains = []
    for name in sorted(names - set(same)):
        shape = tracer.shapes[name]
        long = [dim for dim, size in enumerate(shape) if size > 1]
        if len(long) == 1 and shape[long[0]] == weight.shape[0]:
            gains.append((name, long[0]))
        elif long:
            return None, _Gains()
    return (same[0] if len(same) == 1 else None), tuple(gains)


def _within_groups(tracer: Tracer, name: str, channels: Tensor, width: int, groups: int) -> Tensor:
    """A convolution of few groups: all stay, and each loses the same positions."""
    rows = channels.view(groups, -1)
    tracer.atoms.union(rows, rows[:1], tracer.place, inside="a grouped convolution")
    tracer.slot(name, 1, rows.shape[1], DimensionRole.IN, rows[0])
    out = tracer.slot(name, 0, width, DimensionRole.OUT)
    rows = out.view(groups, -1)
    tracer.atoms.union(rows, rows[:1], tracer.place, inside="a grouped convolution")
    tracer.kept_groups[name] = groups
    return out


def _along_channels(tracer: Tracer, name: str, x: Tensor, result: Tensor, weight: Tensor, groups: int) -> bool:
    """A convolution that slides over the channels (efficient channel attention); whether this one is."""
    labels = tracer.canonical(x)
    varying = varying_dims(labels)
    if len(varying) != 1 or varying[0] < 2 or x.shape[1] != 1 or result.shape[1] != 1 or groups != 1:
        return False
    dim = varying[0]
    vector = labels.movedim(dim, 0).flatten(1)[:, 0]
    if result.shape[dim] == x.shape[dim]:
        tracer.use_whole("convolution", [(0, dim, vector)], [(dim, vector)])
    else:
        tracer.freeze(labels, Cause.REDUCED, "a convolution slides over its channels")
        labels = fixed(labels)
    tracer.slot(name, 0, 1, DimensionRole.OUT, torch.full((1,), FIXED))
    tracer.slot(name, 1, 1, DimensionRole.IN, torch.full((1,), FIXED))
    tracer.count(name, _conv_macs(weight, x, result, transposed=False))
    tracer.put(result, labels.narrow(dim, 0, 1).expand(result.shape) if labels.shape[dim] == 1 else labels)
    return True


def _conv_macs(weight: Tensor, x: Tensor, y: Tensor, *, transposed: bool) -> int:
    return (x if transposed else y).numel() * math.prod(weight.shape[1:])


def _bias(tracer: Tracer, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        return
    name = tracer.names.get(id(bias))
    if name is None:
        tracer.freeze(out, Cause.COMPUTED, "its bias is computed")
    else:
        tracer.slot(name, 0, len(out), DimensionRole.STATE, out)


def matmul(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    """A linear layer: activation times parameter (or its transpose)."""
    bias, x, weight = (args[0], args[1], args[2]) if name == "addmm" else (None, args[0], args[1])
    alias = tracer.transposed.get(id(weight))
    parameter = alias[1] if alias is not None else tracer.names.get(id(weight))
    if parameter is None:
        unknown(tracer, f"{name} (with a computed weight)", func, args, kwargs, result)
        tracer.count_computed(result.shape[0] * weight.shape[0] * weight.shape[1], result.shape[1], weight.shape[0])
        return
    out_dim, in_dim = (0, 1) if alias is not None else (1, 0)
    tracer.count(parameter, result.shape[0] * weight.shape[0] * weight.shape[1])
    if 0 in varying_dims(tracer.labels_of(x)) and 0 in varying_dims(rows := tracer.canonical(x)):
        _row_by_row(tracer, parameter, (out_dim, in_dim), rows, result)
        return
    features = tracer.atoms.tie(tracer.labels_of(x), 1, tracer.place)
    out = tracer.slot(parameter, out_dim, result.shape[1], DimensionRole.OUT)
    tracer.slot(parameter, in_dim, len(features), DimensionRole.IN, features)
    _bias(tracer, bias, out)
    tracer.put(result, out.view(1, -1).expand(result.shape))


def _row_by_row(tracer: Tracer, parameter: str, dims: tuple[int, int], rows: Tensor, result: Tensor) -> None:
    """A linear layer over something else than channels, such as positions, for each channel or head: its own stay."""
    if 1 in varying_dims(rows):
        rows = tracer.atoms.tie_along(rows, [1], tracer.place, "attention heads")
    for dim, size, role in (
        (dims[0], result.shape[1], DimensionRole.OUT),
        (dims[1], rows.shape[1], DimensionRole.IN),
    ):
        tracer.slot(parameter, dim, size, role, torch.full((size,), FIXED))
    tracer.put(result, rows.narrow(1, 0, 1).expand(result.shape))


def batch_norm(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    """A BatchNorm in eval mode: channels pass, parameters and statistics follow them."""
    x, weight, bias, mean, variance = args[:5]
    labels = tracer.labels_of(x)
    channels = tracer.atoms.tie(labels, 1, tracer.place)
    owned = False
    for tensor, role in (
        (weight, DimensionRole.SCALE),
        (bias, DimensionRole.STATE),
        (mean, DimensionRole.STATE),
        (variance, DimensionRole.STATE),
    ):
        if tensor is None:
            continue
        parameter = tracer.names.get(id(tensor))
        if parameter is None:
            tracer.freeze(channels, Cause.COMPUTED, "its normalisation uses computed values")
            continue
        owned = True
        tracer.slot(parameter, 0, len(channels), role, channels)
    if not owned:
        tracer.freeze(channels, Cause.COMPUTED, "a normalisation without parameters uses batch statistics")
    tracer.put(result[0], channels.view(1, -1, *[1] * (x.dim() - 2)).expand(x.shape))


def layer_norm(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    """Channels pass; narrowing one changes the others' scale, which the proof takes into account ("norm")."""
    x, shape, weight, bias = args[:4]
    labels = tracer.labels_of(x)
    parameter = None if weight is None else tracer.names.get(id(weight))
    if parameter is None or len(shape) != 1:
        tracer.freeze(labels, Cause.REDUCED, "a LayerNorm without one weight per channel")
    else:
        channels = tracer.atoms.tie(labels, x.dim() - 1, tracer.place)
        tracer.slot(parameter, 0, len(channels), DimensionRole.NORM, channels)
        if bias is not None:
            tracer.slot(tracer.names[id(bias)], 0, len(channels), DimensionRole.STATE, channels)
        last = x.dim() - 1
        taken = [(0, last, channels), *((at, 0, channels) for at in (2, 3) if args[at] is not None)]
        tracer.use_whole("native_layer_norm", taken, [(last, channels)])
    tracer.put(result[0], labels)


def group_norm(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    """A group of channels goes together, so that the other groups' statistics stay the same; one group: a LayerNorm."""
    x, weight, bias, groups = args[0], args[1], args[2], int(args[6])
    labels = tracer.labels_of(x)
    parameter = None if weight is None else tracer.names.get(id(weight))
    if parameter is None:
        tracer.freeze(labels, Cause.REDUCED, "a GroupNorm without weights")
    else:
        channels = tracer.atoms.tie(labels, 1, tracer.place)
        tracer.slot(parameter, 0, len(channels), DimensionRole.NORM, channels)
        if bias is not None:
            tracer.slot(tracer.names[id(bias)], 0, len(channels), DimensionRole.STATE, channels)
        if groups == 1:
            taken = [(0, 1, channels), *((at, 0, channels) for at in (1, 2) if args[at] is not None)]
            tracer.use_whole("native_group_norm", taken, [(1, channels)])
        else:
            rows = channels.view(groups, -1)
            tracer.atoms.union(rows, rows[:, :1], tracer.place, inside="a GroupNorm")
            tracer.groups[parameter] = groups
    tracer.put(result[0], labels)
