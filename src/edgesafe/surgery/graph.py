"""Removing channels with torch-pruning's dependency graph, kept only where the result equals that of our own slices.

The only module that imports torch_pruning. We choose the channels and know what each choice must remove (`units`). Each
choice is given to torch-pruning's `DependencyGraph`; if for every one it names exactly the layers and indices that we
expect, it cuts a copy of the network. That copy is kept if every tensor and every module attribute equals those of our
own slices; otherwise the slices are kept, and the record says why. Its pruners, importances, rounding and defaults are
not used.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from edgesafe.records import Declined, EngineReason
from edgesafe.surgery.propagation import DimensionRole, Slot
from edgesafe.surgery.remove import owners
from edgesafe.surgery.sizes import narrowed, sizes_of
from edgesafe.surgery.units import (
    ChannelGraph,
    ChannelGroup,
    ChannelUnit,
    layer_name,
)

__all__ = ["MAX_INDICES", "Removal", "cut"]

Removal = tuple[ChannelGroup, tuple[ChannelUnit, ...]]  #: a group and those of its units that go

#: Index objects that torch-pruning may create for one network, about five seconds' worth. On reshaped weights its lists
#: multiply without end. A count, not a time, so that the same network always ends with the same engine.
MAX_INDICES = 2_000_000


class _DeclinedError(Exception):
    """The reason why the network that torch-pruning cut is not kept."""

    def __init__(self, cause: Declined, layer: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = EngineReason(cause=cause, layer=layer, detail=detail)


def cut(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    graph: ChannelGraph,
    removals: Sequence[Removal],
    keep: Mapping[Slot, tuple[int, ...]],
) -> tuple[nn.Module, EngineReason | None]:
    """A copy of `model` without the chosen channels.

    Args:
        model: not modified; flags and modes are kept.
        inputs: example inputs, batch 1 each.
        graph: of `model`.
        removals: what goes.
        keep: the same as indices that stay (`units.keep_indices`).

    Returns:
        The network that torch-pruning cut, and None; or edgesafe's own slices, and why.
    """
    sliced = narrowed(model, graph, keep)
    sizes = sizes_of(sliced)
    if sizes != sizes_of(model):
        path, names = next(iter(sizes.items()))
        where = f"{path}.{next(iter(names))}" if path else next(iter(names))
        detail = f"it does not set sizes that a forward reads from a module ({where})"
        return sliced, EngineReason(cause=Declined.NOT_ASKED, layer=path, detail=detail)
    if graph.trace.computed:  # there its index lists may grow for minutes without making an index object
        layer = next(iter(graph.trace.computed))
        detail = "a weight is computed there, and it follows such weights without a limit"
        return sliced, EngineReason(cause=Declined.NOT_ASKED, layer=layer, detail=detail)
    try:
        pruned = _cut_by_engine(model, inputs, graph, removals)
        _require_equal(pruned, sliced)
    except _DeclinedError as declined:
        return sliced, declined.reason
    return pruned, None


def _cut_by_engine(
    model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph, removals: Sequence[Removal]
) -> nn.Module:
    """A copy of `model` from which torch-pruning removed the channels; every removal is compared before the first."""
    producers = [slot.tensor for group, _ in removals for slot in group.producers]
    twice = next((name for name in producers if producers.count(name) > 1), None)
    if twice is not None:
        raise _DeclinedError(Declined.DIFFERS, layer_name(twice), "it cannot narrow one layer in two groups")
    pruned = copy.deepcopy(model)
    modes = {name: module.training for name, module in pruned.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in pruned.named_parameters()}
    engine = _Engine(pruned.requires_grad_(True), inputs)
    for group, units in removals:
        _require_same_indices(graph, group, units, engine.indices(group, units))
    for group, units in removals:
        engine.remove(group, units)
    for name, module in pruned.named_modules():
        module.training = modes[name]
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(flags.get(name, True))
        parameter.grad = None
    return pruned


class _Engine:
    """torch-pruning on one network.

    Args:
        model: traced at once and later changed in place; its parameters require gradients, which torch-pruning follows.
        inputs: example inputs.

    Raises:
        _DeclinedError: here and in the methods, whatever torch-pruning raises; or its work exceeds `MAX_INDICES`.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.model = model
        self.spent = 0
        self.names = {id(module): name for name, module in model.named_modules()}
        with self._running(""):
            import torch_pruning

            self.graph: Any = torch_pruning.DependencyGraph()
            self.graph.build_dependency(model, example_inputs=inputs, verbose=False)

    def indices(self, group: ChannelGroup, units: Sequence[ChannelUnit]) -> dict[Slot, set[int]]:
        """What it would remove with the first producer's channels of these units, by slot."""
        removed: dict[Slot, set[int]] = {}
        with self._running(group.name):
            for dependency, indices in self._group(group, units):
                into = self.graph.is_in_channel_pruning_fn(dependency.handler)
                slot = self._slot(dependency.target.module, into=into)
                if slot is not None:
                    removed.setdefault(slot, set()).update(int(i) for i in indices)
        return removed

    def remove(self, group: ChannelGroup, units: Sequence[ChannelUnit]) -> None:
        """Remove these units' channels from the network itself, in every layer that torch-pruning couples with them."""
        with self._running(group.name):
            self._group(group, units).prune()

    def _group(self, group: ChannelGroup, units: Sequence[ChannelUnit]) -> Any:
        root = group.producers[0]
        module = self.model.get_submodule(layer_name(root.tensor))
        indices = sorted(i for unit in units for i in unit.indices[root])
        return self.graph.get_pruning_group(module, self.graph.get_pruner_of_module(module).prune_out_channels, indices)

    def _slot(self, module: Any, *, into: bool) -> Slot | None:
        """The slot that stands for a module's inputs or outputs, or None for what has no weight."""
        if id(module) not in self.names or not isinstance(getattr(module, "weight", None), Tensor):
            return None
        name = self.names[id(module)]
        layer = module.weight.dim() > 1
        grouped = layer and getattr(module, "groups", 1) > 1
        dim = int(layer and not grouped and into != bool(getattr(module, "transposed", False)))
        return Slot(f"{name}.weight" if name else "weight", dim)

    @contextmanager
    def _running(self, layer: str) -> Iterator[None]:
        """The one place where torch-pruning runs: its errors become reasons, its work is counted.

        It may raise anything on a network that it does not understand; a keyboard interrupt passes.
        """
        try:
            with torch.enable_grad(), warnings.catch_warnings(), self._counted(layer):
                warnings.simplefilter("ignore")
                yield
        except _DeclinedError:
            raise
        except Exception as error:
            text = re.sub(r" at 0x[0-9a-f]+", "", (str(error).splitlines() or [""])[0])[:200]
            raise _DeclinedError(Declined.FAILS, layer, f"{type(error).__name__}: {text}") from error

    @contextmanager
    def _counted(self, layer: str) -> Iterator[None]:
        """Count the index objects that it creates."""
        from torch_pruning import _helpers

        count = self

        class Index(_helpers._HybridIndex):  # type: ignore[misc]
            def __new__(cls, *args: Any, **kwargs: Any) -> Index:
                count.spent += 1
                if count.spent > MAX_INDICES:
                    raise _DeclinedError(
                        Declined.TOO_LARGE, layer, f"its index lists hold more than {MAX_INDICES:,} entries"
                    )
                return super().__new__(cls, *args, **kwargs)  # type: ignore[no-any-return]

        with mock.patch.object(_helpers, "_HybridIndex", Index):
            yield


