"""Where the shared data is, and networks with BatchNorm statistics that matter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

RESNET20_MEAN, RESNET20_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ROOT = Path(__file__).resolve().parents[2]


def shared(name: str) -> Path:
    """A file of the shared golden data, or a skip."""
    root = Path(os.environ.get("EDGESAFE_SHARED", _ROOT.parent / "shared"))
    path = root / "data" / name
    if not path.is_file():
        pytest.skip(f"shared data has no {name} (set EDGESAFE_SHARED)")
    return path


def cifar10() -> Path:
    """CIFAR-10 as cifar10.npz, or a skip."""
    path = Path(os.environ.get("EDGESAFE_DATA", _ROOT / "data")) / "cifar10.npz"
    if not path.is_file():
        pytest.skip("no cifar10.npz (edgesafe fetch cifar10, or set EDGESAFE_DATA)")
    return path


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics, scales and shifts of its own: fresh ones would hide folding errors."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=g) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=g) + 0.5)
            module.weight.data.copy_(torch.randn(n, generator=g) * 0.3 + 0.5)
            module.bias.data.copy_(torch.randn(n, generator=g) * 0.1)
    return model
