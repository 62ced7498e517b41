"""Shares of layers: against trying every choice, by the same surgery, and refused where they name nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgesafe import models
from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.models.count import macs
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.allocation import Options, options_of, shared_out
from edgesafe.prune.curves import PROBED, Seen, curves
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import AllocationRecord, LayerCurve, LayerProbe

SHAPE = (32, 32, 3)
CONTEXT = PruneContext(SHAPE, engine=False)
INNER = ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1")  # of resnet8, scope internal


def section(method: str = "filter", **kwargs: object) -> CompressSection:
    return CompressSection(method=method, ratios=(0.5,), **kwargs)


def net() -> nn.Module:
    torch.manual_seed(0)
    return models.build("resnet8", 10, {}).eval()


def widths(record: object) -> dict[str, tuple[int, int]]:
    return {layer.name: (layer.out_before, layer.out_after) for layer in record.layers if layer.name in INNER}


steps = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=3), st.integers(0, 12))
def test_no_other_choice_saves_as_much_for_less(made: list[list[tuple[int, int]]], asked: int) -> None:
    """The oracle tries every choice. On convex curves each amount that is reached is the best for what it saves."""
    layers = []
    for rises in made:
        ordered = sorted(rises, key=lambda move: move[0] / move[1])  # convex: dearer and dearer
        losses, savings = ([0.0, *itertools.accumulate(float(v[k]) for v in ordered)] for k in (0, 1))
        layers.append(Options(tuple(range(len(losses))), tuple(losses), tuple(savings)))
    gone = shared_out(layers, asked)
    assert sum(gone) == min(asked, sum(len(each.removed) - 1 for each in layers))

    def total(choice: tuple[int, ...], of: str) -> float:
        return sum(getattr(each, of)[k] for each, k in zip(layers, choice, strict=True))

    loss, saved = total(gone, "loss"), total(gone, "saved")
    for other in itertools.product(*(range(len(each.removed)) for each in layers)):
        if total(other, "saved") >= saved:
            assert total(other, "loss") >= loss - 1e-9


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.floats(-1, 5), st.floats(-0.1, 1)), min_size=1, max_size=4), min_size=1, max_size=4)
)
def test_a_larger_amount_removes_what_a_smaller_one_does(seen: list[list[tuple[float, float]]]) -> None:
    """Whatever noise the curves have."""
    layers = []
    for rows in seen:
        probes = tuple(LayerProbe(removed=4 * k + 4, loss=loss, saved=saved) for k, (loss, saved) in enumerate(rows))
        layers.append(options_of(LayerCurve(layer="a", channels=20, probes=probes), (0, 2, 4, 8, 12, 18)))
    before = (0,) * len(layers)
    for asked in range(0, 18 * len(layers) + 1, 3):
        gone = shared_out(layers, asked)
        assert sum(gone) <= asked
        assert all(now >= then for now, then in zip(gone, before, strict=True))
        assert all(count in each.removed for count, each in zip(gone, layers, strict=True))
        before = gone
    assert before == (18,) * len(layers)


def test_values_between_and_beyond_what_was_tried() -> None:
    curve = LayerCurve(
        layer="a", channels=12,
        probes=(LayerProbe(removed=4, loss=-0.5, saved=0.2), LayerProbe(removed=8, loss=1.0, saved=0.3)),
    )  # fmt: skip
    read = options_of(curve, (0, 2, 4, 6, 8, 10))
    assert read.loss == pytest.approx((0, 0, 0, 0.5, 1.0, 1.5))  # -0.5 is noise: a narrower network is no better
    assert read.saved == pytest.approx((0, 0.1, 0.2, 0.25, 0.3, 0.35))


def test_the_layer_that_costs_least_is_narrowed_most_and_proven() -> None:
    """Losses are given by a rule: layer2 is free, layer1 dear. The curves' savings are the MACs of the networks."""
    model = net()
    price = dict(zip(INNER, (10.0, 0.0, 1.0), strict=True))
    whole = {name: model.get_submodule(name).out_channels for name in INNER}

    def look(network: nn.Module) -> Seen:
        gone = {name: 1 - network.get_submodule(name).out_channels / whole[name] for name in INNER}
        return Seen(sum(price[n] * gone[n] for n in INNER), macs(network, SHAPE) / macs(model, SHAPE))

    asked = section(allocation="sensitivity", round_to=4)
    found = curves(model, asked, CONTEXT, look)
    assert [curve.layer for curve in found] == list(INNER)
    for curve in found:
        kept = {-(-(curve.channels - int(share * curve.channels + 0.5)) // 4) * 4 for share in PROBED}
        assert [probe.removed for probe in curve.probes] == sorted(curve.channels - width for width in kept)
        assert all(probe.saved > 0 for probe in curve.probes)
        by_hand = [price[curve.layer] * probe.removed / curve.channels for probe in curve.probes]
        assert [probe.loss for probe in curve.probes] == pytest.approx(by_hand)
    record = AllocationRecord(by="sensitivity", images=1, bn_images=0, layers=found)
    outcome = prune(model, asked, 0.4, PruneContext(SHAPE, allocation=record))
    assert outcome.record.allocation == record
    assert outcome.record.proof.method == "mask-equivalence"
    assert outcome.record.proof.equivalence is not None
    left = {name: after / before for name, (before, after) in widths(outcome.record).items()}
    assert left["layer2.0.conv1"] < left["layer3.0.conv1"] < left["layer1.0.conv1"] == 1.0
    removed = sum(before - after for before, after in widths(outcome.record).values())
    assert removed <= 0.4 * sum(whole.values()) + 0.5
    again = prune(model, asked, 0.4, PruneContext(SHAPE, allocation=record))
    assert all(torch.equal(a, b) for a, b in zip(outcome.model.parameters(), again.model.parameters(), strict=True))


def test_shares_of_named_layers_replace_the_ratio() -> None:
    outcome = prune(net(), section(layers={"layer1.0.conv1": 0.0, "layer3.0.conv1": 0.75}), 0.5, CONTEXT)
    assert widths(outcome.record) == {
        "layer1.0.conv1": (16, 16), "layer2.0.conv1": (32, 16), "layer3.0.conv1": (64, 16),
    }  # fmt: skip
    assert outcome.record.proof.equivalence is not None
    assert outcome.record.allocation is None


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({"layer9.0.conv1": 0.5}, "no such convolution"),
        ({"layer1.0.conv2": 0.5}, "no channel of it can be removed"),
        ({"linear": 0.5}, "no channel of it can be removed"),
        (dict.fromkeys(INNER, 0.0), "nothing would be removed"),
    ],
)
def test_shares_of_layers_that_cannot_be_narrowed_are_refused(layers: dict[str, float], says: str) -> None:
    with pytest.raises(SurgeryError, match=says):
        prune(net(), section(layers=layers), 0.5, CONTEXT)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"allocation": "sensitivity", "steps": 2}, "it takes 1 step"),
        ({"allocation": "global", "layers": {"a": 0.5}}, 'set allocation = "uniform"'),
        ({"method": "channel", "layers": {"a": 0.5}}, 'set allocation = "uniform"'),
        ({"method": "weight", "allocation": "uniform"}, "for structured methods"),
        ({"method": "weight", "then_weight": 0.5}, "for structured methods"),
        ({"layers": {"a": 1.0}}, "less than 1"),
        ({"allocation": "fair"}, "Input should be"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        section(**({"method": "filter"} | keys))


def test_measured_allocations_need_measurements() -> None:
    with pytest.raises(SurgeryError, match="needs what narrowing each layer alone costs"):
        prune(net(), section(allocation="latency"), 0.5, CONTEXT)
    with pytest.raises(NonFiniteError, match="its loss is nan"):
        curves(net(), section(allocation="sensitivity"), CONTEXT, lambda _: Seen(float("nan"), 1.0))


def test_weights_become_zero_in_what_is_left() -> None:
    """The widths are those of the structured surgery alone; the smallest of the remaining weights are zero."""
    alone = prune(net(), section(), 0.5, CONTEXT)
    both = prune(net(), section(then_weight=0.4), 0.5, CONTEXT)
    assert both.record.zeroed is not None
    assert both.record.zeroed.proof.method == "masked-weights"
    assert both.record.proof == alone.record.proof
    assert both.record.macs_after == alone.record.macs_after < both.record.macs_before
    convs = [name for name, module in both.model.named_modules() if isinstance(module, nn.Conv2d)]
    before, after = (
        torch.cat([m.get_submodule(n).weight.detach().flatten() for n in convs]) for m in (alone.model, both.model)
    )
    assert int((after == 0).sum()) == round(0.4 * len(before))
    assert both.record.sparsity == pytest.approx(0.4, abs=1e-4)
    assert float(before[after == 0].abs().max()) == pytest.approx(both.record.zeroed.threshold)
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert both.masks is not None
    assert sorted(both.masks) == sorted(f"{name}.weight" for name in convs)
    assert alone.record.zeroed is None
