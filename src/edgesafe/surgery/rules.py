"""What each aten operation does to channel labels. An operation without a rule freezes the channels it touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from edgesafe.errors import SurgeryError
from edgesafe.surgery import layer_rules
from edgesafe.surgery.labels import PADDING, Cause, Flag, varying_dims
from edgesafe.surgery.propagation import DimensionRole, Tracer, fixed, unknown

__all__ = ["apply_rule"]

Args = Sequence[Any]
Rule = Callable[[Tracer, str, Any, Args, dict[str, Any], Any], None]

_POINTWISE = {
    "hardswish_", "hardswish", "_prelu_kernel", "hardsigmoid_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_",
    "elu_", "celu_", "mish_", "gelu_", "softplus", "log_sigmoid_forward", "rrelu_with_noise", "native_dropout",
    "threshold", "threshold_",
}  # fmt: skip
_ADDS = {"add", "add_", "sub", "sub_", "rsub", "maximum", "minimum", "add_relu", "lerp"}
_SAME = {
    "clone",
    "detach",
    "alias",
    "_to_copy",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "as_strided_",
    "detach_",
}
_MOVE = {
    "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "flip", "roll", "repeat", "stack", "movedim",
    "pixel_shuffle", "pixel_unshuffle", "unfold", "squeeze_", "unsqueeze_", "transpose_", "t_", "unbind",
}  # fmt: skip
_RESHAPE = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_CUT = {"slice", "select", "split", "split_with_sizes", "index", "index_select", "narrow", "chunk", "gather"}
_SPATIAL = {
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_linear1d", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d", "mkldnn_max_pool2d", "fractional_max_pool2d",
}  # fmt: skip
_REDUCE = {
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod", "norm", "linalg_vector_norm",
    "argmax", "any", "all", "std_mean", "var_mean",
}  # fmt: skip
_POOL3D = {"avg_pool3d", "max_pool3d", "max_pool3d_with_indices"}
_LAYERS = {"convolution", "addmm", "mm"}
_RANDOM = {  # torch's own tag is also on attention and RReLU, which draw nothing in eval mode
    "bernoulli", "binomial", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "native_dropout",
    "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random",
    "randperm", "uniform",
}  # fmt: skip
_SOFTMAX = {"_softmax", "_log_softmax", "softmax", "log_softmax"}
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
    touched = any(id(tensor) in tracer.labels for tensor in tensors)
    if not touched and name not in _LAYERS:
        _constants(tracer, name, func, args, result)
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


def _constants(tracer: Tracer, name: str, func: Any, args: Args, result: Any) -> None:
    """Operations on parameters and constants only: follow views of parameters."""
    if not args or not isinstance(args[0], Tensor):
        return
    source = args[0]
    parameter = tracer.names.get(id(source))
    if name in {"t", "transpose", "permute"} and parameter is not None and source.dim() == 2:
        if tuple(result.shape) == tuple(reversed(source.shape)):
            tracer.transposed[id(result)] = (result, parameter)
    elif parameter is not None and name in (_MOVE | _RESHAPE | _SAME) and isinstance(result, Tensor):
        labels = tracer.parameter_labels(source)
        if labels is not None and sum(size > 1 for size in source.shape) == 1:
            long = max(range(result.dim()), key=lambda d: result.shape[d])
            if result.numel() == source.numel() and result.shape[long] == source.numel():
                shape = [1] * result.dim()
                shape[long] = -1
                tracer.put(result, labels.reshape(-1).view(shape))
    del func


# --------------------------------------------------------------------------------------------- element by element


def _pointwise(tracer: Tracer, name: str, _func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    out = result[0] if isinstance(result, (tuple, list)) else result
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.numel() > 1]
    if not operands:
        tracer.put(out, fixed(out))
        return
    sizes = [_padded_shape(t.shape, out.dim()) for t in operands]
    labels = [tracer.labels_of(t).expand(t.shape).expand(out.shape) for t in operands]
    varying = [set(varying_dims(label)) for label in labels]
    stretched = [{d for d in range(out.dim()) if size[d] == 1 and out.shape[d] > 1} for size in sizes]
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


def _padded_shape(shape: Sequence[int], dims: int) -> list[int]:
    return [1] * (dims - len(shape)) + list(shape)


# ------------------------------------------------------------------------------------------------- moving data


def _replay(tracer: Tracer, func: Any, args: Args, kwargs: dict[str, Any]) -> Any:
    """Run the operation on the labels of its floating-point tensors instead of their values."""

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return tracer.labels_of(leaf)

    new_args, new_kwargs = tree_map(swap, (list(args), kwargs))
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
        tracer.freeze(labels, Cause.SPLIT, f"aten.{name} rearranges its channels")
    _put_all(tracer, result, _replay(tracer, func, args, kwargs))


def _acts_on(name: str, labels: Tensor, args: Args) -> bool:
    """Whether the operation works along a dimension of channels."""
    varying = varying_dims(labels)
    if name == "repeat":
        repeats = list(args[1])
        return any(repeats[len(repeats) - labels.dim() + d] > 1 for d in varying)
    dims = args[1] if len(args) > 1 and name in {"unbind", "unfold", "flip"} else args[2] if len(args) > 2 else 0
    chosen = [dims] if isinstance(dims, int) else list(dims)
    return any(d % labels.dim() in varying for d in chosen)


def _reshape(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    if _splits(labels, tuple(result.shape)):
        tracer.freeze(labels, Cause.SPLIT, f"aten.{name} splits its channels over several dimensions")
    tracer.put(result, labels.reshape(result.shape))


def _splits(labels: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a reshape to `shape` spreads a dimension of channels over several dimensions."""
    i = j = 0
    source = tuple(labels.shape)
    varying = set(varying_dims(labels))
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
        if varying & set(ins) and sum(shape[k] > 1 for k in outs) > 1:
            return True
        i, j = i + 1, j + 1
    return False


