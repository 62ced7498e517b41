"""The record of a structured surgery: each layer before and after, and why it stayed as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgesafe.prune.plan import Plan, reasons_of
from edgesafe.prune.select import Choice
from edgesafe.recipe.sections import CompressSection, Criterion, Scope
from edgesafe.records import Engine, LayerRecord, Proof, SurgeryRecord
from edgesafe.surgery.remove import tensors
from edgesafe.surgery.units import Layer

__all__ = ["record_of"]

_WORTH_SAYING = 0.01  #: of the MACs, in layers that cannot be narrowed for one reason


def record_of(
    model: nn.Module, pruned: nn.Module, plan: Plan, section: CompressSection, ratio: float, proof: Proof
) -> SurgeryRecord:
    """What a surgery did, layer by layer; engine, rewrites and the MACs after it are filled in by the caller."""
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
        layers=(*(_layer_record(layer, plan, pruned) for layer in plan.graph.layers), *_computed_layers(model, plan)),
        params_before=params,
        params_after=sum(p.numel() for p in pruned.parameters()),
        macs_before=plan.graph.trace.macs_total,
        macs_after=0,
        nonzero_params=sum(int(torch.count_nonzero(p)) for p in pruned.parameters()),
        sparsity=zeros / max(1, sum(w.numel() for w in convs)),
        proof=proof,
        notes=_notes(plan),
    )


def _notes(plan: Plan) -> tuple[str, ...]:
    """What a reader should know besides the layer table."""
    notes = [f"{group.name} was left alone: {cause}" for group, cause in plan.broken.items()]
    traced = plan.graph.trace
    if traced.computed:
        share = sum(layer.macs for layer in traced.computed.values()) / traced.macs_total
        if share >= _WORTH_SAYING:
            notes.append(
                f"layers with {share:.0%} of the MACs compute their weight in the forward "
                f"({next(iter(traced.computed))}, …) and were left alone: fold it into the parameter first"
            )
    scores = torch.cat([scores for _, scores in plan.scored])
    if plan.criterion is Criterion.BN_SCALE and bool(scores.min() == scores.max()):
        notes.append("all BatchNorm scales are equal, so the ranking is by position only: train with the penalty first")
    return tuple(notes)


def _computed_layers(model: nn.Module, plan: Plan) -> tuple[LayerRecord, ...]:
    """Layers whose weight the forward computes (weight standardisation, parametrisations): their channels stay."""
    modules = dict(model.named_modules())
    return tuple(
        LayerRecord(
            name=name,
            kind=type(modules[name]).__name__ if name in modules else "computed",
            out_before=layer.out,
            out_after=layer.out,
            in_before=layer.into,
            in_after=layer.into,
            params_before=0,
            params_after=0,
            note="left alone: its weight is computed in the forward, not a parameter",
        )
        for name, layer in plan.graph.trace.computed.items()
    )


def _layer_record(layer: Layer, plan: Plan, pruned: nn.Module) -> LayerRecord:
    slots = plan.graph.trace.slots
    after = tensors(pruned)[layer.weight]
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


def _note(layer: Layer, plan: Plan, choices: list[Choice]) -> str:
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
        return reasons_of(layer)
    if not any(group in plan.groups for group in own):
        why = " (an addition or concatenation couples it)" if plan.scope is Scope.INTERNAL else ""
        more = f"; {reasons_of(layer)}" if layer.reasons else ""
        return f"outside scope {plan.scope.value}{why}{more}"
    missing = "no BatchNorm on its channels" if plan.criterion is Criterion.BN_SCALE else "its channels cannot be seen"
    return f"no score by {plan.criterion.value} ({missing})"
