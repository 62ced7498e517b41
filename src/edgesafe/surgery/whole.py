"""The reference of a proof where an operation is over all channels: it computes it over the kept ones.

A mean over channels, a softmax, a LayerNorm, a convolution that slides over channels give something else when some
channels are gone; zeroing is not removing there. The reference network runs unpruned with zeroed channels, and in these
calls (`WholeCall`) only the kept channels go in; what comes out is written to their positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgesafe.surgery.propagation import Slot, WholeCall
from edgesafe.surgery.units import ChannelGraph

_CONVOLUTION = "convolution"
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"

__all__ = ["KeptOnly", "Weights", "describe", "narrowed_calls", "widened"]

_TITLES = {
    "native_layer_norm": "LayerNorm",
    "native_group_norm": "GroupNorm",
    "_softmax": "softmax",
    "convolution": "a convolution",
    "bmm": "a matrix product",
    ATTENTION: "attention",
    "linalg_vector_norm": "a norm",
    "mean": "a mean",
    "var": "a variance",
    "sum": "a sum",
}


@dataclass(frozen=True)
class NarrowedCall:
    """A call over all channels, some of which are removed.

    Attributes:
        call: the call.
        kept: by its labels' position in `call.taken` and then `call.given`: indices that stay, int64.
    """

    call: WholeCall
    kept: tuple[Tensor, ...]


def narrowed_calls(graph: ChannelGraph, keep: Mapping[Slot, tuple[int, ...]]) -> tuple[NarrowedCall, ...]:
    """The calls over all channels that lose some of them.

    Args:
        graph: of the network before.
        keep: indices that stay, by slot.
    """
    roots = graph.removed_roots(keep)
    found = []
    for call in graph.trace.whole:
        vectors = [labels for _, _, labels in call.taken] + [labels for _, labels in call.given]
        kept = tuple(graph.kept_positions(labels, roots) for labels in vectors)
        if any(len(own) < len(labels) for own, labels in zip(kept, vectors, strict=True)):
            found.append(NarrowedCall(call, kept))
    return tuple(found)


def describe(calls: Sequence[NarrowedCall], standardised: Sequence[str] = ()) -> str:
    """What runs over narrowed channels and where, for the proof; "" without calls and standardised weights."""
    if not calls and not standardised:
        return ""
    kinds = list(dict.fromkeys(_TITLES.get(one.call.name, one.call.name) for one in calls))
    kinds += ["weights standardised"] if standardised else []
    places = list(dict.fromkeys([*(one.call.place for one in calls), *standardised]))
    shown = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
    return (
        f"{', '.join(kinds)} over narrowed channels ({shown}): zeroing is not removing there, so the reference "
        "computes it over the kept channels"
    )


class Weights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the weights that convolutions are given, by their ordinal."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ == _CONVOLUTION:
            self.seen.append(args[1].clone())
        return func(*args, **(kwargs or {}))


def widened(
    graph: ChannelGraph, keep: Mapping[Slot, tuple[int, ...]], seen: Sequence[Tensor]
) -> tuple[dict[int, Tensor], tuple[str, ...]]:
    """Weights computed in the pruned network, at the positions of its channels in the original; zero elsewhere.

    Args:
        graph: of the network before.
        keep: indices that stay, by slot.
        seen: the weights of the pruned network's convolutions, in the order of their calls.

    Returns:
        Weights by ordinal, and the layers.
    """
    roots = graph.removed_roots(keep)
    weights, places = {}, []
    for one in graph.trace.standardised:
        out, into = (graph.kept_positions(labels, roots) for labels in (one.out, one.into))
        if len(out) == len(one.out) and len(into) == len(one.into):
            continue
        narrow = seen[one.ordinal]
        wide = narrow.new_zeros((len(one.out), len(one.into), *narrow.shape[2:]))
        wide[out[:, None], into[None, :]] = narrow
        weights[one.ordinal] = wide
        places.append(one.place)
    return weights, tuple(places)


class KeptOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs the calls over all channels on the kept channels only; the others become zero."""

    def __init__(self, calls: Sequence[NarrowedCall], weights: Mapping[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = {(one.call.name, one.call.ordinal): one for one in calls}
        self.names = {one.call.name for one in calls} | ({_CONVOLUTION} if weights else set())
        self.weights = weights
        self.called: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in self.names:
            return func(*args, **(kwargs or {}))
        ordinal = self.called.get(name, 0)
        self.called[name] = ordinal + 1
        narrowed = self.calls.get((name, ordinal))
        given = list(args)
        if name == _CONVOLUTION and ordinal in self.weights:
            given[1] = self.weights[ordinal].to(given[1].dtype)
        if narrowed is None:
            return func(*given, **(kwargs or {}))
        for (at, dim, _), kept in zip(narrowed.call.taken, narrowed.kept, strict=False):
            given[at] = given[at].index_select(dim, kept).contiguous()
        if name == "native_layer_norm":
            given[1] = [len(narrowed.kept[0])]
        elif name == "native_group_norm":
            given[4] = len(narrowed.kept[0])
        if name == ATTENTION:
            return _attention(given, kwargs or {}), None
        result = func(*given, **(kwargs or {}))
        return self._written_back(narrowed, result)

    @staticmethod
    def _written_back(narrowed: NarrowedCall, result: Any) -> Any:
        """The outputs with zeros at the positions of the channels that are gone."""
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        places = narrowed.kept[len(narrowed.call.taken) :]
        for index, ((dim, labels), kept) in enumerate(zip(narrowed.call.given, places, strict=True)):
            part = outputs[index]
            shape = list(part.shape)
            shape[dim] = len(labels)
            outputs[index] = torch.zeros(shape, dtype=part.dtype).index_copy(dim, kept, part)
        return tuple(outputs) if isinstance(result, (tuple, list)) else outputs[0]


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Attention with query and key of another width than value, which the fused operation does not take."""
    mask, dropout, causal = kwargs.get("attn_mask"), 0.0, bool(args[4]) if len(args) > 4 else False
    result: Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        *args[:3], mask, dropout, causal, scale=kwargs.get("scale")
    )[0]
    return result