def _cut(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    varying = set(varying_dims(labels))
    moved = _replay(tracer, func, args, kwargs)
    if name == "index" and _selected_by_mask(tracer, labels, args[1]):
        _put_all(tracer, result, moved)
        return
    if varying and _cuts_channels(name, labels, args, kwargs):
        tracer.freeze(labels, Cause.INDEX, f"aten.{name} picks channels by position")
    _put_all(tracer, result, moved)


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


def _cuts_channels(name: str, labels: Tensor, args: Args, kwargs: dict[str, Any]) -> bool:
    varying = set(varying_dims(labels))
    if name == "index":
        return any(index is not None and d in varying for d, index in enumerate(args[1]))
    if name in {"split", "split_with_sizes", "chunk"}:
        dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
        return dim % labels.dim() in varying
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % labels.dim()
    if dim not in varying:
        return False
    if name == "slice":
        given = list(args[2:5])
        start, end, step = given + [None, None, 1][len(given) :]
        whole = (start or 0) == 0 and (end is None or end >= labels.shape[dim]) and step == 1
        return not whole
    return True


def _cat(tracer: Tracer, _name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.dim()
    parts = [tracer.labels_of(t).expand(t.shape) for t in args[0]]
    labels = torch.cat([p.contiguous() for p in parts], dim)
    if dim in varying_dims(labels):
        for part in parts:
            tracer.atoms.flag(part, Flag.CONCAT)
    tracer.put(result, labels)
    del func


def _pad(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    amounts = list(args[1])
    varying = varying_dims(labels)
    for index in range(len(amounts) // 2):
        dim = labels.dim() - 1 - index
        before, after = amounts[2 * index], amounts[2 * index + 1]
        if dim in varying or (labels.dim() > 2 and dim == 1 and (before or after)):
            pads = [0, 0] * index + [before, after]
            labels = torch.nn.functional.pad(labels, pads, value=PADDING)
        else:
            shape = list(labels.shape)
            shape[dim] += before + after
            labels = labels.narrow(dim, 0, 1).expand(shape)
    tracer.put(result, labels)


def _copy(tracer: Tracer, _name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    tracer.put(result, tracer.labels_of(args[1]).expand(args[1].shape).expand(result.shape))


def _spatial(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    channels = 1 if labels.dim() == outputs[0].dim() and labels.dim() > 2 else 0
    if set(varying_dims(labels)) - {channels} and name in _POOL3D:
        tracer.freeze(labels, Cause.REDUCED, f"aten.{name} mixes neighbouring channels (as in LocalResponseNorm)")
    vector = tracer.atoms.tie(labels, channels, tracer.place)
    for output in outputs:
        shape = [1] * output.dim()
        shape[channels] = -1
        tracer.put(output, vector.view(shape).expand(output.shape))


def _reduce(tracer: Tracer, name: str, func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    chosen = args[1] if len(args) > 1 else kwargs.get("dim")
    if name in {"linalg_vector_norm", "norm"}:  # the order comes first
        chosen = args[2] if len(args) > 2 else kwargs.get("dim")
    if chosen is None or isinstance(chosen, (Tensor, bool)) or chosen == []:
        dims = set(range(labels.dim()))
    else:
        dims = {d % labels.dim() for d in ([chosen] if isinstance(chosen, int) else chosen)}
    if dims & set(varying_dims(labels)):
        tracer.freeze(labels, Cause.REDUCED, f"aten.{name} reduces over its channels")
        labels = fixed(labels)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    for output in [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]:
        kept = labels
        if output.dim() < labels.dim():
            for dim in sorted(dims, reverse=True):
                kept = kept.squeeze(dim)
        tracer.put(output, kept.expand(output.shape))
    del func


def _softmax(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    if args[1] % labels.dim() in varying_dims(labels):
        tracer.freeze(labels, Cause.REDUCED, f"aten.{name} normalises over its channels")
    tracer.put(result, labels)


def _factory(_tracer: Tracer, _name: str, _func: Any, _args: Args, _kwargs: dict[str, Any], _result: Any) -> None:
    """A new constant of the same shape: no labels."""


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_MOVE, _move),
    **dict.fromkeys(_RESHAPE, _reshape),
    **dict.fromkeys(_CUT, _cut),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_SOFTMAX, _softmax),
    **dict.fromkeys(_FACTORY, _factory),
    "cat": _cat,
    "constant_pad_nd": _pad,
    "copy_": _copy,
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
