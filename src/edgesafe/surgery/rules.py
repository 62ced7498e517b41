"""What each aten operation does to channel labels. An operation without a rule freezes the channels it touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgesafe.errors import SurgeryError
from edgesafe.surgery import layer_rules
from edgesafe.surgery.labels import FIXED, PADDING, SHARED, Cause, Flag, varying_dims
from edgesafe.surgery.move_rules import MOVES
from edgesafe.surgery.product_rules import PRODUCTS
from edgesafe.surgery.propagation import MOST_ENTRIES, Tracer, fixed, unknown
from edgesafe.surgery.reduce_rules import REDUCTIONS

__all__ = ["apply_rule"]

Args = Sequence[Any]
Rule = Callable[[Tracer, str, Any, Args, dict[str, Any], Any], None]

_POINTWISE = {
    "hardswish_", "hardswish", "_prelu_kernel", "hardsigmoid_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_",
    "elu_", "celu_", "mish_", "gelu_", "softplus", "log_sigmoid_forward", "rrelu_with_noise", "native_dropout",
    "threshold", "threshold_",
}  # fmt: skip
_ADDS = {"add", "add_", "sub", "sub_", "rsub", "maximum", "minimum", "add_relu", "lerp"}
_LAYERS = {"convolution", "addmm", "mm"}
_RANDOM = {  # torch's own tag is also on attention and RReLU, which draw nothing in eval mode
    "bernoulli", "binomial", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "native_dropout",
    "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random",
    "randperm", "uniform",
}  # fmt: skip
_FACTORY = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_empty",
    "new_ones", "new_full", "new_empty_strided", "sym_size", "size",
}  # fmt: skip


def apply_rule(tracer: Tracer, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    """Mirror one operation on labels.

    Args:
        tracer: changed in place.
        func: the aten overload.
        args: its positional arguments.
        kwargs: its keyword arguments.
        result: what it returned.

    Raises:
        SurgeryError: the forward depends on the data.
    """
    name = func.overloadpacket.__name__
    if name.removesuffix("_") in _RANDOM and not (name == "native_dropout" and not args[2]):
        tracer.drew = tracer.drew or (tracer.place, name)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    made_of = tracer.derive(tensors, results)
    if name not in _LAYERS and any(len(tracer.shapes.get(one, ())) == 4 for one in made_of):
        return  # a convolution's weight on its way to be used
    touched = any(id(tensor) in tracer.labels for tensor in tensors)
    if not touched and name not in _LAYERS:
        _constants(tracer, name, func, args, kwargs, result)
        return
    _refuse_data_dependence(tracer, name, func, args)
    rule = _RULES.get(name)
    if rule is None:
        rule = _pointwise if torch.Tag.pointwise in func.tags else unknown
    rule(tracer, name, func, args, kwargs, result)


def _refuse_data_dependence(tracer: Tracer, name: str, func: Any, args: Args) -> None:
    if name in {"index", "argmax"}:
        masks = [
            i for i in (args[1] if name == "index" else []) if i is not None and i.dtype in {torch.bool, torch.uint8}
        ]
        depends = bool(masks)
    else:
        depends = bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))
    if depends:
        raise SurgeryError(
            f"the forward depends on the values of the data (aten.{name}), so one pass does not show all of it",
            where=tracer.place,
            fix="replace the branch by torch.where, or leave it out of the network that is pruned",
        )


def _constants(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    """Operations on parameters and constants only: follow views of parameters."""
    if not args or not isinstance(args[0], Tensor):
        return
    source = args[0]
    parameter = tracer.names.get(id(source))
    if parameter is None or name not in MOVES or not isinstance(result, Tensor):
        return
    if name in {"t", "transpose", "permute"} and source.dim() == 2:
        if tuple(result.shape) == tuple(reversed(source.shape)):
            tracer.transposed[id(result)] = (result, parameter)
        return
    labels = tracer.parameter_labels(source)
    long = sum(size > 1 for size in source.shape)
    if labels is None or not long:
        return
    if long == 1:
        dim = max(range(result.dim()), key=lambda d: result.shape[d], default=0)
        if result.numel() != source.numel() or result.shape[dim] != source.numel():
            return
        shape = [1] * result.dim()
        shape[dim] = -1
        tracer.put(result, labels.reshape(-1).view(shape))
        tracer.use_size(source.numel(), labels.reshape(-1), 0)
    elif source.numel() <= MOST_ENTRIES and source.dim() != 4:  # no convolution's weight: a table
        MOVES[name](tracer, name, func, args, kwargs, result)


# --------------------------------------------------------------------------------------------- element by element


def _pointwise(tracer: Tracer, name: str, _func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    out = result[0] if isinstance(result, (tuple, list)) else result
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.numel() > 1]
    if not operands:
        tracer.put(out, fixed(out))
        return
    sizes = [_padded_shape(t.shape, out.dim()) for t in operands]
    labels = [_met(tracer.labels_of(t)).expand(t.shape).expand(out.shape) for t in operands]
    varying = [set(varying_dims(label)) for label in labels]
    if len(operands) > 1 and len(set(map(frozenset, varying))) > 1:  # classes may vary less than their labels
        labels = [tracer.atoms.canonical(label) for label in labels]
        varying = [set(varying_dims(label)) for label in labels]
    stretched = [
        {d for d in range(out.dim()) if out.shape[d] > 1 and (size[d] == 1 or (not vary and _shared(label)))}
        for size, vary, label in zip(sizes, varying, labels, strict=True)
    ]
    main = next((i for i, s in enumerate(stretched) if not any(s & v for v in varying)), None)
    if main is None:
        for label in labels:
            tracer.freeze(label, Cause.BROADCAST, f"aten.{name} broadcasts it over other channels")
        tracer.put(out, fixed(out))
        return
    adds = name in _ADDS
    activations = sum(id(t) in tracer.labels for t in operands)
    for index, label in enumerate(labels):
        if index == main:
            continue
        if stretched[index] & varying[main]:
            tracer.freeze(label, Cause.BROADCAST, f"aten.{name} broadcasts it over other channels")
            continue
        tracer.atoms.union(labels[main], label, f"aten.{name} in {tracer.place}")
        if adds and activations > 1:
            tracer.atoms.flag(labels[main], Flag.ADD)
            tracer.atoms.flag(label, Flag.ADD)
    tracer.put(out, labels[main])


def _met(labels: Tensor) -> Tensor:
    """Labels as an element-wise operation meets them: zeros in every channel pad none, they are a constant."""
    return torch.full_like(labels, FIXED) if bool((labels == PADDING).all()) else labels


def _shared(labels: Tensor) -> bool:
    """Whether labels that do not vary say that one number is expanded."""
    return labels.numel() > 0 and int(labels[(0,) * labels.dim()]) == SHARED


def _padded_shape(shape: Sequence[int], dims: int) -> list[int]:
    return [1] * (dims - len(shape)) + list(shape)


def _factory(_tracer: Tracer, _name: str, _func: Any, _args: Args, _kwargs: dict[str, Any], _result: Any) -> None:
    """A new constant of the same shape: no labels."""


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **MOVES,
    **REDUCTIONS,
    **PRODUCTS,
    **dict.fromkeys(_FACTORY, _factory),
    "convolution": layer_rules.convolution,
    "addmm": layer_rules.matmul,
    "mm": layer_rules.matmul,
    "native_batch_norm": layer_rules.batch_norm,
    "_native_batch_norm_legit": layer_rules.batch_norm,
    "_native_batch_norm_legit_no_training": layer_rules.batch_norm,
    "_batch_norm_no_update": layer_rules.batch_norm,
    "native_layer_norm": layer_rules.layer_norm,
    "native_group_norm": layer_rules.group_norm,
}
