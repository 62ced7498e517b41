"""ResNet-18 for small images: the ImageNet network of He et al. (arXiv 1512.03385) with a 3x3 stem and no max-pooling.

Key names: `conv1`, `bn1`, `layer{1..4}.{i}.{conv1,bn1,conv2,bn2}`, `layer{2..4}.0.shortcut.{0,1}`, `linear`, as in
widespread CIFAR code.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError
from edgesafe.models.cnn7 import head_inputs
from edgesafe.models.resnet import BasicBlock

__all__ = ["ResNet18", "resnet18"]


class ResNet18(nn.Module):
    """Four stages of two basic blocks, option-B shortcuts.

    Args:
        outputs: K, or two for each keypoint.
        width: channels of the first stage; each further stage has twice as many.
        size: side of the images, px; used by head "grid".
        head: "pool" or "grid", see `cnn7.head_inputs`.
        in_channels: channels of the image.
    """

    def __init__(self, outputs: int, *, width: int, size: int, head: str, in_channels: int) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"{width} channels", where="model.args.width", fix="give 1 or more")
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1) if head == "pool" else nn.Identity()
        self.linear = nn.Linear(head_inputs(head, 8 * width, size), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) -> outputs (n, outputs)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        return cast("Tensor", self.linear(torch.flatten(self.pool(y), 1)))


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_channels, channels, stride, "B"), BasicBlock(channels, channels, 1, "B"))


def resnet18(
    num_classes: int, *, width: int = 64, size: int = 32, head: str = "pool", in_channels: int = 3
) -> ResNet18:
    """ResNet-18; of width 64 and 10 classes: 11,173,962 parameters.

    Raises:
        UsageError: a width, size or head that cannot be built.
    """
    return ResNet18(num_classes, width=width, size=size, head=head, in_channels=in_channels)
