"""What a network is shown in training: normalised, cropped, flipped images, each a function of (seed, epoch)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FitPlan", "Normalisation"]


_PAD = 4  # of the random crop, as in He et al. 2015 and the benchmark study


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (n, H, W, C) to normalised float32 (n, C, H, W)."""
        x = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
        return x.sub_(torch.tensor(self.mean).view(1, -1, 1, 1)).div_(torch.tensor(self.std).view(1, -1, 1, 1))


@dataclass(frozen=True)
class FitPlan:
    """SGD with momentum; the rate is multiplied by gamma after each milestone epoch."""

    epochs: int
    lr: float
    milestones: tuple[int, ...]
    gamma: float
    momentum: float
    weight_decay: float
    batch_size: int
    augment: bool
    flip: bool
    seed: int  #: of order, augmentation and dropout
    bn_l1: float = 0.0  #: weight of the L1 penalty on BatchNorm scales (network slimming, Liu et al. 2017)


def _seed(seed: int, epoch: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, epoch, purpose))


def _augment(x: Tensor, plan: FitPlan, generator: torch.Generator) -> Tensor:
    """Random crop out of the zero-padded image and horizontal flip. uint8 (n, H, W, C) to the same."""
    if not plan.augment:
        return x
    n, h, w, _ = x.shape
    padded = F.pad(x, (0, 0, _PAD, _PAD, _PAD, _PAD))
    dy, dx = torch.randint(0, 2 * _PAD + 1, (2, n), generator=generator)
    columns = torch.arange(w).repeat(n, 1)
    if plan.flip:
        flipped = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(flipped[:, None], w - 1 - columns, columns)
    rows = dy[:, None] + torch.arange(h)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], (dx[:, None] + columns)[:, None, :]]
