"""Residual networks for small images: the CIFAR family of He et al. (arXiv 1512.03385, section 4.2) and `smallnet`.

Key names of the CIFAR family: `conv1`, `bn1`, `layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}`, `linear`; option B adds
`layer{2,3}.0.shortcut.{0,1}`. Third-party checkpoints of that family load as they are.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe.errors import UsageError

__all__ = ["BasicBlock", "CifarResNet", "PadShortcut", "cifar_resnet", "smallnet"]


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, channels padded with zeros, a half of the new ones on each side.

    Holds no parameter. `models.rewrite.option_a_to_conv` replaces it by a fixed 1x1 convolution of the same output.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out, at least as many.
        stride: spatial step.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, C', ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn, plus the shortcut, relu."""

    def __init__(self, in_channels: int, channels: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = (
                PadShortcut(in_channels, channels, stride)
                if option == "A"
                else nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, channels, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return cast("Tensor", self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x)))


class CifarResNet(nn.Module):
    """Three stages of basic blocks, global average pooling, one linear layer.

    Args:
        blocks: residual blocks per stage (3 in ResNet-20).
        num_classes: K.
        widths: channels of the three stages.
        option: shortcut where the shape changes: "A" (stride and zero padding) or "B" (1x1 convolution and BN).
        in_channels: channels of the image.
        stem_stride: spatial step of the first convolution.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        *,
        widths: tuple[int, int, int] = (16, 32, 64),
        option: str = "A",
        in_channels: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if option not in ("A", "B"):
            raise UsageError(f"unknown shortcut option {option!r}", where="model.args.option", fix='give "A" or "B"')
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(widths[0], widths[0], blocks, 1, option)
        self.layer2 = _stage(widths[0], widths[1], blocks, 2, option)
        self.layer3 = _stage(widths[1], widths[2], blocks, 2, option)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) -> logits (n, K)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return cast("Tensor", self.linear(torch.flatten(self.pool(y), 1)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int, option: str) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, option)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, option) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, num_classes: int, *, option: str = "A", in_channels: int = 3) -> CifarResNet:
    """ResNet of `depth` = 6n + 2 layers (20, 32, 44, 56, 110, …) for 32x32 images.

    Raises:
        UsageError: no such depth, or an unknown shortcut option.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(
            f"a CIFAR ResNet has 6n + 2 layers, not {depth}", where=f"resnet{depth}", fix="use 20, 32, 44, 56 or 110"
        )
    return CifarResNet((depth - 2) // 6, num_classes, option=option, in_channels=in_channels)


def smallnet(num_classes: int, *, in_channels: int = 3) -> CifarResNet:
    """Three residual blocks of 16, 32 and 64 channels behind a stride-2 stem: 3.1 M MACs at 32x32 (quickstart)."""
    return CifarResNet(1, num_classes, option="B", in_channels=in_channels, stem_stride=2)
