"""Pre-activation residual networks for small images (He et al., arXiv 1603.05027).

Key names are those of Liu et al.'s code base (arXiv 1810.05270): `conv1`, `layer{1,2,3}.{i}.{bn1,conv1,bn2,conv2}`
(and `bn3`, `conv3` in bottlenecks), `layer{s}.0.downsample.0`, `bn`, `fc`. There is no `channel_selection` layer: inner
channels are removed physically, and the residual stream keeps its width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError

__all__ = ["PreBasicBlock", "PreBottleneck", "PreResNet", "preresnet"]


class PreBasicBlock(nn.Module):
    """bn-relu-conv3x3, bn-relu-conv3x3, plus the shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, width, H / stride, W / stride)."""
        y = self.conv1(self.relu1(self.bn1(x)))
        y = self.conv2(self.relu2(self.bn2(y)))
        return cast("Tensor", y + self.downsample(x))


class PreBottleneck(nn.Module):
    """bn-relu-conv1x1, bn-relu-conv3x3, bn-relu-conv1x1 (four times as wide), plus the shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.downsample = _projection(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, 4 width, H / stride, W / stride)."""
        y = self.conv1(self.relu1(self.bn1(x)))
        y = self.conv2(self.relu2(self.bn2(y)))
        y = self.conv3(self.relu3(self.bn3(y)))
        return cast("Tensor", y + self.downsample(x))


Block = type[PreBasicBlock] | type[PreBottleneck]


class PreResNet(nn.Module):
    """Three stages of pre-activation blocks (16, 32, 64 channels inside), BN, ReLU, average pooling, one linear layer.

    Args:
        block: `PreBasicBlock` or `PreBottleneck`.
        blocks: blocks per stage (18 in PreResNet-110 and -164).
        num_classes: K.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        block: Block,
        blocks: int,
        num_classes: int,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        wide = block.expansion
        self.layer1 = _stage(block, 16, 16, blocks, 1)
        self.layer2 = _stage(block, 16 * wide, 32, blocks, 2)
        self.layer3 = _stage(block, 32 * wide, 64, blocks, 2)
        self.bn = nn.BatchNorm2d(64 * wide)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) -> logits (n, K)."""
        y = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return cast("Tensor", self.fc(torch.flatten(self.pool(self.relu(self.bn(y))), 1)))


def _stage(block: Block, in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = block(in_channels, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(blocks - 1)))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))


def preresnet(depth: int, num_classes: int, *, block: str | None = None, in_channels: int = 3) -> PreResNet:
    """PreResNet of `depth` = 6n + 2 (basic blocks) or 9n + 2 (bottlenecks) layers.

    Args:
        depth: 20, 110 (basic), 164 (bottleneck), …
        num_classes: K.
        block: "basic" or "bottleneck"; default: bottleneck from depth 164 on, as in the paper.
        in_channels: channels of the image.

    Raises:
        UsageError: no such depth or block.
    """
    kinds: dict[str, tuple[Block, int]] = {
        "basic": (PreBasicBlock, 6),
        "bottleneck": (PreBottleneck, 9),
    }
    name = block or ("bottleneck" if depth >= 164 else "basic")
    if name not in kinds:
        raise UsageError(f"unknown block {name!r}", where="model.args.block", fix='give "basic" or "bottleneck"')
    kind, layers = kinds[name]
    if depth < layers + 2 or (depth - 2) % layers:
        raise UsageError(
            f"a PreResNet of {name} blocks has {layers}n + 2 layers, not {depth}",
            where=f"preresnet{depth}",
            fix="use 20, 56, 110 (basic) or 164 (bottleneck)",
        )
    return PreResNet(kind, (depth - 2) // layers, num_classes, in_channels=in_channels)
