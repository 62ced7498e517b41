"""The state of a trace: which label each index of each parameter carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgesafe.surgery.labels import (
    FIXED,
    PADDING,
    Atoms,
    Cause,
    Flag,
    Reason,
    varying_dims,
)

__all__ = [
    "Computed",
    "DimensionRole",
    "SizeUse",
    "Slot",
    "Spread",
    "Standardised",
    "Trace",
    "Tracer",
    "WholeCall",
    "fixed",
    "unknown",
]


MOST_ENTRIES = 1 << 15  #: of a parameter with several long dimensions whose entries are followed one by one


class DimensionRole(StrEnum):
    """What a dimension of a parameter stands for."""

    OUT = "out"  #: rows of a convolution or linear layer: its output channels
    IN = "in"  #: columns: its input channels
    SCALE = "scale"  #: weight of a BatchNorm
    NORM = "norm"  #: weight, bias of another normalisation
    STATE = "state"  #: bias, running statistics, element-wise parameters


@dataclass(frozen=True, order=True)
class Slot:
    """One dimension of one parameter or buffer."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Computed:
    """A layer with a computed weight: its channels stay.

    Attributes:
        macs: multiply-accumulates of one image.
        out: output channels.
        into: input channels.
    """

    macs: int
    out: int
    into: int


@dataclass(frozen=True)
class Spread:
    """A reshape that spreads a dimension of channels over several: only a rectangle of them can be removed.

    Attributes:
        labels: of the result.
        dims: the dimensions that one became.
        place: where.
    """

    labels: Tensor
    dims: tuple[int, ...]
    place: str


@dataclass(frozen=True)
class SizeUse:
    """A number in the forward that says how many channels there are.

    Attributes:
        stack: module paths, the outermost first, that were running.
        number: as given to the operation.
        labels: of the tensor, or of that part of it, whose size along `dim` the number is.
        dim: which dimension.
    """

    stack: tuple[str, ...]
    number: int
    labels: Tensor
    dim: int


@dataclass(frozen=True)
class WholeCall:
    """One call of an operation over all channels, which gives something else when some of them are gone.

    Attributes:
        name: of the aten operation.
        ordinal: which call of that operation, from 0.
        taken: (argument, dimension, labels (size,)) that the kept channels are picked from.
        given: (dimension, labels (size,)) of each output that is written back to the kept positions; or empty.
        place: where.
    """

    name: str
    ordinal: int
    taken: tuple[tuple[int, int, Tensor], ...]
    given: tuple[tuple[int, Tensor], ...]
    place: str


