"""From a trace to what can be removed: units (channels that go together), groups of units, layers and their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError, hint
from edgesafe.surgery.labels import Cause, Flag, Reason, squeeze_constant
from edgesafe.surgery.propagation import DimensionRole, Slot, Trace
from edgesafe.surgery.trace import trace

__all__ = ["ChannelGraph", "ChannelGroup", "ChannelUnit", "Layer", "channel_graph", "keep_indices"]


@dataclass(frozen=True, eq=False)
class ChannelUnit:
    """Channels that are kept or removed together.

    Attributes:
        indices: the indices it owns, by slot.
        flags: what its channels take part in.
        reason: why it cannot be removed, or None. All channels that stay for one reason are one unit.
        tie: what joins several channels of one layer in it, or "".
        parts: parts of tensors cut by position that its channels lie in.
    """

    indices: Mapping[Slot, tuple[int, ...]]
    flags: frozenset[Flag]
    reason: Reason | None
    tie: str = ""
    parts: frozenset[tuple[int, int]] = frozenset()

    def width(self, slot: Slot) -> int:
        """How many indices of `slot` it owns."""
        return len(self.indices.get(slot, ()))


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Removable units with the same producing layers, in the same parts of what is cut by position.

    Attributes:
        producers: slots of the convolutions and linear layers whose output channels these are, in call order.
        units: in the order of the first producer's channels.
    """

    producers: tuple[Slot, ...]
    units: tuple[ChannelUnit, ...]

    @property
    def name(self) -> str:
        """The module path of the first producing layer."""
        return layer_name(self.producers[0].tensor)

    @property
    def flags(self) -> frozenset[Flag]:
        """The operations that any unit of the group takes part in."""
        return frozenset().union(*(unit.flags for unit in self.units))

    @property
    def internal(self) -> bool:
        """No addition and no concatenation couples it with another layer's outputs."""
        return not self.flags & {Flag.ADD, Flag.CONCAT}


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer.

    Attributes:
        weight: name of its weight.
        out: slot of its output channels.
        into: slot of its input channels; None in a grouped convolution.
        reasons: why channels of it cannot be removed, with the number of channels.
        classifier: some of its output channels are the network's outputs.
    """

    weight: str
    kind: str
    out: Slot
    into: Slot | None
    reasons: Mapping[Reason, int]
    classifier: bool

    @property
    def name(self) -> str:
        """The module path of the layer."""
        return layer_name(self.weight)


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Everything that pruning needs to know of a network's structure."""

    trace: Trace
    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    units: tuple[ChannelUnit, ...]  #: all, also those that stay

    @property
    def residual(self) -> bool:
        """Whether some removable or fixed channel passes an addition of two activations."""
        return any(Flag.ADD in unit.flags for unit in self.units)

    @property
    def padded(self) -> tuple[str, ...]:
        """Layers with channels that meet zero-padded ones (option-A shortcuts)."""
        return tuple(
            layer.name for layer in self.layers if any(reason.cause is Cause.PADDING for reason in layer.reasons)
        )

    def removed_roots(self, keep: Mapping[Slot, tuple[int, ...]]) -> frozenset[int]:
        """The classes of atoms that a choice removes.

        Args:
            keep: indices that stay, by slot.
        """
        roots: set[int] = set()
        for slot, kept in keep.items():
            labels, stay = self.trace.slots[slot].tolist(), set(kept)
            roots.update(self.trace.atoms.root(label) for i, label in enumerate(labels) if i not in stay and label > 0)
        return frozenset(roots)

    def stays(self, labels: Tensor, roots: frozenset[int]) -> Tensor:
        """Which elements of `labels` stay when these classes go; bool, same shape."""
        (small,) = squeeze_constant(labels)
        values, inverse = torch.unique(small, return_inverse=True)
        kept = torch.tensor([value <= 0 or self.trace.atoms.root(value) not in roots for value in values.tolist()])
        return kept[inverse].view(small.shape).expand(labels.shape)

    def kept_positions(self, labels: Tensor, roots: frozenset[int]) -> Tensor:
        """Positions of a vector of labels that stay when these classes go; int64."""
        return self.stays(labels, roots).nonzero().flatten()

    def layer(self, name: str) -> Layer:
        """The layer of that module path.

        Raises:
            SurgeryError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        fix = hint(name, [layer.name for layer in self.layers], f"the network has {len(self.layers)}")
        raise SurgeryError("no such convolution or linear layer", where=name, fix=fix)


def layer_name(weight: str) -> str:
    """Module path of a parameter named "weight"; any other parameter's own name."""
    path, _, attribute = weight.rpartition(".")
    return path if path and attribute == "weight" else weight


