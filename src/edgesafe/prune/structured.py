"""Structured pruning: find the groups, score them, choose, remove, prove, and say what was left alone and why."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune.context import PruneContext, PruneOutcome
from edgesafe.prune.criteria import gather, score_group
from edgesafe.prune.select import (
    Choice,
    Widths,
    choose_global,
    choose_local,
)
from edgesafe.recipe.sections import (
    CompressSection,
    Criterion,
    Method,
    Scope,
)
from edgesafe.records import Declined, Engine, EngineReason, LayerRecord, Proof, SurgeryRecord
from edgesafe.surgery.graph import cut
from edgesafe.surgery.remove import remove
from edgesafe.surgery.units import (
    ChannelGraph,
    Group,
    Layer,
    channel_graph,
    keep_indices,
)
from edgesafe.surgery.verify import (
    ForwardError,
    Surgery,
    evaluate,
    example_batch,
    prove_removed,
)

__all__ = ["GLOBAL_METHODS", "default_criterion", "prune_structured"]

GLOBAL_METHODS = frozenset({Method.CHANNEL})  #: one ranking over the whole network; the others rank layer by layer


@dataclass(frozen=True)
class _Plan:
    """What was decided before anything is cut."""

    scope: Scope
    criterion: Criterion
    widths: Widths
    graph: ChannelGraph
    groups: tuple[Group, ...]
    scored: tuple[tuple[Group, Tensor], ...]
    choices: tuple[Choice, ...]
    broken: Mapping[Group, str]  #: groups whose removal the forward does not survive


def default_criterion(section: CompressSection) -> Criterion:
    """The section's criterion, or its method's own."""
    own = {Method.FILTER: Criterion.L1, Method.CHANNEL: Criterion.BN_SCALE, Method.RANDOM: Criterion.RANDOM}
    return section.criterion or own[section.method]


def prune_structured(model: nn.Module, section: CompressSection, ratio: float, context: PruneContext) -> PruneOutcome:
    """Remove channels physically (see `prune.prune`)."""
    inputs = context.inputs()
    base = copy.deepcopy(model)  # a forward may change its own module
    before = channel_graph(base, inputs)
    rewrites = _rewrite(base, context, inputs) if section.rewrite else ()
    graph = channel_graph(base, inputs) if rewrites else before
    plan = _plan(base, graph, section, ratio, context, {})
    try:
        pruned, proof, declined = _operate(base, plan, inputs, engine=context.engine)
    except ForwardError as error:
        broken = _broken_groups(base, graph, plan, inputs)
        if not broken:
            raise
        if len(broken) == len(plan.groups):
            name = next(iter(broken)).name
            raise SurgeryError(error.what, where=name, fix=error.fix) from error
        plan = _plan(base, graph, section, ratio, context, broken)
        pruned, proof, declined = _operate(base, plan, inputs, engine=context.engine)
    after = channel_graph(pruned, inputs)
    record = _record(model, pruned, plan, section, ratio, proof)
    _require_smaller(record, before, after)
    record = record.model_copy(
        update={
            "rewrites": rewrites,
            "macs_before": before.trace.macs_total,
            "macs_after": after.trace.macs_total,
            "engine": Engine.TORCH_PRUNING if declined is None else Engine.SLICES,
            "engine_reason": declined,
            "notes": (*_rewrite_notes(pruned, base, model, rewrites), *record.notes),
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


# ------------------------------------------------------------------------------------------------------ deciding


def _plan(
    model: nn.Module,
    graph: ChannelGraph,
    section: CompressSection,
    ratio: float,
    context: PruneContext,
    broken: Mapping[Group, str],
) -> _Plan:
    scope = section.scope or (Scope.INTERNAL if graph.residual else Scope.ALL)
    criterion = default_criterion(section)
    round_to = section.round_to if section.round_to is not None else context.round_to
    widths = Widths(round_to, section.min_channels)
    groups = tuple(g for g in _in_scope(graph, scope, context) if g not in broken and _asked_for(g, graph, context))
    if scope is Scope.ALL and graph.padded and not section.rewrite:
        raise SurgeryError(
            "its channels meet zero-padded shortcut channels (option A), so not every layer can be narrowed",
            where=graph.padded[0],
            fix="set rewrite = true (exact 1x1 convolutions instead), or scope = internal",
        )
    if not groups:
        raise _nothing(graph, scope, only=context.only is not None)
    globally = section.method in GLOBAL_METHODS if section.ranking is None else section.ranking == "global"
    material = gather(model, criterion, context.gradient_batches, seed=context.seed, comparable=globally)
    scored: list[tuple[Group, Tensor]] = []
    for group in groups:
        scores = score_group(graph, group, criterion, material)
        if scores is not None:
            scored.append((group, scores))
    if not scored:
        raise SurgeryError(
            "no removable channel has a BatchNorm whose scale could be ranked",
            where="model",
            fix="use method = filter (weights), or set criterion = l1",
        )
    choose = choose_global if globally else choose_local
    choices = choose(graph, scored, ratio, widths)
    if not any(choice.removed for choice in choices):
        raise _unchanged(choices, ratio, widths)
    return _Plan(scope, criterion, widths, graph, groups, tuple(scored), choices, broken)


def _asked_for(group: Group, graph: ChannelGraph, context: PruneContext) -> bool:
    """Whether `context.only` names one of the group's layers (or nothing)."""
    if context.only is None:
        return True
    wanted = {graph.layer(name).out for name in context.only}
    return bool(wanted & set(group.producers))


