"""Awkward networks and situations: handled and proven, or refused with the layer's name and what to change."""

from __future__ import annotations

import pytest
import surgery_nets as nets
import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune import PruneContext, PruneOutcome, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.surgery.rebuild import load_bytes, save_bytes
from edgesafe.surgery.verify import evaluate

CONTEXT = PruneContext((16, 16, 3))


def run(
    model: nn.Module, *, ratio: float = 0.5, method: str = "filter", context: PruneContext = CONTEXT, **kwargs: object
) -> PruneOutcome:
    kwargs.setdefault("scope", "all")
    return prune(model, CompressSection(method=method, ratios=(0.5,), **kwargs), ratio, context)


def widths(outcome: PruneOutcome) -> dict[str, tuple[int, int]]:
    return {layer.name: (layer.out_before, layer.out_after) for layer in outcome.record.layers}


def notes(outcome: PruneOutcome) -> dict[str, str]:
    return {layer.name: layer.note for layer in outcome.record.layers}


HANDLED: dict[str, tuple[nn.Module, dict[str, tuple[int, int]]]] = {
    "plain": (nets.Plain(), {"conv1": (16, 8), "conv2": (16, 8), "head.fc": (5, 5)}),
    "conv classifier": (nets.ConvClassifier(), {"body": (16, 8), "classify": (5, 5)}),
    "shared weights": (nets.SharedWeights(), {"stem": (16, 8), "twice": (16, 8), "head.fc": (5, 5)}),
    "several outputs": (nets.SeveralOutputs(), {"body": (16, 8), "a.fc": (5, 5), "b.fc": (2, 2)}),
    "in place": (nets.InPlace(), {"stem": (16, 8), "inner": (12, 6), "out": (16, 8), "head.fc": (5, 5)}),
    "soft flatten": (nets.SoftFlatten(), {"first": (8, 4), "second": (16, 8), "fc": (5, 5)}),
    "pixel shuffle": (nets.PixelShuffled(), {"up": (32, 16), "conv": (16, 8), "head.fc": (5, 5)}),
    "squeeze and excite": (nets.SqueezeExcite(), {"conv": (16, 8), "down": (8, 4), "up": (16, 8), "head.fc": (5, 5)}),
    "grouped": (
        nets.Grouped(),
        {"stem": (16, 8), "depthwise": (16, 8), "grouped": (32, 16), "multiplied": (64, 32), "head.fc": (5, 5)},
    ),
    "dense": (nets.Dense(), {"stem": (8, 4), "a": (6, 3), "b": (6, 3), "head.fc": (5, 5)}),
    "channel shuffle": (nets.Shuffled(), {"stem": (16, 8), "inner": (12, 6), "outer": (8, 4), "head.fc": (5, 5)}),
    "layer norm": (nets.LayerNormed(), {"stem": (16, 8), "up": (32, 16), "down": (16, 8), "head.fc": (5, 5)}),
    "bare parameters": (
        nets.Functional(),
        {"kernel": (12, 6), "left": (8, 4), "right": (8, 4), "up": (10, 5), "head.fc": (5, 5)},
    ),
    "attention": (nets.Attention(), {"inner": (12, 6), "conv": (16, 8), "attend": (1, 1), "head.fc": (5, 5)}),
    "channel selection": (
        nets.Selected(),
        {"stem": (16, 8), "conv1": (8, 4), "conv2": (16, 8), "head.fc": (5, 5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDLED)
def test_handled_proven_and_rebuilt(name: str) -> None:
    model, expected = HANDLED[name]
    nets.seeded(model)
    outcome = run(model)
    assert widths(outcome) == expected
    assert outcome.record.proof.equivalence is not None
    assert outcome.record.proof.equivalence < 1e-10
    assert outcome.record.macs_after < outcome.record.macs_before
    x = torch.randn(3, 3, 16, 16)
    rebuilt = load_bytes(model, save_bytes(outcome.model, sparse=False))
    for a, b in zip(evaluate(rebuilt, (x,)), evaluate(outcome.model, (x,)), strict=True):
        assert torch.equal(a, b)
    for layer in outcome.record.layers:
        assert layer.note or layer.out_after < layer.out_before


def test_reasons_name_the_place() -> None:
    assert "aten.index picks channels by position" in notes(run(nets.seeded(nets.Permuted())))["stem"]
    assert "a mean over narrowed channels" in run(nets.seeded(nets.Attention())).record.proof.reason
    assert "classifier" in notes(run(nets.seeded(nets.ConvClassifier())))["classify"]
    proof = run(nets.seeded(nets.LayerNormed())).record.proof
    assert "LayerNorm" in proof.reason
    assert "norm" in proof.reason


def test_several_inputs_by_example() -> None:
    model = nets.seeded(nets.SeveralInputs())
    examples = (torch.randn(1, 3, 16, 16), torch.randn(1, 1, 16, 16))
    outcome = run(model, context=PruneContext((16, 16, 3), example_inputs=examples))
    assert widths(outcome) == {"left": (8, 4), "right": (8, 4), "fuse": (16, 8), "head.fc": (5, 5)}
    with pytest.raises(SurgeryError, match="example_inputs"):
        run(model)


@pytest.mark.parametrize("spelling", ["pad", "cat", "pool"])
def test_option_a_in_three_spellings(spelling: str) -> None:
    model = nets.seeded(nets.OptionA(spelling))
    outcome = run(model, scope="internal")
    assert widths(outcome) == {"stem": (8, 8), "conv1": (16, 8), "conv2": (16, 16), "head.fc": (5, 5)}
    assert "zero-padded" in notes(outcome)["conv2"]
    with pytest.raises(SurgeryError, match="rewrite = true"):
        run(model, scope="all")


def test_a_sum_that_begins_with_zeros_is_no_padded_shortcut() -> None:
    model = nets.seeded(nets.SumFromZeros())
    for scope in ("internal", "all"):
        outcome = run(model, scope=scope)
        assert widths(outcome)["stem"] == (8, 4)
        assert "a constant" in notes(outcome)["conv1"]
        assert "zero-padded" not in str(notes(outcome))


def test_default_scope_follows_the_structure() -> None:
    def scope(model: nn.Module) -> str:
        section = CompressSection(method="filter", ratios=(0.5,))
        return prune(nets.seeded(model), section, 0.5, CONTEXT).record.scope

    assert scope(nets.InPlace()) == "internal"
    assert scope(nets.Plain()) == "all"
    assert scope(nets.Dense()) == "all"
    assert scope(nets.SqueezeExcite()) == "all"


def test_forward_that_depends_on_data_is_refused() -> None:
    with pytest.raises(SurgeryError, match=r"depends on the values of the data.*torch\.where"):
        run(nets.seeded(nets.DataDependent()))


def test_hard_coded_sizes_are_left_alone_and_named() -> None:
    outcome = run(nets.seeded(nets.HardCodedFlatten()))
    assert widths(outcome) == {"first": (8, 4), "second": (16, 16), "fc": (5, 5)}
    assert "does not run" in notes(outcome)["second"]
    assert any("second was left alone" in note for note in outcome.record.notes)
    with pytest.raises(SurgeryError, match=r"^second: .*x\.flatten\(1\)"):
        run(nets.seeded(nets.OnlyHardCoded()))


def test_computed_weights_are_refused() -> None:
    with pytest.raises(SurgeryError, match="computed weight"):
        run(nets.seeded(nets.Blended()))


def test_lazy_modules_are_refused_until_built() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(SurgeryError, match="one forward pass"):
        run(model)
    model(torch.zeros(1, 3, 16, 16))
    assert widths(run(model))["0"] == (8, 4)


def test_modules_built_in_the_first_forward_are_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.flatten(torch.relu(self.conv(x)), 1)
            if not hasattr(self, "fc"):
                self.fc = nn.Linear(y.shape[1], 4)
            return self.fc(y)

    model = Lazy()
    with pytest.raises(SurgeryError, match="one forward pass"):
        run(model)
    assert not hasattr(model, "fc")


def test_partly_frozen_networks_keep_their_flags() -> None:
    model = nets.seeded(nets.Plain())
    model.conv1.requires_grad_(False)
    outcome = run(model)
    assert not outcome.model.conv1.weight.requires_grad
    assert outcome.model.conv2.weight.requires_grad
    assert outcome.model.conv1.out_channels == 8


def test_wrong_input_size_is_an_instruction() -> None:
    with pytest.raises(SurgeryError, match="input_shape"):
        run(nets.seeded(nets.Plain()), context=PruneContext((16, 16, 1)))


def test_no_output_tensor_and_constant_output() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> None:
            self.conv(x)

    with pytest.raises(SurgeryError, match="returns no tensor"):
        run(Nothing())
