"""What a network is shown in training: normalised, cropped, flipped images, each a function of (seed, epoch).

Random numbers are drawn on the CPU, whatever the device, so that every device sees the same crops in the same order.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgesafe.recipe.sections import Optimiser
from edgesafe.train.mode import Mode
from edgesafe.train.objective import Objective

__all__ = ["FitPlan", "Normalisation", "crop", "draw", "epoch_draws", "epoch_seed", "generator", "shared", "shifts"]


_PAD = 4  # of the random crop, as in He et al. 2015 and the benchmark study


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (n, H, W, C) to normalised float32 (n, C, H, W), on the images' device, channels last in memory."""
        x = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
        return x.sub_(_constant(self.mean, str(images.device))).div_(_constant(self.std, str(images.device)))


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: str) -> Tensor:
    """(1, C, 1, 1) on the device; kept, since a CUDA graph must not copy from the CPU."""
    return torch.tensor(values).view(1, -1, 1, 1).to(device)


@dataclass(frozen=True)
class FitPlan:
    """SGD with momentum, or AdamW, with the rate of each epoch; what is minimised; and the mode."""

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
    mode: Mode = field(default_factory=Mode)
    optimiser: Optimiser = Optimiser.SGD
    bn_l1: float = 0.0  #: weight of the L1 penalty on BatchNorm scales (network slimming, Liu et al. 2017)
    objective: Objective = field(default_factory=Objective)  #: the loss of a batch
    warmup: int = 0  #: epochs in which the rate rises in equal steps, lr being the one after them
    cosine: bool = False  #: then it falls along half a cosine to 0, instead of by gamma after each milestone epoch
    average: float = 0.0  #: decay per step of a running mean of the weights, which is what the training gives; 0: none

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / (self.warmup + 1)
        if self.cosine:
            done = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        return float(self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones))

    def batches(self, n: int) -> tuple[int, ...]:
        """Sizes of an epoch's batches of n images; a last one of one image is left out: BatchNorm cannot use it."""
        rest = n % self.batch_size
        return (self.batch_size,) * (n // self.batch_size) + ((rest,) if rest > 1 else ())


def shared(array: NDArray[Any]) -> Tensor:
    """A tensor over an array's memory, which may be read-only: nothing here writes into images or labels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def epoch_seed(seed: int, epoch: int, purpose: str) -> int:
    """The seed, 56 bits, of what is random in an epoch for one purpose, such as the order of the images."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for what is random in an epoch: the same for the same seed, epoch and purpose."""
    return torch.Generator().manual_seed(epoch_seed(seed, epoch, purpose))


def epoch_draws(plan: FitPlan, n: int, epoch: int) -> Tensor:
    """Everything random about the images of an epoch.

    Returns:
        int64 (5, m) on the CPU, in the order of showing: index of the image (out of n), row and column of the crop in
        the padded image, whether it is flipped, and the lighting of its copy (an index of the objective's tables; 0
        where nothing needs it). m is n, or n - 1 if the last batch would be of one image.
    """
    order = torch.randperm(n, generator=generator(plan.seed, epoch, "order"))
    shown = torch.cat(list(_batch_draws(plan, order, epoch)), dim=1)
    return torch.cat((shown, _lightings(plan, shown.shape[1], epoch)[None]))


def _lightings(plan: FitPlan, n: int, epoch: int) -> Tensor:
    tables = plan.objective.tables
    if tables is None or not plan.objective.needs:
        return torch.zeros(n, dtype=torch.int64)
    return torch.randint(0, len(tables), (n,), generator=generator(plan.seed, epoch, "lighting"))


def _batch_draws(plan: FitPlan, order: Tensor, epoch: int) -> Iterator[Tensor]:
    for batch in torch.split(order[: sum(plan.batches(len(order)))], plan.batch_size):
        crops = draw(plan, len(batch), generator(plan.seed, epoch, f"crop{int(batch[0])}"))
        yield torch.cat((batch[None], crops))


def draw(plan: FitPlan, n: int, source: torch.Generator) -> Tensor:
    """Row, column and flip of n crops, int64 (3, n); the middle, unflipped, if the plan does not augment."""
    if not plan.augment:
        return torch.tensor([[_PAD], [_PAD], [0]]).expand(3, n)
    offsets = torch.randint(0, 2 * _PAD + 1, (2, n), generator=source)
    flips = torch.rand(n, generator=source) < 0.5 if plan.flip else torch.zeros(n, dtype=torch.bool)
    return torch.cat((offsets, flips[None].long()))


def shifts(draws: Tensor) -> Tensor:
    """By how many rows and columns crops lie below and right of their image: int64 (2, n), of `draw`'s int64 (3, n)."""
    return draws[:2] - _PAD


def crop(x: Tensor, draws: Tensor) -> Tensor:
    """Crops out of the zero-padded images, some flipped.

    Args:
        x: uint8 (n, H, W, C).
        draws: int64 (3, n) of `draw`, on the same device.

    Returns:
        uint8 (n, H, W, C).
    """
    n, h, w, channels = x.shape
    dy, dx, flipped = draws[:, :, None]
    padded = F.pad(x, (0, 0, _PAD, _PAD, _PAD, _PAD))
    height, width = padded.shape[1:3]
    across = torch.arange(w, device=x.device)
    columns = dx + torch.where(flipped.bool(), w - 1 - across, across)
    rows = torch.arange(n, device=x.device)[:, None] * height + dy + torch.arange(h, device=x.device)
    pixels = rows[:, :, None] * width + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, pixels.view(-1)).view(n, h, w, channels)
