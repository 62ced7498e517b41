"""What layers with parameters do to channel labels: convolution, linear, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgesafe.surgery.labels import Cause, Flag
from edgesafe.surgery.propagation import DimensionRole, Tracer, unknown

__all__ = ["batch_norm", "convolution", "group_norm", "layer_norm", "matmul"]

Args = Sequence[Any]


def convolution(tracer: Tracer, _name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    """Output channels are fresh atoms; input channels own the columns. Grouped: a group in and out goes together."""
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(args[6]), int(args[8])
    name = tracer.names.get(id(weight))
    if name is None:
        unknown(tracer, "convolution (with a computed weight)", func, args, kwargs, result)
        tracer.count_computed(_conv_macs(weight, x, result, transposed=transposed), result.shape[1], x.shape[1])
        return
    channels = tracer.atoms.tie(tracer.labels_of(x), 1, tracer.place)
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if groups == 1:
        out = tracer.slot(name, out_dim, result.shape[1], DimensionRole.OUT)
        tracer.slot(name, in_dim, len(channels), DimensionRole.IN, channels)
    elif transposed:  # its rows are input channels: a group of them goes with the outputs of that group
        rows = channels.view(groups, -1)
        tracer.atoms.union(rows, rows[:, :1], tracer.place, inside="a grouped convolution")
        tracer.slot(name, 0, len(channels), DimensionRole.OUT, channels)
        tracer.groups[name] = groups
        out = rows[:, :1].expand(groups, result.shape[1] // groups).reshape(-1)
    else:
        out = tracer.slot(name, 0, result.shape[1], DimensionRole.OUT)
        rows = torch.cat((channels.view(groups, -1), out.view(groups, -1)), dim=1)
        tracer.atoms.union(
            rows, rows[:, -1:], tracer.place, inside="a grouped convolution" if groups < len(out) else ""
        )
        tracer.groups[name] = groups
    _bias(tracer, bias, out)
    tracer.count(name, _conv_macs(weight, x, result, transposed=transposed))
    tracer.put(result, out.view(1, -1, *[1] * (result.dim() - 2)).expand(result.shape))


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
    features = tracer.atoms.tie(tracer.labels_of(x), 1, tracer.place)
    out_dim, in_dim = (0, 1) if alias is not None else (1, 0)
    out = tracer.slot(parameter, out_dim, result.shape[1], DimensionRole.OUT)
    tracer.slot(parameter, in_dim, len(features), DimensionRole.IN, features)
    _bias(tracer, bias, out)
    tracer.count(parameter, result.shape[0] * weight.shape[0] * weight.shape[1])
    tracer.put(result, out.view(1, -1).expand(result.shape))


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
        tracer.atoms.flag(channels, Flag.NORM)
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
            tracer.atoms.flag(channels, Flag.NORM)
        else:
            rows = channels.view(groups, -1)
            tracer.atoms.union(rows, rows[:, :1], tracer.place, inside="a GroupNorm")
            tracer.groups[parameter] = groups
    tracer.put(result[0], labels)
