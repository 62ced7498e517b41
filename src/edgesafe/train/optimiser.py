"""The optimiser of a training: made from a plan, stored and restored between epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgesafe.recipe.sections import Optimiser
from edgesafe.train.augmentation import FitPlan

__all__ = ["optimiser_of", "restore", "stored"]


def optimiser_of(plan: FitPlan, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (Loshchilov & Hutter, arXiv 1711.05101), which takes no momentum.

    A CUDA graph needs AdamW to count its steps on the device.
    """
    if plan.optimiser is Optimiser.ADAMW:
        return torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, capturable=plan.mode.cuda)
    return torch.optim.SGD(parameters, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)


def stored(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors that it keeps of each parameter, by "position.name"."""
    held: dict[str, Tensor] = {}
    for position, parameter in enumerate(optimiser.param_groups[0]["params"]):
        for name, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                held[f"{position}.{name}"] = value
    return held


def restore(optimiser: torch.optim.Optimizer, held: Mapping[str, Tensor]) -> None:
    """Give it the tensors that `stored` gave; those of a parameter's shape are laid out as the parameter is."""
    parameters = optimiser.param_groups[0]["params"]
    for key, value in held.items():
        position, _, name = key.partition(".")
        parameter = parameters[int(position)]
        if value.shape == parameter.shape:
            kept = torch.empty_like(parameter, requires_grad=False).copy_(value)
        else:
            kept = value.to(parameter.device if optimiser.defaults.get("capturable") else "cpu", copy=True)
        optimiser.state[parameter][name] = kept
