"""What operations that pool, sum or normalise along dimensions do to channel labels.

Along a dimension of channels there are two cases. If the labels vary along another dimension as well (heads and their
channels, branches and their channels), all that is reduced together is tied, and what goes are whole heads, or the same
channels of every branch. If not, the operation is over all channels: a mean over channels is another one when some are
gone, as in LayerNorm. The call is remembered (`WholeCall`), and the proof computes it over the kept channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgesafe.surgery.labels import Cause, Flag, varying_dims
from edgesafe.surgery.propagation import Tracer, fixed

__all__ = ["REDUCTIONS"]

Args = Sequence[Any]
Rule = Callable[[Tracer, str, Any, Args, dict[str, Any], Any], None]

_SPATIAL = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_linear1d", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d", "mkldnn_max_pool2d", "fractional_max_pool2d",
})  # fmt: skip
_REDUCE = frozenset({
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "prod", "norm", "linalg_vector_norm",
    "argmax", "any", "all", "std_mean", "var_mean",
})  # fmt: skip
_POSITIONS = frozenset({"argmax", "any", "all", "prod"})  #: of these the reference over kept channels says nothing
_POOL3D = frozenset({"avg_pool3d", "max_pool3d", "max_pool3d_with_indices"})
_SOFTMAX = frozenset({"_softmax", "_log_softmax", "softmax", "log_softmax"})


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


def _reduced_dims(name: str, args: Args, kwargs: dict[str, Any], rank: int) -> set[int]:
    """The dimensions that a reduction is over."""
    at = 2 if name in {"linalg_vector_norm", "norm"} else 1  # in norms, the order comes first
    chosen = args[at] if len(args) > at else kwargs.get("dim")
    if chosen is None or isinstance(chosen, (Tensor, bool)) or chosen == []:
        return set(range(rank))
    return {d % rank for d in ([chosen] if isinstance(chosen, int) else chosen)}


def _reduce(tracer: Tracer, name: str, _func: Any, args: Args, kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    dims = _reduced_dims(name, args, kwargs, labels.dim())
    if dims & set(varying_dims(labels)):
        labels = tracer.canonical(args[0])
        varying = set(varying_dims(labels))
        hit = sorted(dims & varying)
        if hit and varying - dims:
            tracer.atoms.flag(labels, Flag.ADD)
            labels = tracer.atoms.tie_along(labels, hit, tracer.place, "a sum over several parts")
        elif hit:
            if len(hit) > 1 or name in _POSITIONS:
                tracer.freeze(labels, Cause.REDUCED, f"aten.{name} reduces over its channels")
            else:
                tracer.use_whole(name, [(0, hit[0], _along(labels, hit[0]))])
            labels = fixed(labels)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    for output in [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]:
        kept = labels
        if output.dim() < labels.dim():
            for dim in sorted(dims, reverse=True):
                kept = kept.squeeze(dim)
        tracer.put(output, kept.expand(output.shape))


def _along(labels: Tensor, dim: int) -> Tensor:
    """Labels along the only dimension that they vary along, int64 (size,)."""
    return labels.movedim(dim, 0).flatten(1)[:, 0] if labels.dim() > 1 else labels


def _softmax(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    labels = tracer.labels_of(args[0])
    dim = args[1] % labels.dim()
    if dim in varying_dims(labels):
        labels = tracer.canonical(args[0])
        varying = varying_dims(labels)
        if dim in varying and len(varying) > 1:
            labels = tracer.atoms.tie_along(labels, [dim], tracer.place, "a softmax over several parts")
        elif dim in varying:
            vector = _along(labels, dim)
            tracer.use_whole(name, [(0, dim, vector)], [(dim, vector)])
    tracer.put(result, labels)


REDUCTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_SOFTMAX, _softmax),
}
