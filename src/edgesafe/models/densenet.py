"""DenseNet without bottlenecks for small images (Huang et al., arXiv 1608.06993): DenseNet-40, growth 12.

Key names are those of Liu et al.'s code base (arXiv 1810.05270): `conv1`, `dense{1,2,3}.{i}.{bn1,conv1}`,
`trans{1,2}.{bn1,conv1}`, `bn`, `fc`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError

__all__ = ["CifarDenseNet", "DenseLayer", "Transition", "cifar_densenet"]


class DenseLayer(nn.Module):
    """bn-relu-conv3x3; the result is appended to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, C + growth, H, W)."""
        return torch.cat((x, self.conv1(self.relu(self.bn1(x)))), 1)


class Transition(nn.Module):
    """bn-relu-conv1x1, then 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, out_channels, H / 2, W / 2)."""
        return cast("Tensor", self.pool(self.conv1(self.relu(self.bn1(x)))))


class CifarDenseNet(nn.Module):
    """Three dense blocks, two transitions that keep the channels, BN, ReLU, average pooling, one linear layer.

    Args:
        layers: convolutions per dense block (12 in DenseNet-40).
        num_classes: K.
        growth: channels that each layer adds.
        in_channels: channels of the image.
    """

    def __init__(self, layers: int, num_classes: int, *, growth: int = 12, in_channels: int = 3) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        step = layers * growth
        self.dense1 = _dense(width, layers, growth)
        self.trans1 = Transition(width + step, width + step)
        self.dense2 = _dense(width + step, layers, growth)
        self.trans2 = Transition(width + 2 * step, width + 2 * step)
        self.dense3 = _dense(width + 2 * step, layers, growth)
        width += 3 * step
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) -> logits (n, K)."""
        y = self.trans1(self.dense1(self.conv1(x)))
        y = self.dense3(self.trans2(self.dense2(y)))
        return cast("Tensor", self.fc(torch.flatten(self.pool(self.relu(self.bn(y))), 1)))


def _dense(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels + i * growth, growth) for i in range(layers)))


def cifar_densenet(depth: int, num_classes: int, *, growth: int = 12, in_channels: int = 3) -> CifarDenseNet:
    """DenseNet of `depth` = 3n + 4 layers (40).

    Raises:
        UsageError: no such depth, or a growth below 1.
    """
    if depth < 7 or (depth - 4) % 3:
        raise UsageError(f"a DenseNet has 3n + 4 layers, not {depth}", where=f"densenet{depth}", fix="use densenet40")
    if growth < 1:
        raise UsageError(f"growth {growth} is below 1", where="model.args.growth", fix="give 12")
    return CifarDenseNet((depth - 4) // 3, num_classes, growth=growth, in_channels=in_channels)
