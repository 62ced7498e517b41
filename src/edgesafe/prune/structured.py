"""Structured pruning: find the groups, score them, choose, remove, prove, and say what was left alone and why."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune.context import PruneContext, PruneOutcome
from edgesafe.prune.layer_table import record_of
from edgesafe.prune.plan import Plan, make_plan
from edgesafe.prune.repair import differing_groups, failing_groups
from edgesafe.recipe.sections import MEASURED, Allocation, CompressSection
from edgesafe.records import AllocationRecord, Declined, Engine, EngineReason, Proof, SurgeryRecord
from edgesafe.surgery.graph import cut
from edgesafe.surgery.sizes import narrowed
from edgesafe.surgery.units import ChannelGraph, ChannelGroup, channel_graph, keep_indices
from edgesafe.surgery.verify import ForwardError, Surgery, evaluate, example_batch, prove_removed

__all__ = ["plan_of", "prune_structured"]


def plan_of(model: nn.Module, section: CompressSection, ratio: float, context: PruneContext) -> Plan:
    """What would be removed, before it is tried whether the forward survives it; as of `prune_structured`."""
    inputs = context.inputs()
    base = copy.deepcopy(model)
    if section.rewrite:
        _rewrite(base, context, inputs)
    return make_plan(base, channel_graph(base, inputs), section, ratio, context, {})


def prune_structured(model: nn.Module, section: CompressSection, ratio: float, context: PruneContext) -> PruneOutcome:
    """Remove whole channels from a copy of the network; arguments, result and errors as of `prune.prune`."""
    inputs = context.inputs()
    base = copy.deepcopy(model)  # a forward may change its own module
    before = channel_graph(base, inputs)
    rewrites = _rewrite(base, context, inputs) if section.rewrite else ()
    graph = channel_graph(base, inputs) if rewrites else before
    plan = make_plan(base, graph, section, ratio, context, {})
    plan, (pruned, proof, declined) = _operate_on_what_survives(base, plan, section, ratio, context)
    after = channel_graph(pruned, inputs)
    record = record_of(model, pruned, plan, section, ratio, proof)
    _require_smaller(record, before, after)
    shared = context.allocation if section.allocates in MEASURED else None
    record = record.model_copy(
        update={
            "rewrites": rewrites,
            "macs_before": before.trace.macs_total,
            "macs_after": after.trace.macs_total,
            "engine": Engine.TORCH_PRUNING if declined is None else Engine.SLICES,
            "engine_reason": declined,
            "calibration": context.lighting.calibration if context.lighting and plan.needs_lighting else None,
            "allocation": shared,
            "notes": (*_rewrite_notes(pruned, base, model, rewrites), *_allocation_notes(shared), *record.notes),
        }
    )
    return PruneOutcome(pruned, record)


def _rewrite(model: nn.Module, context: PruneContext, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Turn option-A shortcuts into convolutions, in place; the output must stay the same to the bit."""
    from edgesafe.models.rewrite import option_a_to_conv

    rows = example_batch(inputs, 2, context.seed)
    expected = evaluate(model, rows)
    names = option_a_to_conv(model, context.input_shape)
    for result, wanted in zip(evaluate(model, rows), expected, strict=True):
        if not torch.equal(result, wanted):
            gap = float((result - wanted).abs().max())
            raise SurgeryError(
                f"the rewritten shortcuts change the output by {gap:.2g}",
                where=", ".join(names[:3]),
                fix="set rewrite = false and scope = internal",
            )
    return tuple(names)


def _rewrite_notes(pruned: nn.Module, base: nn.Module, model: nn.Module, rewrites: tuple[str, ...]) -> tuple[str, ...]:
    """What became of rewritten shortcuts, and whether fine-tuning may train them."""
    if not rewrites:
        return ()
    own = {name for name, _ in model.named_parameters()}
    new = [name for name, _ in base.named_parameters() if name not in own]
    after = dict(pruned.named_parameters())
    trained = any(after[name].requires_grad for name in new)
    return (
        f"{len(rewrites)} option-A shortcuts became 1x1 convolutions with the same output bit for bit; "
        f"fine-tuning {'trains them too' if trained else 'leaves them as they are (frozen)'}",
    )


def _allocation_notes(shared: AllocationRecord | None) -> tuple[str, ...]:
    """By what the layers' shares were decided, where that was measured."""
    if shared is None:
        return ()
    saved = "the time that it saves" if shared.by == Allocation.LATENCY else "the MACs that it saves"
    return (
        f"layers lose different shares, decided by what narrowing each of {len(shared.layers)} groups of layers alone "
        f"adds to the loss on {shared.images:,} validation images for {saved}",
    )


def _operate(
    model: nn.Module, plan: Plan, inputs: tuple[Tensor, ...], *, engine: bool
) -> tuple[nn.Module, Proof, EngineReason | None]:
    """The pruned copy, its proof, and why torch-pruning's cut was not kept (None: it was)."""
    removals = tuple((choice.group, choice.units) for choice in plan.choices if choice.removed)
    keep = keep_indices(plan.graph, tuple(unit for _, units in removals for unit in units))
    if engine:
        pruned, declined = cut(model, inputs, plan.graph, removals, keep)
    else:
        pruned, declined = narrowed(model, plan.graph, keep), EngineReason(cause=Declined.NOT_ASKED)
    surgery = Surgery(model, pruned, plan.graph, keep, inputs, plan.widths.min_channels)
    return pruned, prove_removed(surgery), declined


def _operate_on_what_survives(
    model: nn.Module, plan: Plan, section: CompressSection, ratio: float, context: PruneContext
) -> tuple[Plan, tuple[nn.Module, Proof, EngineReason | None]]:
    """Operate; what the forward does not survive, or what changes the function, is left alone and named in the plan."""
    inputs = context.inputs()
    broken: dict[ChannelGroup, str] = {}
    while True:
        try:
            return plan, _operate(model, plan, inputs, engine=context.engine)
        except ForwardError as error:
            raised: SurgeryError = error
            found = failing_groups(model, plan, inputs)
        except SurgeryError as error:
            raised = error
            found = differing_groups(model, plan, inputs, plan.widths.min_channels)
        if not found:
            raise raised
        if len(found) == len(plan.groups):
            name = next(iter(found)).name
            raise SurgeryError(raised.what, where=name, fix=raised.fix) from raised
        broken |= found
        plan = make_plan(model, plan.graph, section, ratio, context, broken)


def _require_smaller(record: SurgeryRecord, before: ChannelGraph, after: ChannelGraph) -> None:
    """Raise SurgeryError unless both parameters and MACs are fewer than before."""
    if record.params_after >= record.params_before or after.trace.macs_total >= before.trace.macs_total:
        raise SurgeryError(
            f"the network did not shrink: parameters {record.params_before} -> {record.params_after}, "
            f"MACs {before.trace.macs_total} -> {after.trace.macs_total}",
            where="model",
            fix="raise the ratio, or leave rewrite off",
        )
