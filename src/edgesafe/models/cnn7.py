"""CNN7, the plain network of the certification literature: six 3x3 convolutions and a linear layer.

Papers agree on the depth and on little else; the strides here bring an image down to an eighth of its side.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError, hint

__all__ = ["CNN7", "cnn7", "head_inputs"]

_STRIDES = (1, 2, 1, 2, 1, 2)
HEADS = ("grid", "pool")
_SHRINK = 8  #: side of the image over side of the last feature map


def head_inputs(head: str, channels: int, size: int) -> int:
    """Numbers that enter the linear layer of a head.

    Args:
        head: "grid": every place of the last feature map, so that the network can say where something is; "pool": the
            mean over all places, for images of any size.
        channels: of the last feature map.
        size: side of the images, px.

    Raises:
        UsageError: no such head, or a side that cannot be divided.
    """
    if head not in HEADS:
        raise UsageError(f"unknown head {head!r}", where="model.args.head", fix=hint(head, HEADS))
    if head == "pool":
        return channels
    if size < _SHRINK or size % _SHRINK:
        raise UsageError(
            f"a side of {size} px is no multiple of {_SHRINK}", where="model.args.size",
            fix='give the side of the images, such as 32, 48 or 64, or head = "pool"',
        )  # fmt: skip
    return channels * (size // _SHRINK) ** 2


class CNN7(nn.Module):
    """Six times conv-bn-relu, then one linear layer.

    Args:
        outputs: K, or two for each keypoint.
        width: channels of the first two convolutions; the other four have twice as many.
        size: side of the images, px; used by head "grid".
        head: see `head_inputs`.
        in_channels: channels of the image.
    """

    def __init__(self, outputs: int, *, width: int, size: int, head: str, in_channels: int) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"{width} channels", where="model.args.width", fix="give 1 or more")
        widths = (in_channels, width, width, *(2 * width,) * 4)
        self.features = nn.Sequential()
        for k, stride in enumerate(_STRIDES):
            self.features.append(nn.Conv2d(widths[k], widths[k + 1], 3, stride, 1, bias=False))
            self.features.append(nn.BatchNorm2d(widths[k + 1]))
            self.features.append(nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1) if head == "pool" else nn.Identity()
        self.linear = nn.Linear(head_inputs(head, 2 * width, size), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) -> outputs (n, outputs)."""
        return cast("Tensor", self.linear(torch.flatten(self.pool(self.features(x)), 1)))


def cnn7(num_classes: int, *, width: int = 64, size: int = 32, head: str = "grid", in_channels: int = 3) -> CNN7:
    """CNN7 for square images; of width 16, size 32 and 10 classes: 40,442 parameters.

    Raises:
        UsageError: a width, size or head that cannot be built.
    """
    return CNN7(num_classes, width=width, size=size, head=head, in_channels=in_channels)
