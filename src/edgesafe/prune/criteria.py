"""How important a channel is. Each function scores all units of one group; a higher score stays longer.

Sources: L1 (Li et al., arXiv 1608.08710), L2, BatchNorm scale (Liu et al., arXiv 1708.06519), random (control).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgesafe.sections import Criterion
from edgesafe.surgery.trace import Role, Slot
from edgesafe.surgery.units import ChannelGraph, Group

__all__ = ["Scorer", "rows", "score_group"]

Scorer = Callable[[Tensor], Tensor]


def rows(parameter: Tensor, dim: int) -> Tensor:
    """Float64 (channels, elements): one row of weights for each index of `dim`."""
    return parameter.detach().double().movedim(dim, 0).flatten(1)


def _l1(weights: Tensor) -> Tensor:
    return weights.abs().sum(1)


def _l2(weights: Tensor) -> Tensor:
    return weights.square().sum(1).sqrt()


WEIGHT_SCORERS: Mapping[Criterion, Scorer] = {Criterion.L1: _l1, Criterion.L2: _l2}


def score_group(
    graph: ChannelGraph,
    group: Group,
    tensors: Mapping[str, Tensor],
    criterion: Criterion,
    seed: int,
) -> Tensor | None:
    """Scores of a group's units, float64 (units,), or None where the criterion does not apply (no BatchNorm).

    Where several layers produce the same channels, each layer's scores are divided by their mean and then averaged, so
    that no layer outweighs the others.

    Args:
        graph: holds the group.
        group: what to score.
        tensors: parameters by name.
        criterion: which score.
        seed: of "random".
    """
    if criterion is Criterion.RANDOM:
        digest = hashlib.sha256(f"{seed}:{group.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(len(group.units), generator=generator, dtype=torch.float64)
    if criterion is Criterion.BN_SCALE:
        return _scales(graph, group, tensors)
    scorer = WEIGHT_SCORERS[criterion]
    scores = [per_unit(group, slot, scorer(rows(tensors[slot.tensor], slot.dim))) for slot in group.producers]
    return combine(scores)


def combine(scores: list[Tensor]) -> Tensor:
    """One score per unit from those of several layers."""
    if len(scores) == 1:
        return scores[0]
    return torch.stack([s / s.mean().clamp_min(torch.finfo(torch.float64).tiny) for s in scores]).mean(0)


def per_unit(group: Group, slot: Slot, channels: Tensor) -> Tensor:
    """Mean over the channels of each unit, float64 (units,)."""
    return torch.stack([channels[list(unit.indices[slot])].mean() for unit in group.units])


def _scales(graph: ChannelGraph, group: Group, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Mean |scale| over the BatchNorms on each unit's channels."""
    slots = [s for s in group.units[0].indices if graph.trace.roles[s] == Role.SCALE]
    if not slots:
        return None
    return torch.stack(
        [
            torch.cat([tensors[s.tensor].detach().double().abs()[list(unit.indices[s])] for s in slots]).mean()
            for unit in group.units
        ]
    )
