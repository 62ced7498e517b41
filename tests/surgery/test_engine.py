"""Which network is kept: the one that torch-pruning cut, or edgesafe's slices; and that the record says which."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import surgery_nets as nets
import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.schedule import prune_in_steps
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Declined, Engine
from edgesafe.surgery import graph as engine_module
from edgesafe.surgery.graph import cut
from edgesafe.surgery.remove import sync_module
from edgesafe.surgery.units import channel_graph, keep_indices

SECTION = CompressSection(method="filter", ratios=(0.5,), scope="all")
CONTEXT = PruneContext((16, 16, 3))


def half(model: nn.Module) -> tuple[nn.Module, Any]:
    """Every second unit of every group, cut."""
    inputs = (torch.randn(1, 3, 16, 16),)
    graph = channel_graph(model, inputs)
    removals = [(group, group.units[::2]) for group in graph.groups]
    return cut(model, inputs, graph, removals, keep_indices(graph, tuple(u for _, us in removals for u in us)))


@pytest.fixture
def cut_by_torch_pruning(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every parameter that torch-pruning makes; kept alive, so that no id is used twice."""
    made: list[Tensor] = []
    plain = tp.pruner.function.BasePruningFunc._prune_parameter_and_grad

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(plain(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(tp.pruner.function.BasePruningFunc, "_prune_parameter_and_grad", watched)
    return made


def test_the_network_that_torch_pruning_cut_is_the_one_that_is_kept(cut_by_torch_pruning: list[Tensor]) -> None:
    outcome = prune(nets.seeded(nets.Plain()), SECTION, 0.5, CONTEXT)
    assert (outcome.record.engine, outcome.record.engine_reason) == (Engine.TORCH_PRUNING, None)
    made = {id(parameter) for parameter in cut_by_torch_pruning}
    narrowed = [outcome.model.conv1, outcome.model.bn1, outcome.model.conv2, outcome.model.head.fc]
    assert all(id(module.weight) in made for module in narrowed)


def test_slices_are_called_slices(cut_by_torch_pruning: list[Tensor]) -> None:
    outcome = prune(nets.seeded(nets.PixelShuffled()), SECTION, 0.5, CONTEXT)
    assert outcome.record.engine is Engine.SLICES
    assert (outcome.record.engine_reason.cause, outcome.record.engine_reason.layer) == (Declined.DIFFERS, "up")
    made = {id(parameter) for parameter in cut_by_torch_pruning}
    assert not any(id(parameter) in made for parameter in outcome.model.parameters())


def test_modes_flags_and_attributes_are_those_of_the_input() -> None:
    model = nets.seeded(nets.Plain()).train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    pruned, declined = half(model)
    assert declined is None
    assert pruned.training
    assert not pruned.bn1.training
    assert {n: p.requires_grad for n, p in pruned.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    assert (pruned.conv2.in_channels, pruned.bn1.num_features, pruned.conv1.out_channels) == (8, 8, 8)
    assert all(p.grad is None for p in pruned.parameters())


def _half_a_row(made: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(made.data * 0.5)


def _transposed_memory(made: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(made.data.transpose(0, -1).contiguous().transpose(0, -1)) if made.dim() > 1 else made


@pytest.mark.parametrize("spoil", [_half_a_row, _transposed_memory])
def test_a_cut_that_is_not_ours_bit_for_bit_is_not_kept(
    spoil: Callable[[nn.Parameter], nn.Parameter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tp.pruner.function.BasePruningFunc._prune_parameter_and_grad
    monkeypatch.setattr(
        tp.pruner.function.BasePruningFunc,
        "_prune_parameter_and_grad",
        lambda self, *args, **kwargs: spoil(plain(self, *args, **kwargs)),
    )
    pruned, declined = half(nets.seeded(nets.Plain()))
    assert declined.cause is Declined.DIFFERS
    assert "is not the expected slice" in declined.detail
    assert pruned(torch.zeros(1, 3, 16, 16)).shape == (1, 5)


def test_a_wrong_attribute_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tp.dependency.Group.prune

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self[0].dep.target.module.out_channels = 16

    monkeypatch.setattr(tp.dependency.Group, "prune", forgetful)
    pruned, declined = half(nets.seeded(nets.Plain()))
    assert (declined.cause, declined.layer) == (Declined.DIFFERS, "conv1")
    assert declined.detail == "it leaves out_channels = 16, where 8 is right"
    assert pruned.conv1.out_channels == 8


class Stacked(nn.Module):
    """A weight that is reshaped again and again: torch-pruning's index lists multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 256, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def test_its_work_is_limited_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_INDICES", 1000)
    pruned, declined = half(nets.seeded(Stacked()))
    assert declined.cause is Declined.TOO_LARGE
    assert declined.layer == "conv"
    assert pruned.conv.out_channels == 8
    monkeypatch.setattr(engine_module, "MAX_INDICES", 1_000_000)
    assert half(nets.seeded(Stacked()))[1] is None


@pytest.mark.parametrize("error", [ZeroDivisionError, StopIteration, NotImplementedError, OSError])
def test_whatever_torch_pruning_raises_is_a_reason(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise error("<thing at 0x7f00aa> broke\nmore")

    monkeypatch.setattr(tp.DependencyGraph, "get_pruning_group", fails)
    _, declined = half(nets.seeded(nets.Plain()))
    assert (declined.cause, declined.layer, declined.detail) == (
        Declined.FAILS, "conv1", f"{error.__name__}: <thing> broke",
    )  # fmt: skip


def test_an_interrupt_is_not_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tp.DependencyGraph, "build_dependency", interrupted)
    with pytest.raises(KeyboardInterrupt):
        half(nets.seeded(nets.Plain()))


def test_a_bug_of_our_own_is_not_blamed_on_torch_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(engine_module, "_require_same_indices", broken)
    with pytest.raises(KeyError, match="ours"):
        half(nets.seeded(nets.Plain()))


def test_shared_weights_stay_shared_or_the_slices_are_kept() -> None:
    model = nets.seeded(nets.SharedWeights())
    before = sum(len(list(m.parameters(recurse=False))) for m in model.modules()) - len(list(model.parameters()))
    pruned, _ = half(model)
    after = sum(len(list(m.parameters(recurse=False))) for m in pruned.modules()) - len(list(pruned.parameters()))
    assert before == after


def test_steps_of_which_one_used_slices_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    plain = tp.DependencyGraph.build_dependency

    def fails_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("the first time")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(tp.DependencyGraph, "build_dependency", fails_once)
    outcome = prune_in_steps(nets.seeded(nets.Plain()), SECTION, 0.5, CONTEXT, 2, lambda model: model)
    assert calls == 2
    assert outcome.record.engine is Engine.SLICES
    assert outcome.record.engine_reason.detail == "RuntimeError: the first time"


def test_method_weight_has_no_engine() -> None:
    record = prune(nets.seeded(nets.Plain()), CompressSection(method="weight", ratios=(0.5,)), 0.5, CONTEXT).record
    assert (record.engine, record.engine_reason) == (Engine.NONE, None)
    assert "torch_pruning" in sys.modules


@pytest.mark.parametrize(("affine", "running"), [(True, True), (False, True), (True, False)])
def test_a_normalisation_counts_its_channels_by_whichever_tensor_it_has(affine: bool, running: bool) -> None:
    norm = nn.BatchNorm2d(8, affine=affine, track_running_stats=running)
    replace_tensors = {name: tensor[:5] for name, tensor in norm.state_dict().items() if tensor.ndim}
    before = {name: torch.Size((8,)) for name in replace_tensors}
    for name, tensor in replace_tensors.items():
        if name in norm._parameters:
            setattr(norm, name, nn.Parameter(tensor))
        else:
            norm._buffers[name] = tensor
    sync_module(norm, before)
    assert norm.num_features == 5


@pytest.mark.parametrize(("groups", "old", "new", "whole"), [(4, 8, 6, 3), (2, 8, 4, 1), (4, 8, 5, None)])
def test_groups_shrink_with_the_channels_or_are_refused(groups: int, old: int, new: int, whole: int | None) -> None:
    layer = nn.Conv2d(old, old, 3, groups=groups, bias=False)
    before = {"weight": layer.weight.shape}
    layer.weight = nn.Parameter(layer.weight.detach()[:new])
    if whole is None:
        with pytest.raises(SurgeryError, match="whole"):
            sync_module(layer, before)
    else:
        sync_module(layer, before)
        assert (layer.groups, layer.out_channels, layer.in_channels) == (whole, new, whole * old // groups)
