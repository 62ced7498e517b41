"""Rows of "silent misbehaviour" of torch-pruning: what it does in plain use, and what edgesafe does instead.

Each test first shows that plain torch-pruning still misbehaves (so a fixed release is noticed), then that we do not.
"""

from __future__ import annotations

import warnings

import pytest
import surgery_nets as nets
import torch
import torch_pruning as tp
from torch import nn

from edgesafe.errors import RecipeError, SurgeryError
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.surgery import verify

EXAMPLE = torch.zeros(1, 3, 16, 16)
CONTEXT = PruneContext((16, 16, 3))


def plain(
    model: nn.Module, importance: object = None, pruner: type = tp.pruner.MagnitudePruner, **kwargs: object
) -> nn.Module:
    """torch-pruning as its documentation shows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kwargs.setdefault("pruning_ratio", 0.5)
        importance = importance or tp.importance.MagnitudeImportance(p=1)
        pruner(model, EXAMPLE, importance=importance, **kwargs).step()
    return model


def ours(model: nn.Module, ratio: float = 0.5, method: str = "filter", **kwargs: object) -> object:
    kwargs.setdefault("scope", "all")
    return prune(model, CompressSection(method=method, ratios=(0.5,), **kwargs), ratio, CONTEXT)


def net() -> nets.Plain:
    return nets.seeded(nets.Plain())


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("ignored", [[nn.Linear], None])
def test_rows_1_and_2_the_classifier_is_pruned(ignored: list[type] | None) -> None:
    assert plain(net(), ignored_layers=ignored).head.fc.out_features < 5
    assert ours(net()).model.head.fc.out_features == 5


@pytest.mark.parametrize("ratio", [1.0, -0.2])
def test_row_3_a_ratio_outside_prunes_nothing(ratio: float) -> None:
    assert count(plain(net(), pruning_ratio=ratio)) == count(net())
    with pytest.raises(RecipeError, match="outside"):
        ours(net(), ratio)


def test_row_4_a_frozen_net_is_not_pruned() -> None:
    frozen = net().requires_grad_(False)
    assert count(plain(frozen, ignored_layers=[frozen.head.fc])) == count(net())
    with pytest.raises(SurgeryError, match="frozen"):
        ours(net().requires_grad_(False))


def test_row_5_no_batchnorm_no_pruning() -> None:
    model = nets.seeded(nets.ConvClassifier())
    before = count(model)
    plain(model, tp.importance.BNScaleImportance(), tp.pruner.BNScalePruner)
    assert count(model) == before
    with pytest.raises(SurgeryError, match="BatchNorm"):
        ours(nets.seeded(nets.ConvClassifier()), method="channel")


def test_row_6_its_latency_needs_a_graphics_card() -> None:
    if torch.cuda.is_available():
        pytest.skip("has one")
    with pytest.raises((RuntimeError, AssertionError)):
        tp.utils.benchmark.measure_latency(net(), EXAMPLE, 1, 1)
    # ours: edgesafe.measure.inference.latency, under onnxruntime; budgets take a callable (edgesafe.prune.budget)


def test_row_7_one_pruner_inherits_the_settings_of_another() -> None:
    import inspect

    from torch_pruning.pruner.algorithms.base_pruner import BasePruner

    defaults = {
        name: p.default
        for cls in (BasePruner, *BasePruner.__subclasses__())
        for name, p in inspect.signature(cls.__init__).parameters.items()
        if isinstance(p.default, (dict, list, set))
    }
    assert defaults  # mutable: what one model puts in, the next one finds
    first, second = ours(net()), ours(net())
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )
    assert first.record == second.record


def test_row_8_train_mode_is_lost() -> None:
    assert not plain(net().train(), ignored_layers=None).training
    outcome = ours(net().train())
    assert all(module.training for module in outcome.model.modules())


def test_row_9_an_optimiser_built_before_is_dead() -> None:
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    plain(model)
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert any(id(p) not in held for p in model.parameters())
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    outcome = ours(model)  # a new model: the old optimiser still fits the old one, and nobody else's
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters()} == held
    assert not held & {id(p) for p in outcome.model.parameters()}


def test_row_10_rounding_down_to_nothing_leaves_the_layer_unpruned() -> None:
    assert plain(net(), pruning_ratio=0.7, round_to=8, ignored_layers=None).conv1.out_channels == 16  # 4.8 -> 0 -> all
    assert ours(net(), 0.7, round_to=8).model.conv1.out_channels == 8  # rounded up
    widths = [ours(net(), ratio, round_to=4).model.conv1.out_channels for ratio in (0.3, 0.5, 0.7, 0.8)]
    assert widths == [12, 8, 8, 4]


def test_row_11_and_12_what_was_done_is_reported() -> None:
    pruner = tp.pruner.MagnitudePruner(
        net(), EXAMPLE, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5
    )
    assert pruner.step() is None
    record = ours(net()).record
    assert record.params_after / record.params_before == pytest.approx(0.3, abs=0.02)  # 0.5 is channels, not size
    assert record.ratio == 0.5
    assert [(layer.name, layer.out_before, layer.out_after, bool(layer.note)) for layer in record.layers] == [
        ("conv1", 16, 8, False),
        ("conv2", 16, 8, False),
        ("head.fc", 5, 5, True),
    ]


def test_row_13_pixel_shuffle_and_hard_coded_views() -> None:
    with pytest.raises(IndexError):
        plain(nets.seeded(nets.PixelShuffled()))
    outcome = ours(nets.seeded(nets.PixelShuffled()))
    assert (outcome.model.up.out_channels, outcome.model.conv.in_channels) == (16, 4)
    broken = plain(nets.seeded(nets.HardCodedFlatten()))
    with pytest.raises(RuntimeError):
        broken(EXAMPLE)
    assert ours(nets.seeded(nets.HardCodedFlatten())).model(EXAMPLE).shape == (1, 5)


def test_option_a_shortcuts_break_it() -> None:
    with pytest.raises((IndexError, RuntimeError)):  # while pruning, or at the next forward
        plain(nets.seeded(nets.OptionA("pad")))(EXAMPLE)
    outcome = ours(nets.seeded(nets.OptionA("pad")), scope=None)
    assert outcome.record.scope == "internal"
    assert outcome.model(EXAMPLE).shape == (1, 5)


def test_the_proof_can_fail() -> None:
    """A cut at wrong places, a classifier that lost a row, and a layer that is too narrow are all caught."""
    from edgesafe.surgery.propagation import Slot
    from edgesafe.surgery.remove import remove
    from edgesafe.surgery.units import channel_graph, keep_indices

    model, inputs = net(), (EXAMPLE,)
    graph = channel_graph(net(), inputs)
    keep = keep_indices(graph, graph.groups[0].units[:4])

    def prove(cut: dict[Slot, tuple[int, ...]], minimum: int = 1) -> object:
        pruned = net()
        remove(pruned, cut)
        return verify.prove_removed(verify.Surgery(model, pruned, graph, keep, inputs, minimum))

    assert prove(keep).equivalence < 1e-12
    wrong = {**keep, Slot("conv2.weight", 1): tuple(range(12))}
    with pytest.raises(SurgeryError, match=r"^conv1: .*differs by"):
        prove(wrong)
    statistics = {**keep, Slot("bn1.running_mean", 0): tuple(range(12))}
    with pytest.raises(SurgeryError, match="differs by"):
        prove(statistics)
    head = {**keep, Slot("head.fc.weight", 0): (0, 1, 2, 3), Slot("head.fc.bias", 0): (0, 1, 2, 3)}
    with pytest.raises(SurgeryError, match=r"head\.fc: the classifier was narrowed"):
        prove(head)
    with pytest.raises(SurgeryError, match="conv1: 12 channels are left"):
        prove(keep, 13)
    lying = net()
    with torch.no_grad():
        lying.head.fc.bias[3] += 0.01  # nothing was cut, one number changed
    with pytest.raises(SurgeryError, match="differs by"):
        verify.prove_removed(verify.Surgery(model, lying, graph, {}, inputs, 1))
