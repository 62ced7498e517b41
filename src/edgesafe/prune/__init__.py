"""Pruning: choose channels or weights, remove them, and prove that the rest of the network computes what it did.

prune(model, section, ratio, context) -> PruneOutcome(model, record, masks)
"""

from __future__ import annotations

from torch import nn

from edgesafe.prune.context import PruneContext, PruneOutcome, require_prunable
from edgesafe.prune.structured import prune_structured
from edgesafe.prune.weights import prune_weights, zeroed
from edgesafe.recipe.sections import CompressSection, Method

__all__ = ["PruneContext", "PruneOutcome", "prune"]


def prune(model: nn.Module, section: CompressSection, ratio: float, context: PruneContext) -> PruneOutcome:
    """Prune a copy of `model`.

    The input is never modified; each module's train/eval mode and each parameter's requires_grad are the input's.
    Layers whose output channels are the network's outputs are never narrowed.

    Args:
        model: a CNN on the CPU that maps normalised float32 (n, C, H, W) to its outputs.
        section: method, scope, criterion, widths.
        ratio: in (0, 1). Method weight: share of all Conv2d weights that become zero. filter, random: share of each
            narrowed layer's channels; channel, and allocations other than uniform: share of all channels in scope.
        context: see `PruneContext`.

    Returns:
        The pruned network, the record with its proof, and where weights became zero the masks.

    Raises:
        RecipeError: the ratio is outside (0, 1).
        SurgeryError: nothing can be removed, or the result cannot be proven correct.
        NonFiniteError: a weight or an output is NaN or infinite.
    """
    require_prunable(model, ratio)
    if section.method is Method.WEIGHT:
        return prune_weights(model, section, ratio, context)
    return zeroed(prune_structured(model, section, ratio, context), section, context)
