"""What narrowing each group of layers alone costs and saves: the curves that `allocation` reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.prune.context import PruneContext, require_prunable
from edgesafe.prune.plan import NothingRemovedError, Plan
from edgesafe.prune.structured import plan_of, prune_structured
from edgesafe.recipe.sections import Allocation, CompressSection
from edgesafe.records import LayerCurve, LayerProbe

__all__ = ["PROBED", "Seen", "curves"]

PROBED = (0.25, 0.5, 0.75, 0.9)  #: shares of a group that are tried


@dataclass(frozen=True)
class Seen:
    """What is seen of a network: its mean loss, and its cost as a share of the unpruned network's."""

    loss: float
    cost: float


def curves(
    model: nn.Module,
    section: CompressSection,
    context: PruneContext,
    look: Callable[[nn.Module], Seen],
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[LayerCurve, ...]:
    """Narrow each group of layers in scope alone, by a few shares.

    Args:
        model: see `prune.prune`.
        section: a structured method; its ratios are not used.
        context: see `prune.prune`.
        look: at a network, which it may change; called once for the unpruned one, too.
        progress: called with (done, all, layer) before each group.

    Returns:
        A curve for each group that can be narrowed, in the order of the network.

    Raises:
        SurgeryError: no group can be narrowed.
        NonFiniteError: a loss or cost is not finite.
    """
    require_prunable(model, PROBED[-1])
    alike = section.model_copy(update={"allocation": Allocation.UNIFORM, "layers": {}, "then_weight": None})
    plans = _plans(model, alike, context)
    whole = _finite(look(copy.deepcopy(model)), "the unpruned network")
    groups = plans[PROBED[-1]].scored
    found = []
    for index, (group, scores) in enumerate(groups):
        if progress is not None:
            progress(index, len(groups), group.name)
        probes: dict[int, LayerProbe] = {}
        for share, plan in plans.items():
            removed = len(plan.choices[index].removed)
            if not removed or removed in probes:
                continue
            try:
                alone = replace(context, only=(group.name,), engine=False)
                outcome = prune_structured(model, alike, share, alone)
            except SurgeryError:
                break  # it stays as it is, which the variant's record explains
            seen = _finite(look(outcome.model), group.name)
            probes[removed] = LayerProbe(removed=removed, loss=seen.loss - whole.loss, saved=whole.cost - seen.cost)
        if probes:
            found.append(LayerCurve(layer=group.name, channels=len(scores), probes=tuple(probes.values())))
    if not found:
        raise SurgeryError("no layer can be narrowed alone", where="model", fix='use allocation = "uniform"')
    return tuple(found)


def _plans(model: nn.Module, section: CompressSection, context: PruneContext) -> dict[float, Plan]:
    """What would go of every group, by the share; shares at which rounding leaves every channel are left out."""
    plans = {}
    for share in PROBED:
        try:
            plans[share] = plan_of(model, section, share, context)
        except NothingRemovedError:
            if share == PROBED[-1]:
                raise
    return plans


def _finite(seen: Seen, where: str) -> Seen:
    if not (math.isfinite(seen.loss) and math.isfinite(seen.cost)):
        what = f"its loss is {seen.loss} and its cost {seen.cost}"
        raise NonFiniteError(what, where=where, fix="check the images and the weights")
    return seen
