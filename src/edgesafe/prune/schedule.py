"""Pruning in several steps with recovery in between, and the sensitivity of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from edgesafe.errors import NonFiniteError, SurgeryError, UsageError
from edgesafe.prune.context import PruneContext, PruneOutcome, require_prunable
from edgesafe.prune.plan import NothingRemovedError
from edgesafe.prune.structured import prune_structured
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import LayerRecord, SurgeryRecord
from edgesafe.surgery.units import channel_graph

__all__ = ["Sensitivity", "prune_in_steps", "sensitivity", "step_ratios"]


def step_ratios(ratio: float, steps: int) -> tuple[float, ...]:
    """Ratio of each of `steps` steps, relative to what is left, so that 1 - ratio stays in the end.

    Args:
        ratio: in (0, 1), of the whole.
        steps: >= 1.

    Raises:
        UsageError: no steps.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps", where="steps", fix="give at least 1")
    return (1.0 - (1.0 - ratio) ** (1.0 / steps),) * steps


def prune_in_steps(
    model: nn.Module,
    section: CompressSection,
    ratio: float,
    context: PruneContext,
    steps: int,
    recover: Callable[[nn.Module], nn.Module],
) -> PruneOutcome:
    """Prune a little, recover, and again; every step is proven.

    Args:
        model: see `prune.prune`.
        section: a structured method.
        ratio: of the whole.
        context: see `prune.prune`.
        steps: >= 1.
        recover: trains a pruned network and returns it; called between the steps, not after the last.

    Returns:
        The last network, and one record from the first network to the last, with the last step's proof.

    Raises:
        SurgeryError: a step fails; a step in which rounding leaves everything as it is is passed over, unless all are.
    """
    require_prunable(model, ratio)
    outcomes: list[PruneOutcome] = []
    current = model
    for index, part in enumerate(step_ratios(ratio, steps)):
        used = section if index == 0 else section.model_copy(update={"rewrite": False})
        try:
            outcome = prune_structured(current, used, part, context)
        except NothingRemovedError:
            if index == steps - 1 and not outcomes:
                raise
            continue
        outcomes.append(outcome)
        current = outcome.model if index == steps - 1 else recover(outcome.model)
    return PruneOutcome(outcomes[-1].model, _joined([o.record for o in outcomes], ratio, steps))


def _joined(records: Sequence[SurgeryRecord], ratio: float, steps: int) -> SurgeryRecord:
    """From the first record's before to the last one's after."""
    first, last = records[0], records[-1]
    own = next((record for record in records if record.engine_reason is not None), last)  # one step is enough to say so
    before = {layer.name: layer for layer in first.layers}

    def layer(after: LayerRecord) -> LayerRecord:
        old = before[after.name]
        return after.model_copy(
            update={
                "out_before": old.out_before,
                "in_before": old.in_before,
                "params_before": old.params_before,
                "note": after.note if after.out_after == old.out_before else "",
            }
        )

    return last.model_copy(
        update={
            "ratio": ratio,
            "layers": tuple(layer(after) for after in last.layers),
            "params_before": first.params_before,
            "macs_before": first.macs_before,
            "rewrites": first.rewrites,
            "engine": own.engine,
            "engine_reason": own.engine_reason,
            "notes": (f"pruned in {len(records)} proven steps of {steps} asked for", *last.notes),
        }
    )


@dataclass(frozen=True)
class Sensitivity:
    """What narrowing one group of layers alone costs.

    Attributes:
        layer: the group's first layer.
        layers: all layers whose outputs are narrowed together.
        ratio: share of channels removed there.
        score: of the network so pruned.
        drop: the unpruned network's score minus this one.
        macs: share of all MACs that goes.
    """

    layer: str
    layers: tuple[str, ...]
    ratio: float
    score: float
    drop: float
    macs: float


def sensitivity(
    model: nn.Module,
    section: CompressSection,
    context: PruneContext,
    score: Callable[[nn.Module], float],
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Prune each group of layers alone, at each of the section's ratios, and score the network.

    Args:
        model: see `prune.prune`.
        section: method, criterion, scope, ratios.
        context: see `prune.prune`.
        score: higher is better (accuracy on validation images); called once for the unpruned network, too.
        progress: called with (done, all, layer) before each trial.

    Returns:
        In the order of the network, then of the ratios; trials that rounding leaves empty are not there.

    Raises:
        SurgeryError: no group can be narrowed at any ratio.
        NonFiniteError: a score is not finite.
    """
    baseline = _finite(score(model), "the unpruned network")
    groups = channel_graph(model, context.inputs()).groups
    total = len(groups) * len(section.ratios)
    rows: list[Sensitivity] = []
    causes: list[SurgeryError] = []
    for index, group in enumerate(groups):
        for number, ratio in enumerate(section.ratios):
            if progress is not None:
                progress(index * len(section.ratios) + number, total, group.name)
            alone = replace(context, only=(group.name,), engine=False)
            try:
                outcome = prune_structured(model, section, ratio, alone)
            except SurgeryError as error:
                causes.append(error)
                continue
            value = _finite(score(outcome.model), group.name)
            names = tuple(slot.tensor.removesuffix(".weight") for slot in group.producers)
            share = 1 - outcome.record.macs_after / outcome.record.macs_before
            rows.append(Sensitivity(group.name, names, ratio, value, baseline - value, share))
    if not rows:
        raise (
            causes[0]
            if causes
            else SurgeryError("no layer can be narrowed", where="model", fix="see the support table")
        )
    return tuple(rows)


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(f"the score is {value}", where=where, fix="check the scoring function")
    return float(value)
