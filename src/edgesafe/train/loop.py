"""Training: BatchNorm re-estimation, fine-tuning, slimming, and training a baseline from scratch.

Everything random is a pure function of (seed, epoch), so that a run that stops after any epoch and is started again
ends with the same bytes. The optimiser is always built here, after surgery: one built before would hold dead
parameters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, RefusedError
from edgesafe.records import ImageSet

__all__ = ["Best", "Checkpoints", "FitPlan", "Normalisation", "Parts", "accuracy", "fit", "reestimate_batchnorm"]

_BN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_JUDGED = 250  # images per forward pass where nothing is learned
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


class Checkpoints(Protocol):
    """Where `fit` keeps its state after each epoch."""

    def load(self) -> bytes | None:
        """The last state, or None."""

    def save(self, state: bytes) -> None:
        """Keep a state."""


class Parts(Checkpoints, Protocol):
    """Checkpoints that can keep something beside the state."""

    def get(self, name: str) -> bytes | None:
        """What was kept under that name, or None."""

    def put(self, name: str, data: bytes) -> None:
        """Keep it."""


class Best:
    """Checkpoints that also keep the best network by a score, the start (epoch 0) included; the latest wins a tie.

    The best is kept before the state is, so a training that stops between the two does that epoch again, with the same
    result.

    Args:
        model: at its start; `fit` trains this very object.
        score: higher is better; must leave the network as it is.
        parts: where state and best are kept.
    """

    def __init__(self, model: nn.Module, score: Callable[[nn.Module], float], parts: Parts) -> None:
        self._model, self._score, self._parts = model, score, parts
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._value = score(model)
        self._epoch = 0
        kept = parts.get("best")
        tensors = _tensors(kept) if kept is not None else {}
        if tensors:
            start = self._state
            self._take(tensors)
            model.load_state_dict(self._state)
            self._value = score(model)
            model.load_state_dict(start)

    def load(self) -> bytes | None:
        """The last state."""
        return self._parts.load()

    def save(self, state: bytes) -> None:
        """Keep a state, and see whether it is the best."""
        value = self._score(self._model)
        if value >= self._value:
            self._value = value
            self._take(load_tensors(state))
            self._parts.put("best", state)
        self._parts.save(state)

    def restore(self) -> int:
        """Make the network what it was at its best; gives the epoch, 0 for the start."""
        self._model.load_state_dict(self._state)
        return self._epoch

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        self._state, self._epoch = _weights(tensors), len(tensors["losses"])


def accuracy(model: nn.Module, data: ImageSet, normalise: Normalisation) -> float:
    """Share of images that are classified right, in PyTorch: to judge a training, not to report. Leaves eval mode."""
    model.eval()
    images, right = torch.from_numpy(data.images), 0
    with torch.no_grad():
        for start in range(0, len(data), _JUDGED):
            predicted = model(normalise(images[start : start + _JUDGED])).argmax(1)
            right += int((predicted == torch.from_numpy(data.labels[start : start + _JUDGED])).sum())
    return right / len(data)


def fit(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalisation,
    plan: FitPlan,
    *,
    masks: Mapping[str, Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Train in place with cross entropy; leaves the model in eval mode.

    Args:
        model: any classifier; parameters with requires_grad False stay as they are.
        data: training images.
        normalise: as the exported file will do it.
        plan: schedule and seed.
        masks: parameter name -> bool tensor, True = kept; masked weights are held at zero after every step.
        checkpoints: if given, the state is kept after each epoch and found again.
        progress: called with the number of images done.

    Returns:
        Mean loss of each epoch.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        RefusedError: nothing can be trained (all parameters frozen, or fewer than two images).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise RefusedError(
            "every parameter is frozen, so nothing can be trained", fix="set requires_grad or epochs = 0"
        )
    if len(data) < 2:
        raise RefusedError(f"{len(data)} training image", where="data", fix="BatchNorm needs at least two")
    optimiser = torch.optim.SGD(trained, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)
    kept = _masked(model, masks)
    losses = _resume(model, optimiser, checkpoints)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    if progress is not None:
        progress(len(losses) * len(data))
    for epoch in range(len(losses), plan.epochs):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * plan.gamma ** sum(epoch >= milestone for milestone in plan.milestones)
        model.train()
        total = torch.zeros((), dtype=torch.float64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(plan.seed, epoch, "net"))  # dropout and the like
            for batch in _batches(len(data), plan.batch_size, _generator(plan.seed, epoch, "order")):
                x = _augment(images[batch], plan, _generator(plan.seed, epoch, f"crop{int(batch[0])}"))
                loss = F.cross_entropy(model(normalise(x)), labels[batch])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                _penalise(model, plan.bn_l1)
                optimiser.step()
                with torch.no_grad():
                    for parameter, mask in kept:
                        parameter.mul_(mask)
                total += loss.detach().double() * len(batch)
                if progress is not None:
                    progress(len(batch))
        losses.append(_finite(float(total) / len(data), epoch))
        if checkpoints is not None:
            checkpoints.save(_state(model, optimiser, losses))
    model.eval()
    return losses


def reestimate_batchnorm(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalisation,
    *,
    images: int,
    view: FitPlan | None = None,
    batch_size: int = 250,
) -> int:
    """Replace the running statistics of every BatchNorm by plain averages over training images.

    Only statistics change; weights do not. They must be of images as training showed them: those of unaugmented images
    cost a ResNet-20 that was trained on random crops 2.9 points of accuracy (decision 006).

    Args:
        model: changed in place.
        data: its first `images` are used.
        normalise: of the data set.
        images: how many; 0: nothing happens.
        view: crops and flips of the training, whose seed decides them; None: images as they are.
        batch_size: images at a time.

    Returns:
        Number of BatchNorm layers re-estimated (0: the net has none, nothing happened).
    """
    layers = [module for module in model.modules() if isinstance(module, _BN) and module.track_running_stats]
    if not layers or images == 0:
        return 0
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    x = torch.from_numpy(data.images[:images])
    with torch.no_grad():
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size]
            if view is not None:
                part = _augment(part, view, _generator(view.seed, 0, f"statistics{start}"))
            if len(part) > 1:
                model(normalise(part))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
    return len(layers)


# ------------------------------------------------------------------------------------------------------- details


def _seed(seed: int, epoch: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, epoch, purpose))


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of a random order; a last batch of one image is left out, since BatchNorm cannot use it."""
    order = torch.randperm(n, generator=generator)
    for start in range(0, n, size):
        batch = order[start : start + size]
        if len(batch) > 1:
            yield batch


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