@dataclass(frozen=True)
class Standardised:
    """One call of a convolution whose weight is computed from a parameter of the same shape.

    Attributes:
        ordinal: which convolution of the forward, from 0.
        out: labels of the weight's rows, int64.
        into: labels of its columns, int64; fixed in a grouped convolution.
        place: where.
    """

    ordinal: int
    out: Tensor
    into: Tensor
    place: str


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Attributes:
        atoms: the forest.
        slots: label of each index, int64 (size,), by slot.
        roles: a `DimensionRole` by slot.
        groups: by weight of a grouped layer, its number of groups.
        macs: multiply-accumulates of one image, by weight.
        order: weights of convolutions and linear layers, in the order of their first call.
        outputs: shapes of the network's outputs.
        calls: calls by weight.
        computed: layers whose weight is not a parameter but computed, by place.
        sizes: numbers in the forward that say how many channels there are.
        whole: calls that give something else when channels are gone.
        kept_groups: by weight of a grouped convolution that loses channels of each group, its number of groups.
        standardised: calls of convolutions whose weight is computed from a parameter of the same shape.
    """

    atoms: Atoms
    slots: Mapping[Slot, Tensor]
    roles: Mapping[Slot, DimensionRole]
    groups: Mapping[str, int]
    macs: Mapping[str, int]
    order: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]
    calls: Mapping[str, int]
    computed: Mapping[str, Computed]
    sizes: tuple[SizeUse, ...] = ()
    whole: tuple[WholeCall, ...] = ()
    kept_groups: Mapping[str, int] = field(default_factory=dict)
    standardised: tuple[Standardised, ...] = ()

    @property
    def macs_total(self) -> int:
        """Multiply-accumulates of one image through convolutions and linear layers."""
        return sum(self.macs.values()) + sum(layer.macs for layer in self.computed.values())


@dataclass
class Tracer:
    """State of a trace under way. Rules (`surgery.rules`) read and change it."""

    names: Mapping[int, str]  #: id of a parameter or buffer -> name
    vectors: Mapping[str, Tensor]  #: one-dimensional parameters and buffers by name
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  #: of all parameters and buffers by name
    atoms: Atoms = field(default_factory=Atoms)
    slots: dict[Slot, Tensor] = field(default_factory=dict)
    roles: dict[Slot, DimensionRole] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    computed: dict[str, Computed] = field(default_factory=dict)
    ran: int = 0  #: multiply-accumulates of all layers, counted without labels
    drew: tuple[str, str] | None = None  #: where random numbers were drawn first, and by which operation
    labels: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  #: id -> (tensor kept alive, its labels)
    transposed: dict[int, tuple[Tensor, str]] = field(default_factory=dict)  #: id -> (kept alive, parameter)
    stack: list[str] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    sizes: list[SizeUse] = field(default_factory=list)
    whole: list[WholeCall] = field(default_factory=list)
    kept_groups: dict[str, int] = field(default_factory=dict)
    standardised: list[Standardised] = field(default_factory=list)
    derived: dict[int, tuple[Tensor, frozenset[str]]] = field(default_factory=dict)  #: id -> parameters it is made of
    grids: dict[str, Tensor] = field(default_factory=dict)  #: labels of parameters with several long dimensions
    called: dict[str, int] = field(default_factory=dict)  #: calls of each operation so far

    @property
    def place(self) -> str:
        """The module that is running, for messages."""
        return self.stack[-1] if self.stack and self.stack[-1] else "the network's forward"

    def built(self, model: nn.Module) -> list[str]:
        """Names of parameters that the forward created."""
        return [name for name, parameter in model.named_parameters() if id(parameter) not in self.names]

    def enter(self, name: str) -> None:
        """Note that the module of this path starts to run."""
        self.stack.append(name)

    def leave(self) -> None:
        """Note that the module that was entered last has run."""
        self.stack.pop()

    def get(self, tensor: Tensor) -> Tensor | None:
        """Labels of an activation, or None for constants and parameters."""
        entry = self.labels.get(id(tensor))
        return None if entry is None else entry[1]

    def put(self, tensor: Tensor, labels: Tensor) -> None:
        """Set the labels of an activation, an int64 tensor."""
        self.labels[id(tensor)] = (tensor, labels)

    def slot(self, name: str, dim: int, size: int, role: DimensionRole, labels: Tensor | None = None) -> Tensor:
        """The labels of a parameter's dimension: fresh ones, `labels`, or, seen before, merged with `labels`."""
        key = Slot(name, dim)
        if key not in self.slots:
            self.slots[key] = self.atoms.new(size) if labels is None else labels.clone()
            self.roles[key] = role
        elif labels is not None:
            self.atoms.union(self.slots[key], labels, self.place)
        return self.slots[key]

    def freeze(self, labels: Tensor, cause: Cause, text: str) -> None:
        """Freeze with a reason that names the running module."""
        self.atoms.freeze(labels, Reason(cause, f"{text} at {self.place}"))

    def canonical(self, tensor: Tensor) -> Tensor:
        """`labels_of` with one label for each class of atoms."""
        return self.atoms.canonical(self.labels_of(tensor))

    def derive(self, tensors: Iterable[Tensor], results: Iterable[Tensor]) -> frozenset[str]:
        """Note that results are made of parameters only; their names, or none where an activation takes part."""
        found: set[str] = set()
        for tensor in tensors:
            name, earlier = self.names.get(id(tensor)), self.derived.get(id(tensor))
            if name is None and earlier is None and id(tensor) in self.labels:
                return frozenset()
            found |= {name} if name is not None else earlier[1] if earlier is not None else set()
        names = frozenset(found)
        if names:
            self.derived.update({id(result): (result, names) for result in results})
        return names

    def use_size(self, number: int, labels: Tensor, dim: int) -> None:
        """Note that an operation was told `number`, the size of `labels` along `dim`."""
        if number > 1 and dim in varying_dims(labels):
            self.sizes.append(SizeUse(tuple(self.stack), number, labels, dim))

    def use_whole(
        self, name: str, taken: Sequence[tuple[int, int, Tensor]], given: Sequence[tuple[int, Tensor]] = ()
    ) -> None:
        """Note that the running call is over all channels; see `WholeCall`."""
        self.whole.append(WholeCall(name, self.called.get(name, 1) - 1, tuple(taken), tuple(given), self.place))
        for _, _, labels in taken:
            self.atoms.flag(labels, Flag.NORM)
            self.use_size(len(labels), labels, 0)

    def resolve(self) -> None:
        """Decide for each reshape that spread channels along which of its dimensions they may go: the longest."""
        waiting = list(self.spreads)
        while waiting:
            again = []
            for spread in waiting:
                labels = self.atoms.canonical(spread.labels)
                dims = [dim for dim in varying_dims(labels) if dim in spread.dims]
                if len(dims) > 1:
                    narrow = max(dims, key=lambda dim: (labels.shape[dim], dim))
                    others = [dim for dim in dims if dim != narrow]
                    self.atoms.tie_along(labels, others, spread.place, "a reshape over several dimensions")
                else:
                    again.append(spread)  # what another reshape ties may still change it
            waiting = again if len(again) < len(waiting) else []

        self._settle_grids()

    def _settle_grids(self) -> None:
        """Make slots of parameters with several long dimensions, where channels lie along one; else entries stay."""
        for name, grid in self.grids.items():
            labels = self.atoms.canonical(grid)
            dims = varying_dims(labels)
            if len(dims) == 1 and not any(slot.tensor == name for slot in self.slots):
                vector = labels.movedim(dims[0], 0).flatten(1)[:, 0]
                self.slots[Slot(name, dims[0])] = vector.clone()
                self.roles[Slot(name, dims[0])] = DimensionRole.STATE
            else:
                text = f"it is combined with {name}, which spans channels along several dimensions"
                self.atoms.freeze(grid, Reason(Cause.SPLIT, text))

    def mask_of(self, positions: Tensor, channels: int) -> str | None:
        """The running module's vector whose non-zero entries are `positions` (channel selection layers), if any."""
        prefix = f"{self.stack[-1]}." if self.stack and self.stack[-1] else ""
        for name, vector in self.vectors.items():
            own = name.startswith(prefix) and "." not in name[len(prefix) :]
            if own and len(vector) == channels and torch.equal(vector.nonzero().flatten(), positions):
                return name
        return None

    def count_computed(self, macs: int, out: int, into: int) -> None:
        """Add a call of a layer whose weight is computed."""
        before = self.computed.get(self.place)
        self.computed[self.place] = Computed(macs + (before.macs if before else 0), out, into)

    def count(self, weight: str, macs: int) -> None:
        """Count one call of the layer with this weight, of `macs` multiply-accumulates."""
        self.macs[weight] = self.macs.get(weight, 0) + macs
        self.calls[weight] = self.calls.get(weight, 0) + 1

    def parameter_labels(self, tensor: Tensor) -> Tensor | None:
        """Labels of a parameter or buffer used in arithmetic: one atom per index of its only long dimension.

        Where several are long (tables of position biases), each entry has its own atom until it is known along which of
        them the channels lie (`resolve`).
        """
        name = self.names.get(id(tensor))
        long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if name is None:
            return None
        if len(long) > 1 and tensor.numel() <= MOST_ENTRIES:
            if name not in self.grids:
                self.grids[name] = self.atoms.new(tensor.numel()).view(tensor.shape)
            return self.grids[name]
        if len(long) != 1:
            return fixed(tensor)
        atoms = self.slot(name, long[0], tensor.shape[long[0]], DimensionRole.STATE)
        shape = [1] * tensor.dim()
        shape[long[0]] = -1
        return atoms.view(shape)

    def labels_of(self, tensor: Tensor) -> Tensor:
        """Labels of any tensor: an activation's, a parameter's, or those of a constant (zeros count as padding)."""
        labels = self.get(tensor)
        if labels is None:
            labels = self.parameter_labels(tensor)
        if labels is None:
            zeros = tensor.is_floating_point() and tensor.numel() > 1 and not bool(tensor.any())
            labels = torch.full((1,) * tensor.dim(), PADDING if zeros else FIXED).expand(tensor.shape)
        return labels


def fixed(tensor: Tensor) -> Tensor:
    """Labels of the tensor's shape that say: cannot be removed."""
    return torch.full((1,) * tensor.dim(), FIXED).expand(tensor.shape)


def unknown(tracer: Tracer, name: str, _func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
    """The rule for operations without one: freeze whatever goes in; what comes out cannot be removed."""
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor) and tracer.get(leaf) is not None:
            tracer.freeze(tracer.labels_of(leaf), Cause.UNKNOWN, f"edgesafe has no rule for aten.{name}")
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            tracer.put(leaf, fixed(leaf))
