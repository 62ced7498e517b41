"""torch-pruning's dependency graph as the engine of removal, believed only where it agrees with ours.

The only module that imports torch_pruning. We choose the channels and know what each choice must remove (`units`). Each
choice is given to torch-pruning's `DependencyGraph`; if for every one it names exactly the layers and indices that we
expect, it removes them, and every tensor it leaves must equal our slice bit for bit. Else (it raises, it differs, it is
not installed) the slices are used, and the record says why. Its pruners, importances, rounding and defaults are not
used.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgesafe.surgery.propagation import Role, Slot
from edgesafe.surgery.remove import remove
from edgesafe.surgery.units import (
    ChannelGraph,
    Group,
    Unit,
    layer_name,
)

__all__ = ["DisagreementError", "Removal", "agreed_engine", "cut"]

Removal = tuple[Group, tuple[Unit, ...]]  #: a group and those of its units that go
_FAILURES = (
    RuntimeError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    AssertionError,
    ImportError,
)  # what torch-pruning raises on networks that it does not understand, and what its absence raises


class DisagreementError(Exception):
    """torch-pruning would remove something else; the message says where."""


def cut(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    graph: ChannelGraph,
    removals: Sequence[Removal],
    keep: Mapping[Slot, tuple[int, ...]],
) -> tuple[nn.Module, str]:
    """A copy of `model` without the chosen channels, and which engine removed them.

    Args:
        model: not modified; flags and modes are kept.
        inputs: example inputs, batch 1 each.
        graph: of `model`.
        removals: what goes.
        keep: the same as indices that stay (`units.keep_indices`).
    """
    sliced = copy.deepcopy(model)
    remove(sliced, keep)
    try:
        pruned = _with_engine(model, inputs, graph, removals)
        _require_equal(pruned, sliced)
    except DisagreementError as difference:
        return sliced, f"removed by edgesafe's own slices: torch-pruning differs, {difference}"
    except _FAILURES as error:
        what = str(error).splitlines()[0] if str(error) else ""
        return sliced, f"removed by edgesafe's own slices: torch-pruning fails ({type(error).__name__}: {what})"
    return sliced, "removed by torch-pruning's dependency graph, equal to edgesafe's own slices bit for bit"


def agreed_engine(
    model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph, removals: Sequence[Removal]
) -> Any:
    """torch-pruning's dependency graph of `model`, checked to remove exactly what we expect for every removal.

    Args:
        model: torch-pruning traces and may later change it: give a copy whose parameters require gradients.
        inputs: example inputs.
        graph: ours.
        removals: what goes.

    Raises:
        DisagreementError: a group holds other layers or indices than ours.
    """
    import torch_pruning as tp

    engine = tp.DependencyGraph()
    engine.build_dependency(model, example_inputs=inputs, verbose=False)
    slots = _slots_of_modules(model)
    for group, units in removals:
        theirs: dict[Slot, set[int]] = {}
        for dependency, own in _engine_group(engine, model, group, units):
            into = engine.is_in_channel_pruning_fn(dependency.handler)
            slot = slots(dependency.target.module, into=into)
            if slot is not None:
                theirs.setdefault(slot, set()).update(int(i) for i in own)
        _compare(graph, units, theirs, group.name)
    return engine


def _engine_group(engine: Any, model: nn.Module, group: Group, units: Sequence[Unit]) -> Any:
    root = group.producers[0]
    module = model.get_submodule(layer_name(root.tensor))
    indices = sorted(i for unit in units for i in unit.indices[root])
    return engine.get_pruning_group(module, engine.get_pruner_of_module(module).prune_out_channels, indices)


def _with_engine(
    model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph, removals: Sequence[Removal]
) -> nn.Module:
    producers = [slot for group, _ in removals for slot in group.producers]
    if len(set(producers)) < len(producers):
        raise DisagreementError("it cannot narrow one layer in two groups")
    pruned = copy.deepcopy(model)
    modes = {name: module.training for name, module in pruned.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in pruned.named_parameters()}
    with _traceable(pruned):
        engine = agreed_engine(pruned, inputs, graph, removals)
        for group, units in removals:
            _engine_group(engine, pruned, group, units).prune()
    for name, module in pruned.named_modules():
        module.training = modes[name]
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(flags[name])
    return pruned


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """It follows autograd, so parameters must require gradients; its warnings are ours to judge."""
    model.requires_grad_(True)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _slots_of_modules(model: nn.Module) -> Any:
    """module, into -> the slot that stands for it, or None for what has no weight."""
    names = {id(module): name for name, module in model.named_modules()}

    def slot(module: Any, *, into: bool) -> Slot | None:
        if id(module) not in names or not isinstance(getattr(module, "weight", None), Tensor):
            return None
        name = f"{names[id(module)]}.weight" if names[id(module)] else "weight"
        layer = module.weight.dim() > 1
        grouped = layer and getattr(module, "groups", 1) > 1
        return Slot(name, int(layer and not grouped and into != bool(getattr(module, "transposed", False))))

    return slot


def _compare(graph: ChannelGraph, units: Sequence[Unit], theirs: Mapping[Slot, set[int]], name: str) -> None:
    ours: dict[Slot, set[int]] = {}
    roles = {Role.OUT, Role.IN, Role.SCALE, Role.NORM}
    for unit in units:
        for slot, own in unit.indices.items():
            if graph.trace.roles[slot] in roles:
                ours.setdefault(slot, set()).update(own)
    for slot in sorted(ours.keys() | theirs.keys()):
        if ours.get(slot, set()) != theirs.get(slot, set()):
            raise DisagreementError(
                f"with {name} it removes {len(theirs.get(slot, ()))} indices of {slot.tensor}, "
                f"where {len(ours.get(slot, ()))} belong together"
            )


def _require_equal(pruned: nn.Module, sliced: nn.Module) -> None:
    theirs, ours = pruned.state_dict(), sliced.state_dict()
    for name, tensor in ours.items():
        if name not in theirs or theirs[name].shape != tensor.shape or not torch.equal(theirs[name], tensor):
            raise DisagreementError(f"{name} is not the expected slice")
