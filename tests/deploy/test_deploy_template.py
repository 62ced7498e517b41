"""The exporter runs once for networks of one trace: the others get the same bytes as from the exporter itself."""

from __future__ import annotations

import pytest
import torch
from deploy_fixtures import MEAN, STD, Tiny, randomise
from torch import Tensor, nn

from edgesafe import models, prune
from edgesafe.deploy.export import export_onnx
from edgesafe.deploy.template import Templates
from edgesafe.prune import PruneContext
from edgesafe.recipe.sections import CompressSection

SIDE = 16


def exported(model: nn.Module, templates: Templates | None = None, side: int = SIDE) -> bytes:
    return export_onnx(model.eval(), input_shape=(side, side, 3), mean=MEAN, std=STD, templates=templates)


def halved(model: nn.Module, side: int) -> nn.Module:
    block = CompressSection(method="filter", ratios=(0.5,), round_to=2)
    return prune.prune(model, block, 0.5, PruneContext(input_shape=(side, side, 3), round_to=2)).model


class Scaled(nn.Module):
    """A convolution of which the output is multiplied by a tensor that is no parameter, and reshaped by hand."""

    def __init__(self, scale: float, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.scale = torch.full((1, width, 1, 1), scale)
        self.fc = nn.Linear(width * SIDE * SIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.conv(x) * self.scale).flatten(1))


def test_networks_of_one_trace_are_exported_once_and_have_the_same_bytes() -> None:
    templates = Templates()
    for seed in range(2):
        torch.manual_seed(seed)
        model = randomise(Tiny(), seed)
        assert exported(model, templates) == exported(model)
    assert (templates.exported, templates.filled) == (1, 1)


@pytest.mark.slow
def test_another_opset_size_or_trace_is_exported_anew() -> None:
    templates = Templates()
    model = randomise(Tiny())
    exported(model, templates)
    exported(model, templates, side=12)
    model.bn1.eps = 1e-3
    assert exported(model, templates) == exported(model)
    assert (templates.exported, templates.filled) == (3, 0)


@pytest.mark.slow
def test_tensors_that_no_checkpoint_holds_are_part_of_the_trace() -> None:
    templates = Templates()
    for scale in (2.0, 3.0, 2.0):
        torch.manual_seed(0)
        model = Scaled(scale)
        assert exported(model, templates) == exported(model)
    assert templates.exported >= 2


@pytest.mark.slow
def test_other_widths_get_the_same_bytes() -> None:
    templates = Templates()
    for width in (6, 8):
        torch.manual_seed(width)
        model = Scaled(2.0, width)
        assert exported(model, templates) == exported(model)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["smallnet", "resnet20", "vgg16", "preresnet20", "densenet40"])
def test_pruned_networks_get_the_bytes_of_the_exporter(arch: str) -> None:
    templates, side = Templates(), 32
    torch.manual_seed(0)
    first, second = (randomise(models.build(arch, 10, {}), seed).eval() for seed in (0, 1))
    for model in (first, second, halved(first, side)):
        assert exported(model, templates, side) == exported(model, side=side)
    assert (templates.exported, templates.filled) == (1, 2)


@pytest.mark.slow
def test_a_bias_that_is_zero_in_the_first_network_is_not_lost_in_the_next() -> None:
    """The exporter leaves out biases of zero: the file of a network that was never trained cannot stand for others."""
    templates = Templates()
    torch.manual_seed(0)
    fresh = Tiny()
    assert not fresh.bn1.bias.any()
    for model in (fresh, randomise(Tiny(), 1)):
        assert exported(model, templates) == exported(model)
