"""A module's size attributes after its tensors were replaced."""

import copy

import pytest
import torch
from torch import nn

from edgesafe.errors import SurgeryError
from edgesafe.surgery.remove import sync_module
from edgesafe.surgery.units import channel_graph
from edgesafe.surgery.verify import prove_masked


def narrowed(module: nn.Module, **tensors: torch.Tensor) -> nn.Module:
    before = {name: getattr(module, name).shape for name in tensors}
    for name, tensor in tensors.items():
        if name in module._parameters:
            setattr(module, name, nn.Parameter(tensor))
        else:
            module._buffers[name] = tensor
    sync_module(module, before)
    return module


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_has_the_channels_of_its_tensors(affine: bool) -> None:
    names = ("weight", "bias", "running_mean", "running_var")[0 if affine else 2 :]
    module = narrowed(nn.BatchNorm2d(8, affine=affine), **{name: torch.ones(4) for name in names})
    assert module.num_features == 4
    assert module.eval()(torch.zeros(1, 4, 2, 2)).shape == (1, 4, 2, 2)


def test_a_batch_norm_without_statistics_has_the_channels_of_its_weight() -> None:
    module = nn.BatchNorm2d(8, track_running_stats=False)
    assert narrowed(module, weight=torch.ones(3), bias=torch.ones(3)).num_features == 3


def test_groups_go_whole_or_not_at_all() -> None:
    assert narrowed(nn.Conv2d(8, 8, 3, groups=4), weight=torch.ones(6, 2, 3, 3)).groups == 3
    with pytest.raises(SurgeryError, match=r"grouped layer: 20/8 is not a whole number of groups"):
        narrowed(nn.Conv2d(8, 8, 3, groups=4), weight=torch.ones(5, 1, 3, 3))
    assert narrowed(nn.GroupNorm(1, 8), weight=torch.ones(4), bias=torch.ones(4)).num_groups == 1
    assert narrowed(nn.GroupNorm(4, 8), weight=torch.ones(4), bias=torch.ones(4)).num_groups == 2


def test_a_masked_network_has_the_parameters_of_the_original_and_no_others() -> None:
    class Odd(nn.Linear):
        def __init__(self, *, more: bool) -> None:
            super().__init__(4, 2)
            if more:
                self.register_buffer("extra", torch.zeros(1))

    inputs = (torch.zeros(1, 4),)
    for before, after in ((False, True), (True, False)):
        original, pruned = Odd(more=before), Odd(more=after)
        pruned.load_state_dict(original.state_dict(), strict=False)
        with pytest.raises(SurgeryError, match="parameters appeared or vanished"):
            prove_masked(original.eval(), pruned.eval(), {}, inputs)
    same = Odd(more=True).eval()
    assert prove_masked(same, copy.deepcopy(same), {}, inputs).equivalence == 0.0


def test_layers_are_told_by_their_kind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5))
    graph = channel_graph(model, (torch.zeros(1, 3, 4, 4),))
    assert {layer.name: layer.kind for layer in graph.layers} == {"0": "Conv2d", "3": "Linear"}
