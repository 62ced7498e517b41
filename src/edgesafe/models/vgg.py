"""VGG with BatchNorm for 32x32 images, as in Liu et al., "Rethinking the value of network pruning" (arXiv 1810.05270).

One linear classifier after average pooling. Key names: `feature.{i}` (convolution, BN, ReLU, pooling in turn) and
`classifier`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError

__all__ = ["CifarVGG", "cifar_vgg"]

#: Channels of the convolutions; 0 is a 2x2 max pooling. No pooling follows the last stage: average pooling does.
_PLANS: dict[int, tuple[int, ...]] = {
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512),
    19: (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512),
}


class CifarVGG(nn.Module):
    """Convolutions 3x3 with BN and ReLU, global average pooling, one linear layer.

    Args:
        plan: channels of each convolution in turn; 0 is a max pooling.
        num_classes: K.
        in_channels: channels of the image.
    """

    def __init__(self, plan: tuple[int, ...], num_classes: int, *, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = in_channels
        for width in plan:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(previous, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            previous = width
        self.feature = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)  # network slimming starts the scales at 0.5
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images float32 (n, in_channels, H, W) with H, W >= 16 -> logits (n, K)."""
        return cast("Tensor", self.classifier(torch.flatten(self.pool(self.feature(x)), 1)))


def cifar_vgg(depth: int, num_classes: int, *, in_channels: int = 3) -> CifarVGG:
    """VGG-16 or VGG-19 with BatchNorm.

    Raises:
        UsageError: another depth.
    """
    if depth not in _PLANS:
        raise UsageError(f"there is no VGG of depth {depth} here", where=f"vgg{depth}", fix="use vgg16 or vgg19")
    return CifarVGG(_PLANS[depth], num_classes, in_channels=in_channels)
