"""Training: BatchNorm re-estimation, fine-tuning, slimming, and training a baseline from scratch.

Everything random is a pure function of (seed, epoch), so that a run that stops after any epoch and is started again
ends with the same bytes. The optimiser is always built here, after surgery: one built before would hold dead
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, RefusedError
from edgesafe.records import ImageSet
from edgesafe.train.augmentation import FitPlan, Normalisation, _augment, _generator, _seed
from edgesafe.train.batchnorm import _BN
from edgesafe.train.checkpoints import Checkpoints, _tensors, _weights

__all__ = ["accuracy", "fit"]

_JUDGED = 250  # images per forward pass where nothing is learned


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


# ------------------------------------------------------------------------------------------------------- details


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of a random order; a last batch of one image is left out, since BatchNorm cannot use it."""
    order = torch.randperm(n, generator=generator)
    for start in range(0, n, size):
        batch = order[start : start + size]
        if len(batch) > 1:
            yield batch


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
