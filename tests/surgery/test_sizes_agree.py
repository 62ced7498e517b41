"""A module's size attributes after its tensors were replaced."""

import pytest
import torch
from torch import nn

from edgesafe.errors import SurgeryError
from edgesafe.surgery.remove import sync_module


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
