"""How important a channel is. Every criterion scores all units of one group; a higher score stays longer.

| criterion | score of a filter w | source |
|---|---|---|
| l1 | sum of |w| | Li et al., arXiv 1608.08710 |
| l2 | Euclidean norm of w | He et al., arXiv 1808.06866 |
| fpgm | sum of the distances to all other filters of the layer | He et al., arXiv 1811.00250 |
| lamp | |w|^2 over the sum of those of the filters at least as large | Lee et al., arXiv 2010.07611 |
| taylor | |sum of w dL/dw|, first-order change of the loss | Molchanov et al., arXiv 1906.10771 |
| hessian | sum of w^2 E[(dL/dw)^2] / 2, with the diagonal empirical Fisher | LeCun et al., Optimal Brain Damage, 1990 |
| bn_scale | mean |scale| of the BatchNorms on the channel | Liu et al., arXiv 1708.06519 |
| random | uniform noise: the control | - |
| usn | minus the relative deviation under lighting (`deviations`) | after Hu et al., arXiv 2510.00083 |
| usn_absolute | minus the mean squared deviation | likewise |
| usn_l1 | l1 over the relative deviation, each over its mean in the layer; 0 for a constant channel | edgesafe |
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.prune.deviations import Deviation
from edgesafe.recipe.sections import USN_CRITERIA, Criterion
from edgesafe.surgery.propagation import DimensionRole, Slot
from edgesafe.surgery.remove import tensors
from edgesafe.surgery.units import ChannelGraph, ChannelGroup

__all__ = ["NEED_GRADIENTS", "NEED_LIGHTING", "Material", "gather", "score_group"]

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]

NEED_GRADIENTS = frozenset({Criterion.TAYLOR, Criterion.HESSIAN})
NEED_LIGHTING = frozenset(USN_CRITERIA)
_SUMMED = (
    NEED_GRADIENTS  #: in units of the loss: layers of a group add up; the others are averaged relative to their mean
)


@dataclass(frozen=True)
class Material:
    """The tensors that scores are computed from.

    Attributes:
        weights: parameters and buffers (fixed filters) by name.
        gradients: criterion taylor: mean gradient of the loss; hessian: mean squared gradient; by parameter name.
        seed: of "random".
        comparable: scores will be ranked across layers, so each layer's weight norms are divided by their mean.
        deviations: criteria usn: of each slot where a group's pre-activations are seen, those of its channels.
    """

    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    comparable: bool = False
    deviations: Mapping[Slot, Deviation] = field(default_factory=dict)


def gather(
    model: nn.Module,
    criterion: Criterion,
    batches: Callable[[], Batches] | None,
    *,
    seed: int,
    comparable: bool,
    loss: Loss | None = None,
) -> Material:
    """The parameters, and the gradients if the criterion needs them.

    Args:
        model: not modified; gradients are taken in eval mode on a copy, with the loss of its first output.
        criterion: which score.
        batches: gives images float32 (n, C, H, W), normalised, and their labels.
        seed: of "random".
        comparable: see `Material`.
        loss: sum over images of outputs and labels; None: cross entropy.

    Raises:
        SurgeryError: gradients are needed and there is no data.
        NonFiniteError: a gradient is not finite.
    """
    weights = {name: tensor.detach() for name, tensor in tensors(model).items()}
    if criterion not in NEED_GRADIENTS:
        return Material(weights, seed=seed, comparable=comparable)
    if batches is None:
        raise SurgeryError(
            f"criterion {criterion.value} needs training images for its gradients",
            where="compress.criterion",
            fix="give PruneContext.gradient_batches, or use criterion = l1",
        )
    gradients = _gradients(model, batches(), loss or cross_entropy, squared=criterion is Criterion.HESSIAN)
    return Material(weights, gradients, seed, comparable)


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """The sum over images of the cross entropy of logits (n, K) and labels int64 (n,)."""
    return F.cross_entropy(output, labels, reduction="sum")


def _gradients(model: nn.Module, batches: Batches, loss: Loss, *, squared: bool) -> dict[str, Tensor]:
    """Mean gradient over images, or mean over images of the squared gradient, float64 by parameter."""
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    sums = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in copied.named_parameters()}
    count = 0
    for images, labels in batches:
        parts = [(images[i : i + 1], labels[i : i + 1]) for i in range(len(images))] if squared else [(images, labels)]
        for x, y in parts:
            copied.zero_grad(set_to_none=True)
            with torch.enable_grad():
                output = next(leaf for leaf in tree_leaves(copied(x)) if isinstance(leaf, Tensor))
                loss(output, y).backward()  # type: ignore[no-untyped-call]
            for name, parameter in copied.named_parameters():
                if parameter.grad is not None:
                    gradient = parameter.grad.double()
                    sums[name] += gradient.square() if squared else gradient
            count += len(x)
    if not count:
        raise SurgeryError("no images for the gradients", where="gradient_batches", fix="give at least one batch")
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise NonFiniteError("a gradient is not finite", where=name, fix="check the images and the weights")
    return {name: total / count for name, total in sums.items()}


def score_group(graph: ChannelGraph, group: ChannelGroup, criterion: Criterion, material: Material) -> Tensor | None:
    """Scores of a group's units, float64 (units,), or None where the criterion does not apply (no BatchNorm).

    Where several layers produce the same channels: taylor and hessian add up; weight norms are divided by each layer's
    mean and averaged, so that no layer outweighs the others.

    Args:
        graph: holds the group.
        group: what to score.
        criterion: which score.
        material: from `gather`.
    """
    if criterion is Criterion.RANDOM:
        digest = hashlib.sha256(f"{material.seed}:{group.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(len(group.units), generator=generator, dtype=torch.float64)
    if criterion is Criterion.BN_SCALE:
        return _scales(graph, group, material.weights)
    if criterion in NEED_LIGHTING:
        return _steadiness(graph, group, criterion, material)
    layers = [_layer_scores(slot, group, criterion, material) for slot in group.producers]
    if criterion in _SUMMED:
        return torch.stack(layers).sum(0)
    if len(layers) > 1 or (material.comparable and criterion is not Criterion.LAMP):
        tiny = torch.finfo(torch.float64).tiny
        layers = [scores / scores.mean().clamp_min(tiny) for scores in layers]
    return torch.stack(layers).mean(0)


def _layer_scores(slot: Slot, group: ChannelGroup, criterion: Criterion, material: Material) -> Tensor:
    """Mean over the channels of each unit, float64 (units,)."""
    weights = _rows(material.weights[slot.tensor], slot.dim)
    if criterion in NEED_GRADIENTS:
        gradients = _rows(material.gradients[slot.tensor], slot.dim)
        channels = _GRADIENT_SCORERS[criterion](weights, gradients)
    else:
        channels = _WEIGHT_SCORERS[criterion](weights)
    return torch.stack([channels[list(unit.indices[slot])].mean() for unit in group.units])


def _rows(parameter: Tensor, dim: int) -> Tensor:
    """Float64 (channels, elements): one row of weights for each index of `dim`."""
    return parameter.double().movedim(dim, 0).flatten(1)


def _l1(weights: Tensor) -> Tensor:
    return weights.abs().sum(1)


def _l2(weights: Tensor) -> Tensor:
    return weights.square().sum(1).sqrt()


def _fpgm(weights: Tensor) -> Tensor:
    return torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def _lamp(weights: Tensor) -> Tensor:
    squares = weights.square().sum(1)
    order = torch.argsort(squares, descending=True, stable=True)
    at_least = torch.empty_like(squares)
    at_least[order] = squares[order].cumsum(0)
    return squares / at_least.clamp_min(torch.finfo(torch.float64).tiny)


def _taylor(weights: Tensor, gradients: Tensor) -> Tensor:
    return (weights * gradients).sum(1).abs()


def _hessian(weights: Tensor, squared_gradients: Tensor) -> Tensor:
    return (weights.square() * squared_gradients).sum(1) / 2


_WEIGHT_SCORERS: Mapping[Criterion, Callable[[Tensor], Tensor]] = {
    Criterion.L1: _l1,
    Criterion.L2: _l2,
    Criterion.FPGM: _fpgm,
    Criterion.LAMP: _lamp,
}
_GRADIENT_SCORERS: Mapping[Criterion, Callable[[Tensor, Tensor], Tensor]] = {
    Criterion.TAYLOR: _taylor,
    Criterion.HESSIAN: _hessian,
}


def _steadiness(graph: ChannelGraph, group: ChannelGroup, criterion: Criterion, material: Material) -> Tensor | None:
    """How little lighting moves the channels of each unit, mean over the layers where they are seen."""
    seen = [slot for slot in group.units[0].indices if slot in material.deviations]
    if not seen:
        return None
    absolute = criterion is Criterion.USN_ABSOLUTE
    layers = []
    for slot in seen:
        deviation = material.deviations[slot]
        channels = deviation.squared if absolute else deviation.relative
        layers.append(torch.stack([channels[list(unit.indices[slot])].mean() for unit in group.units]))
    moved = torch.stack(layers).mean(0)
    if criterion is not Criterion.USN_L1:
        return -moved
    weights = score_group(graph, group, Criterion.L1, material)
    if weights is None:
        return None
    tiny = torch.finfo(torch.float64).tiny
    weights, moved = weights / weights.mean().clamp_min(tiny), moved / moved.mean().clamp_min(tiny)
    return torch.where(moved > 0, weights / moved.clamp_min(tiny), 0.0)


def _scales(graph: ChannelGraph, group: ChannelGroup, weights: Mapping[str, Tensor]) -> Tensor | None:
    """Mean |scale| over the BatchNorms on each unit's channels."""
    slots = [s for s in group.units[0].indices if graph.trace.roles[s] == DimensionRole.SCALE]
    if not slots:
        return None
    return torch.stack(
        [
            torch.cat([weights[s.tensor].double().abs()[list(unit.indices[s])] for s in slots]).mean()
            for unit in group.units
        ]
    )