def _in_scope(graph: ChannelGraph, scope: Scope, context: PruneContext) -> tuple[Group, ...]:
    if scope is Scope.ALL:
        return graph.groups
    if scope is Scope.INTERNAL:
        return tuple(group for group in graph.groups if group.internal)
    if not context.paper_layers:
        raise SurgeryError(
            "the benchmark study names no layers for this network", where="compress.scope", fix="use internal or all"
        )
    wanted = {graph.layer(name).weight for name in context.paper_layers}
    chosen = tuple(g for g in graph.groups if any(slot.tensor in wanted for slot in g.producers))
    reached = {slot.tensor for group in chosen for slot in group.producers}
    for name in context.paper_layers:
        layer = graph.layer(name)
        if layer.weight not in reached:
            raise SurgeryError(
                f"a layer of scope paper cannot be narrowed: {_reasons(layer)}", where=name, fix="use scope = internal"
            )
    return chosen


def _nothing(graph: ChannelGraph, scope: Scope, *, only: bool) -> SurgeryError:
    """Why no group is left."""
    if graph.groups:
        of = " of the layers asked for" if only else ""
        return SurgeryError(
            f"scope {scope.value}{of} holds no removable channels: additions or concatenations couple every layer",
            where="compress.scope",
            fix="set scope = all",
        )
    if graph.trace.computed:
        return SurgeryError(
            "no channel can be removed: a convolution uses a computed weight",
            where=next(iter(graph.trace.computed)),
            fix="store the weight as the layer's parameter (fold normalisation or parametrisation first)",
        )
    blocked = next((layer for layer in graph.layers if not layer.classifier and layer.reasons), None)
    if blocked is None:
        return SurgeryError(
            "every layer's channels are the network's outputs", where=graph.layers[0].name, fix="give a deeper network"
        )
    return SurgeryError(
        f"no channel can be removed: {_reasons(blocked)}",
        where=blocked.name,
        fix="rewrite that operation with convolutions, additions and concatenations, or use method = weight",
    )


def _unchanged(choices: tuple[Choice, ...], ratio: float, widths: Widths) -> SurgeryError:
    """Why every choice is empty."""
    choice = next((c for c in choices if c.note), choices[0])
    cause = choice.note or f"ratio {ratio} of {len(choice.group.units)} channels rounds to none"
    fix = "raise the ratio"
    if "round_to" in cause:
        fix = f"lower round_to (now {widths.round_to}) or raise the ratio"
    elif "min_channels" in cause:
        fix = f"lower min_channels (now {widths.min_channels})"
    return SurgeryError(f"nothing would be removed: {cause}", where=choice.group.name, fix=fix)


def _reasons(layer: Layer) -> str:
    """The reasons of a layer in one clause, the most frequent first."""
    counted = sorted(layer.reasons.items(), key=lambda item: -item[1])
    return "; ".join(f"{count} channels: {reason.text}" for reason, count in counted) or "it has no channels of its own"


# -------------------------------------------------------------------------------------------------------- cutting


def _operate(
    model: nn.Module, plan: _Plan, inputs: tuple[Tensor, ...], *, engine: bool
) -> tuple[nn.Module, Proof, EngineReason | None]:
    """The pruned copy, its proof, and why torch-pruning's cut was not kept (None: it was)."""
    removals = tuple((choice.group, choice.units) for choice in plan.choices if choice.removed)
    keep = keep_indices(plan.graph, tuple(unit for _, units in removals for unit in units))
    if engine:
        pruned, declined = cut(model, inputs, plan.graph, removals, keep)
    else:
        pruned, declined = copy.deepcopy(model), EngineReason(cause=Declined.NOT_ASKED)
        remove(pruned, keep)
    surgery = Surgery(model, pruned, plan.graph, keep, inputs, plan.widths.min_channels)
    return pruned, prove_removed(surgery), declined


def _broken_groups(model: nn.Module, graph: ChannelGraph, plan: _Plan, inputs: tuple[Tensor, ...]) -> dict[Group, str]:
    """Groups of which not even one unit can be removed, each with the error it causes."""
    broken = {}
    for choice in plan.choices:
        if not choice.removed:
            continue
        keep = keep_indices(graph, choice.units)
        pruned = copy.deepcopy(model)
        remove(pruned, keep)
        try:
            prove_removed(Surgery(model, pruned, graph, keep, inputs, 1))
        except ForwardError as error:
            broken[choice.group] = error.what
    return broken