def _require_same_indices(
    graph: ChannelGraph, group: ChannelGroup, units: Sequence[ChannelUnit], theirs: Mapping[Slot, set[int]]
) -> None:
    ours: dict[Slot, set[int]] = {}
    for unit in units:
        for slot, indices in unit.indices.items():
            if graph.trace.roles[slot] in {
                DimensionRole.OUT,
                DimensionRole.IN,
                DimensionRole.SCALE,
                DimensionRole.NORM,
            }:
                ours.setdefault(slot, set()).update(indices)
    for slot in sorted(ours.keys() | theirs.keys()):
        if ours.get(slot, set()) != theirs.get(slot, set()):
            raise _DeclinedError(
                Declined.DIFFERS,
                group.name,
                f"it removes {len(theirs.get(slot, ()))} indices of {slot.tensor}, "
                f"where {len(ours.get(slot, ()))} belong together",
            )


def _require_equal(pruned: nn.Module, sliced: nn.Module) -> None:
    """Same tensors bit for bit, shared alike, in modules with the same attributes."""
    theirs, ours = owners(pruned), owners(sliced)
    for name, places in ours.items():
        if len(theirs.get(name, ())) != len(places):
            raise _DeclinedError(Declined.DIFFERS, layer_name(name), f"{name} is no longer shared as it was")
        a, b = (getattr(*where[name][0]) for where in (theirs, ours))
        same = type(a) is type(b) and a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
        if not same or a.requires_grad != b.requires_grad:
            raise _DeclinedError(Declined.DIFFERS, layer_name(name), f"{name} is not the expected slice")
    attributes = dict(pruned.named_modules())
    for path, module in sliced.named_modules():
        wanted, got = _settings(module), _settings(attributes[path])
        differing = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
        if differing:
            key = differing[0]
            raise _DeclinedError(
                Declined.DIFFERS, path, f"it leaves {key} = {got.get(key)}, where {wanted.get(key)} is right"
            )


def _settings(module: nn.Module) -> dict[str, object]:
    """A module's plain attributes: sizes, groups, modes."""
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple) or value is None
    }
