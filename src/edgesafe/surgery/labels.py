"""Channel labels: which removable channel each element of a tensor came from.

A label tensor is int64 and has the shape of the tensor it describes. A positive label is an *atom*: one output channel
of one layer (or one entry of a parameter). Labels <= 0 cannot be removed: `FIXED` (network inputs, constants),
`PADDING` (channels of zeros) and `SHARED` (one number expanded over channels, which fits any number of them). Atoms
that must be kept or removed together are merged in a union-find forest; an atom that must stay is frozen, with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

__all__ = [
    "FIXED",
    "PADDING",
    "SHARED",
    "Atoms",
    "Cause",
    "Flag",
    "Reason",
    "compact",
    "squeeze_constant",
    "varying_dims",
]

FIXED = 0
PADDING = -1
SHARED = -2


class Cause(StrEnum):
    """What keeps a channel from being removed."""

    OUTPUT = "output"  #: it is an output of the network
    PADDING = "padding"  #: it is added to channels of zeros
    CONSTANT = "constant"  #: it is combined with the network input or a constant
    SPLIT = "split"  #: an operation spreads the channels over several dimensions, or rearranges them
    REDUCED = "reduced"  #: an operation sums or normalises over the channels
    UNKNOWN = "unknown"  #: an operation without a rule
    BROADCAST = "broadcast"  #: it is expanded over other channels
    INDEX = "index"  #: it is picked by position
    COMPUTED = "computed"  #: a weight or statistic that goes with it is not a parameter but computed


class Flag(StrEnum):
    """The kinds of operation that a channel takes part in, besides convolutions."""

    ADD = "add"  #: an addition of two activations
    CONCAT = "concat"  #: a concatenation of channels
    NORM = "norm"  #: a LayerNorm over channels, or another operation over all of them


@dataclass(frozen=True)
class Reason:
    """Why a channel cannot be removed.

    Attributes:
        cause: which kind of obstacle.
        text: for people, in a clause that names the place.
    """

    cause: Cause
    text: str


@dataclass
class Atoms:
    """The union-find forest of atoms, their flags and reasons. Only the tracer changes it."""

    parent: list[int] = field(default_factory=lambda: [0])
    frozen: dict[int, Reason] = field(default_factory=dict)
    flags: dict[int, set[Flag]] = field(default_factory=dict)
    ties: dict[int, str] = field(default_factory=dict)  #: what joined an atom with others of its own tensor
    parts: dict[int, set[tuple[int, int]]] = field(default_factory=dict)  #: (cut, part of it) by atom
    cuts: int = 0  #: tensors that were cut into parts by position

    def new(self, count: int) -> Tensor:
        """Add `count` atoms, each in a class of its own; int64 (count,)."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, atom: int) -> int:
        """The atom that represents the class of `atom`; the path to it is shortened on the way."""
        parent = self.parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def freeze(self, labels: Tensor, reason: Reason) -> None:
        """Mark the atoms in `labels` as never to be removed; of several reasons, the first is kept."""
        for atom in distinct(labels):
            if atom > 0:
                self.frozen.setdefault(atom, reason)

    def flag(self, labels: Tensor, flag: Flag) -> None:
        """Remember that the atoms in `labels` took part in `flag`."""
        for atom in distinct(labels):
            if atom > 0:
                self.flags.setdefault(atom, set()).add(flag)

    def union(self, a: Tensor, b: Tensor, place: str, inside: str = "") -> None:
        """Merge `a` and `b` element by element; an atom that meets a fixed label is frozen.

        Args:
            a: int64, any shape.
            b: int64, expandable to the shape of `a`.
            place: where, for the reasons.
            inside: what joins channels of one tensor ("a GroupNorm"), if that is what happens.
        """
        b = b.expand_as(a)
        a, b = squeeze_constant(a, b)
        different = a != b
        if not bool(different.any()):
            return
        pairs = torch.unique(torch.stack((a[different], b[different])), dim=1)
        for x, y in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
            if x > 0 and y > 0:
                root_x, root_y = self.root(x), self.root(y)
                if root_x != root_y:
                    if inside:
                        self.ties.setdefault(x, f"{inside} at {place}")
                    self.parent[max(root_x, root_y)] = min(root_x, root_y)
            elif max(x, y) > 0 and min(x, y) != SHARED:
                padded = min(x, y) == PADDING
                what = "zero-padded channels" if padded else "the network input or a constant"
                reason = Reason(Cause.PADDING if padded else Cause.CONSTANT, f"it meets {what} at {place}")
                self.frozen.setdefault(max(x, y), reason)

    def tie(self, labels: Tensor, dim: int, place: str) -> Tensor:
        """Merge all labels that share an index along `dim`; one label for each index, int64 (labels.shape[dim],)."""
        rows = squeeze_others(labels, dim).movedim(dim, 0).flatten(1)
        if rows.shape[1] > 1:
            self.union(rows, rows[:, :1], place, inside="an operation that mixes its channels")
        return rows[:, 0].clone()

    def tie_along(self, labels: Tensor, dims: Iterable[int], place: str, inside: str) -> Tensor:
        """Merge labels that differ in their index along `dims` only.

        Args:
            labels: int64, any shape.
            dims: dimensions along which all must be kept or removed together.
            place: where, for the reasons.
            inside: what joins them.

        Returns:
            Labels of the same shape that do not vary along `dims`.
        """
        for dim in dims:
            first = labels.narrow(dim, 0, 1)
            self.union(labels, first, place, inside)
            labels = first.expand(labels.shape)
        return labels

    def canonical(self, labels: Tensor) -> Tensor:
        """The same labels with each atom replaced by the root of its class, constant dimensions expanded."""
        (small,) = squeeze_constant(labels)
        values, inverse = torch.unique(small, return_inverse=True)
        roots = torch.tensor([self.root(v) if v > 0 else v for v in values.tolist()], dtype=torch.int64)
        return compact(roots[inverse].view(small.shape).expand(labels.shape))

    def cut(self, parts: Iterable[Tensor]) -> None:
        """Remember that a tensor is cut by position into parts, each int64 labels."""
        self.cuts += 1
        for number, labels in enumerate(parts):
            for atom in distinct(labels):
                if atom > 0:
                    self.parts.setdefault(atom, set()).add((self.cuts, number))

    def root_parts(self) -> dict[int, frozenset[tuple[int, int]]]:
        """The parts of cut tensors that each class lies in, by its root."""
        parts: dict[int, set[tuple[int, int]]] = {}
        for atom, own in self.parts.items():
            parts.setdefault(self.root(atom), set()).update(own)
        return {root: frozenset(own) for root, own in parts.items()}

    def frozen_roots(self) -> dict[int, Reason]:
        """Reason by root; where several, that of the smallest atom."""
        reasons: dict[int, Reason] = {}
        for atom in sorted(self.frozen):
            reasons.setdefault(self.root(atom), self.frozen[atom])
        return reasons

    def root_ties(self) -> dict[int, str]:
        """By root, what joined several channels of one tensor; where several did, the first."""
        ties: dict[int, str] = {}
        for atom in sorted(self.ties):
            ties.setdefault(self.root(atom), self.ties[atom])
        return ties

    def root_flags(self) -> dict[int, frozenset[Flag]]:
        """The flags of each class that has any, by its root."""
        flags: dict[int, set[Flag]] = {}
        for atom, names in self.flags.items():
            flags.setdefault(self.root(atom), set()).update(names)
        return {root: frozenset(names) for root, names in flags.items()}