def channel_graph(model: nn.Module, inputs: tuple[Tensor, ...]) -> ChannelGraph:
    """Trace `model` and find its units, groups and layers.

    Args:
        model: not modified.
        inputs: example inputs, batch 1 each.

    Raises:
        SurgeryError: the network cannot be traced, or has no convolution and no linear layer.
    """
    return build(model, trace(model, inputs))


def build(model: nn.Module, traced: Trace) -> ChannelGraph:
    """Units, groups and layers of a trace."""
    if not traced.order:
        raise SurgeryError("no convolution and no linear layer ran", where="forward", fix="give a CNN")
    atoms = traced.atoms
    reasons, flags, ties, parts = atoms.frozen_roots(), atoms.root_flags(), atoms.root_ties(), atoms.root_parts()
    indices: dict[int, dict[Slot, list[int]]] = {}
    representative: dict[Reason, int] = {}  # channels that stay for one reason are one unit: there may be millions
    kept_flags: dict[int, frozenset[Flag]] = {}
    for slot, labels in traced.slots.items():
        for index, label in enumerate(labels.tolist()):
            if label <= 0:
                continue
            root = atoms.root(label)
            if root in reasons:
                own = representative.setdefault(reasons[root], root)
                if root in flags:
                    kept_flags[own] = kept_flags.get(own, frozenset()) | flags[root]
                root = own
            indices.setdefault(root, {}).setdefault(slot, []).append(index)
    units = {
        root: ChannelUnit(
            MappingProxyType({slot: tuple(own) for slot, own in slots.items()}),
            kept_flags.get(root, frozenset()) if root in reasons else flags.get(root, frozenset()),
            reasons.get(root),
            ties.get(root, ""),
            parts.get(root, frozenset()),
        )
        for root, slots in indices.items()
    }
    layers = tuple(_layer(model, weight, traced, reasons) for weight in traced.order)
    return ChannelGraph(traced, _groups(traced, units), layers, tuple(units.values()))


def _groups(traced: Trace, units: Mapping[int, ChannelUnit]) -> tuple[ChannelGroup, ...]:
    rank = {weight: position for position, weight in enumerate(traced.order)}
    members: dict[tuple[tuple[Slot, ...], frozenset[tuple[int, int]]], list[ChannelUnit]] = {}
    for unit in units.values():
        producers = tuple(
            sorted(
                (s for s in unit.indices if traced.roles[s] == DimensionRole.OUT), key=lambda s: rank.get(s.tensor, 0)
            )
        )
        if producers and unit.reason is None:
            members.setdefault((producers, unit.parts), []).append(unit)
    ordered = sorted(
        members.items(), key=lambda item: ([rank.get(s.tensor, 0) for s in item[0][0]], sorted(item[0][1]))
    )
    return tuple(
        ChannelGroup(producers, tuple(sorted(own, key=lambda u: u.indices[producers[0]][0])))
        for (producers, _), own in ordered
    )


def _layer(model: nn.Module, weight: str, traced: Trace, reasons: Mapping[int, Reason]) -> Layer:
    out = next(Slot(weight, d) for d in (0, 1) if traced.roles.get(Slot(weight, d)) == DimensionRole.OUT)
    into = Slot(weight, 1 - out.dim)
    counted: dict[Reason, int] = {}
    for label in traced.slots[out].tolist():
        reason = reasons.get(traced.atoms.root(label)) if label > 0 else None
        if reason is not None:
            counted[reason] = counted.get(reason, 0) + 1
    path, _, attribute = weight.rpartition(".")
    kind = type(model.get_submodule(path)).__name__ if attribute == "weight" else "Parameter"
    classifier = any(reason.cause is Cause.OUTPUT for reason in counted)
    return Layer(weight, kind, out, into if into in traced.slots else None, counted, classifier)


def keep_indices(graph: ChannelGraph, removed: tuple[ChannelUnit, ...]) -> dict[Slot, tuple[int, ...]]:
    """What stays of each slot that loses something.

    Args:
        graph: of the network to prune.
        removed: units with no reason to stay.
    """
    gone: dict[Slot, set[int]] = {}
    for unit in removed:
        if unit.reason is not None:
            raise SurgeryError(f"a channel that must stay was chosen: {unit.reason.text}", where="units")
        for slot, own in unit.indices.items():
            gone.setdefault(slot, set()).update(own)
    return {
        slot: tuple(i for i in range(len(graph.trace.slots[slot])) if i not in lost)
        for slot, lost in sorted(gone.items())
    }