def _require_smaller(record: SurgeryRecord, before: ChannelGraph, after: ChannelGraph) -> None:
    """Parameters and MACs must have fallen."""
    if record.params_after >= record.params_before or after.trace.macs_total >= before.trace.macs_total:
        raise SurgeryError(
            f"the network did not shrink: parameters {record.params_before} -> {record.params_after}, "
            f"MACs {before.trace.macs_total} -> {after.trace.macs_total}",
            where="model",
            fix="raise the ratio, or leave rewrite off",
        )


# ------------------------------------------------------------------------------------------------------ recording


def _record(
    model: nn.Module, pruned: nn.Module, plan: _Plan, section: CompressSection, ratio: float, proof: Proof
) -> SurgeryRecord:
    params = sum(p.numel() for p in model.parameters())
    convs = [m.weight for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    zeros = sum(int((w == 0).sum()) for w in convs)
    return SurgeryRecord(
        method=section.method.value,
        ratio=ratio,
        criterion=plan.criterion.value,
        scope=plan.scope.value,
        round_to=plan.widths.round_to,
        engine=Engine.SLICES,
        layers=tuple(_layer_record(layer, plan, pruned) for layer in plan.graph.layers),
        params_before=params,
        params_after=sum(p.numel() for p in pruned.parameters()),
        macs_before=plan.graph.trace.macs_total,
        macs_after=0,
        nonzero_params=sum(int(torch.count_nonzero(p)) for p in pruned.parameters()),
        sparsity=zeros / max(1, sum(w.numel() for w in convs)),
        proof=proof,
        notes=_notes(plan),
    )


def _notes(plan: _Plan) -> tuple[str, ...]:
    """What a reader should know besides the layer table."""
    notes = [f"{group.name} was left alone: {cause}" for group, cause in plan.broken.items()]
    scores = torch.cat([scores for _, scores in plan.scored])
    if plan.criterion is Criterion.BN_SCALE and bool(scores.min() == scores.max()):
        notes.append("all BatchNorm scales are equal, so the ranking is by position only: train with the penalty first")
    return tuple(notes)


def _layer_record(layer: Layer, plan: _Plan, pruned: nn.Module) -> LayerRecord:
    slots = plan.graph.trace.slots
    after = dict(pruned.named_parameters())[layer.weight]
    groups = plan.graph.trace.groups.get(layer.weight, 1)
    out_before, out_after = len(slots[layer.out]), after.shape[layer.out.dim]
    per_group = after.shape[1 - layer.out.dim]
    in_after = per_group if groups == 1 else per_group * (groups * out_after // out_before)
    in_before = len(slots[layer.into]) if layer.into is not None else per_group * groups
    taps = after.numel() // (out_after * per_group)
    path, _, attribute = layer.weight.rpartition(".")
    bias = attribute == "weight" and isinstance(getattr(pruned.get_submodule(path), "bias", None), Tensor)
    per_out = taps * (in_before if groups == 1 else per_group)
    choices = [c for c in plan.choices if layer.out in c.group.producers]
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        out_before=out_before,
        out_after=out_after,
        in_before=in_before,
        in_after=in_after,
        params_before=out_before * (per_out + bias),
        params_after=after.numel() + out_after * bias,
        sparsity=float((after == 0).double().mean()),
        criterion=_statistics(choices),
        note=_note(layer, plan, choices) if out_after == out_before else "; ".join(c.note for c in choices if c.note),
    )


def _statistics(choices: list[Choice]) -> dict[str, float]:
    if not choices:
        return {}
    scores = torch.cat([choice.scores for choice in choices])
    return {
        "min": float(scores.min()),
        "median": float(scores.median()),
        "max": float(scores.max()),
        "threshold": choices[0].threshold,
    }


def _note(layer: Layer, plan: _Plan, choices: list[Choice]) -> str:
    """Why a layer keeps all its output channels."""
    if layer.classifier:
        return "classifier: its channels are the network's outputs"
    own = [group for group in plan.graph.groups if layer.out in group.producers]
    for group in own:
        if group in plan.broken:
            return f"left alone: {plan.broken[group]}"
    if choices:
        return next((c.note for c in choices if c.note), "none of its channels is among the least important")
    if not own:
        return _reasons(layer)
    if not any(group in plan.groups for group in own):
        why = " (an addition or concatenation couples it)" if plan.scope is Scope.INTERNAL else ""
        more = f"; {_reasons(layer)}" if layer.reasons else ""
        return f"outside scope {plan.scope.value}{why}{more}"
    return f"no score by {plan.criterion.value} (no BatchNorm on its channels)"
