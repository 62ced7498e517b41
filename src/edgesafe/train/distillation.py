"""Knowledge distillation (Hinton et al., arXiv 1503.02531): a pruned network learns from the unpruned one's answers."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe.train.mode import Mode
from edgesafe.train.objective import Objective, Seen, Term

__all__ = ["distilled", "divergence"]


def divergence(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(answers / T) || softmax(outputs / T)), mean over the images: a scalar, >= 0.

    The factor T^2 keeps the size of the gradient whatever the temperature, so that a weight means the same at each.

    Args:
        outputs: logits of the network that learns, (n, K).
        answers: logits of the one that it learns from, (n, K).
        temperature: T > 0; higher: the ranks of the wrong classes count more.
    """
    own, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (outputs, answers))
    return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2


def distilled(objective: Objective, teacher: nn.Module, weight: float, temperature: float, mode: Mode) -> Objective:
    """(1 - weight) times the task's loss, plus `weight` times the divergence from the teacher, plus the other terms.

    Args:
        objective: of a classification.
        teacher: the unpruned network; a copy of it is used, in eval mode. It sees the same crops as the network.
        weight: in (0, 1].
        temperature: see `divergence`.
        mode: where the training runs.
    """
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False).to(mode.device)
    base = objective.base

    def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
        return (1.0 - weight) * base(outputs, targets)

    def apart(seen: Seen) -> Tensor:
        with torch.no_grad():
            answers = frozen(seen.inputs)
        return divergence(seen.outputs, answers, temperature)

    return replace(objective, base=scaled, terms=(*objective.terms, Term("distillation", weight, apart)))