def distinct(labels: Tensor) -> list[int]:
    """The different labels of a tensor, sorted."""
    (small,) = squeeze_constant(labels)
    return [int(v) for v in torch.unique(small).tolist()]


def squeeze_constant(*labels: Tensor) -> tuple[Tensor, ...]:
    """Shrink each dimension along which all the given tensors (of one shape) are expanded (stride 0) to length 1."""
    result = list(labels)
    for dim in range(labels[0].dim()):
        if labels[0].shape[dim] > 1 and all(label.stride(dim) == 0 for label in labels):
            result = [label.narrow(dim, 0, 1) for label in result]
    return tuple(result)


def squeeze_others(labels: Tensor, keep: int) -> Tensor:
    """Shrink each expanded dimension but `keep` to length 1."""
    for dim in range(labels.dim()):
        if dim != keep % labels.dim() and labels.shape[dim] > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """The same labels with every dimension expanded (stride 0) along which they do not vary."""
    shape, varying = labels.shape, varying_dims(labels)
    for dim in range(labels.dim()):
        if dim not in varying and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)


def varying_dims(labels: Tensor) -> tuple[int, ...]:
    """Dimensions along which the labels are not all the same."""
    return tuple(
        dim
        for dim in range(labels.dim())
        if labels.shape[dim] > 1
        and labels.stride(dim) != 0
        and not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))
    )