def _masked(model: nn.Module, masks: Mapping[str, Tensor] | None) -> list[tuple[Tensor, Tensor]]:
    named = dict(model.named_parameters())
    return [(named[name], mask.to(named[name].dtype)) for name, mask in (masks or {}).items()]


def _penalise(model: nn.Module, weight: float) -> None:
    """Add the sub-gradient of weight * sum |gamma| over all BatchNorm scales (Liu et al. 2017, equation 1)."""
    if weight == 0.0:
        return
    for module in model.modules():
        if isinstance(module, _BN) and module.affine and module.weight.grad is not None:
            module.weight.grad.add_(torch.sign(module.weight.detach()), alpha=weight)


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss is {loss} in epoch {epoch + 1}", where="training", fix="lower the learning rate"
        )
    return loss


def _state(model: nn.Module, optimiser: torch.optim.SGD, losses: list[float]) -> bytes:
    tensors = {f"model.{name}": value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    for position, parameter in enumerate(optimiser.param_groups[0]["params"]):
        momentum = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{position}"] = momentum.detach().clone().contiguous()
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    return save_tensors(tensors)


def _resume(model: nn.Module, optimiser: torch.optim.SGD, checkpoints: Checkpoints | None) -> list[float]:
    data = checkpoints.load() if checkpoints is not None else None
    tensors = _tensors(data) if data is not None else {}
    if not tensors:
        return []
    model.load_state_dict(_weights(tensors))
    for position, parameter in enumerate(optimiser.param_groups[0]["params"]):
        if f"momentum.{position}" in tensors:
            optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{position}"]
    return [float(value) for value in tensors["losses"]]


def _tensors(state: bytes) -> dict[str, Tensor]:
    """Of a state; none if it is damaged: then it is not used, and the training starts again and ends the same."""
    try:
        return load_tensors(state)
    except SafetensorError:
        return {}


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
