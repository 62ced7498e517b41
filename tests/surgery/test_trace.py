"""The trace: MACs, classifier, units; and agreement with torch-pruning's own dependency graph."""

from __future__ import annotations

import copy

import pytest
import surgery_nets as nets
import torch
from torch import nn

from edgesafe import models
from edgesafe.errors import SurgeryError
from edgesafe.models.count import macs
from edgesafe.records import Declined
from edgesafe.surgery.graph import cut
from edgesafe.surgery.labels import Atoms, varying_dims
from edgesafe.surgery.units import ChannelGraph, channel_graph, keep_indices

NETS = {
    "Plain": nets.Plain(), "ConvClassifier": nets.ConvClassifier(), "InPlace": nets.InPlace(), "Dense": nets.Dense(),
    "SqueezeExcite": nets.SqueezeExcite(), "PixelShuffled": nets.PixelShuffled(), "Grouped": nets.Grouped(),
    "LayerNormed": nets.LayerNormed(), "SoftFlatten": nets.SoftFlatten(), "SharedWeights": nets.SharedWeights(),
}  # fmt: skip


def graph_of(model: nn.Module, size: int = 16) -> ChannelGraph:
    return channel_graph(model, (torch.zeros(1, 3, size, size),))


@pytest.mark.parametrize("name", NETS)
def test_macs_are_those_of_the_counter(name: str) -> None:
    assert graph_of(nets.seeded(NETS[name])).trace.macs_total == macs(NETS[name], (16, 16, 3))


def test_macs_of_resnet20() -> None:
    assert graph_of(models.build("resnet20", 10, {}), 32).trace.macs_total == 40_551_040


def test_tracing_changes_nothing() -> None:
    model = nets.seeded(nets.Plain()).train()
    before = copy.deepcopy(model.state_dict())
    graph_of(model)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_units_of_a_residual_stream() -> None:
    graph = graph_of(nets.seeded(nets.InPlace()))
    assert graph.residual
    (stream,) = [group for group in graph.groups if not group.internal]
    assert [slot.tensor for slot in stream.producers] == ["stem.weight", "out.weight"]
    (inner,) = [group for group in graph.groups if group.internal]
    assert inner.name == "inner"
    assert {slot.tensor for slot in inner.units[0].indices} >= {"inner.weight", "bn.running_var", "out.weight"}
    assert [layer.name for layer in graph.layers if layer.classifier] == ["head.fc"]


def test_flattened_channels_own_all_their_columns() -> None:
    graph = graph_of(nets.seeded(nets.SoftFlatten()))
    (group,) = [g for g in graph.groups if g.name == "second"]
    columns = next(own for slot, own in group.units[3].indices.items() if slot.tensor == "fc.weight")
    assert columns == tuple(range(3 * 64, 4 * 64))


def test_grouped_convolutions_go_by_whole_groups() -> None:
    graph = graph_of(nets.seeded(nets.Grouped()))
    sizes = {group.name: len(group.units) for group in graph.groups}
    assert sizes == {"stem": 4}  # 4 of 16, 8 of 32 and 16 of 64 channels (two normalisation groups) go together


def test_a_fixed_channel_cannot_be_removed() -> None:
    graph = graph_of(nets.seeded(nets.Plain()))
    fixed = next(unit for unit in graph.units if unit.reason is not None)
    with pytest.raises(SurgeryError, match="must stay"):
        keep_indices(graph, (fixed,))
    with pytest.raises(SurgeryError, match="no such"):
        graph.layer("nope")


def test_union_find_keeps_the_first_reason_and_the_smallest_root() -> None:
    atoms = Atoms()
    a, b = atoms.new(3), atoms.new(3)
    atoms.union(a, b, "here")
    assert [atoms.root(int(x)) for x in b] == a.tolist()
    atoms.union(a[:1], torch.tensor([0]), "there")
    assert atoms.frozen_roots()[1].text == "it meets the network input or a constant at there"
    assert varying_dims(a.view(1, 3, 1).expand(2, 3, 4)) == (1,)
    assert atoms.tie(b.view(1, 3, 1).expand(2, 3, 4), 1, "x").tolist() == b.tolist()


@pytest.mark.parametrize("name", sorted(NETS.keys() - {"Grouped"}))
def test_torch_pruning_agrees_bit_for_bit(name: str) -> None:
    """Two independent analyses: its graph names the same indices, and its cut equals our slices."""
    model = nets.seeded(NETS[name])
    inputs = (torch.randn(1, 3, 16, 16),)
    graph = channel_graph(model, inputs)
    removals = [(group, group.units[::2]) for group in graph.groups]
    keep = keep_indices(graph, tuple(unit for _, units in removals for unit in units))
    _, declined = cut(model, inputs, graph, removals, keep)
    cause = None if declined is None else declined.cause
    assert cause == (Declined.DIFFERS if name == "PixelShuffled" else None), declined


def test_without_torch_pruning_the_slices_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model, inputs = nets.seeded(nets.Plain()), (torch.randn(1, 3, 16, 16),)
    graph = channel_graph(model, inputs)
    removals = [(group, group.units[::2]) for group in graph.groups]
    keep = keep_indices(graph, tuple(unit for _, units in removals for unit in units))
    pruned, declined = cut(model, inputs, graph, removals, keep)
    assert declined is not None
    assert declined.cause is Declined.FAILS
    assert declined.detail.startswith("ModuleNotFoundError: ")
    assert pruned.conv1.out_channels == 8
