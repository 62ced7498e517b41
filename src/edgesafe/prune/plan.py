"""Choosing the channels to remove: the groups in scope, their scores, the choice; and errors where nothing can go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune.allocation import Options, options_of, shared_out
from edgesafe.prune.context import PruneContext
from edgesafe.prune.criteria import NEED_LIGHTING, gather, score_group
from edgesafe.prune.deviations import Deviation, deviations, spots
from edgesafe.prune.select import Choice, Widths, choose_counts, choose_global, choose_local, removable_counts
from edgesafe.recipe.sections import Allocation, CompressSection, Criterion, Method, Scope
from edgesafe.surgery.propagation import Slot
from edgesafe.surgery.units import ChannelGraph, ChannelGroup, Layer

__all__ = ["NothingRemovedError", "Plan", "default_criterion", "make_plan", "reasons_of"]


class NothingRemovedError(SurgeryError):
    """The ratio, rounded and limited, leaves every channel where it is."""


@dataclass(frozen=True)
class Plan:
    """The scope, the groups with their scores, and the chosen units, before anything is removed."""

    scope: Scope
    criterion: Criterion
    widths: Widths
    graph: ChannelGraph
    groups: tuple[ChannelGroup, ...]
    scored: tuple[tuple[ChannelGroup, Tensor], ...]
    choices: tuple[Choice, ...]
    broken: Mapping[ChannelGroup, str]  #: groups whose removal the forward does not survive

    @property
    def needs_lighting(self) -> bool:
        """Whether the scores rest on lit copies of images."""
        return self.criterion in NEED_LIGHTING


def default_criterion(section: CompressSection) -> Criterion:
    """The section's criterion, or its method's own."""
    own = {
        Method.FILTER: Criterion.L1, Method.CHANNEL: Criterion.BN_SCALE, Method.RANDOM: Criterion.RANDOM,
        Method.USN: Criterion.USN_L1,
    }  # fmt: skip
    return section.criterion or own[section.method]


def make_plan(
    model: nn.Module,
    graph: ChannelGraph,
    section: CompressSection,
    ratio: float,
    context: PruneContext,
    broken: Mapping[ChannelGroup, str],
) -> Plan:
    """Decide which channels go.

    Args:
        model: not modified.
        graph: of `model`.
        section: method, scope, criterion, widths.
        ratio: in (0, 1).
        context: seed, rounding, gradient batches, the layers asked for.
        broken: groups that are known not to survive, with the error.

    Raises:
        NothingRemovedError: the ratio, rounded and limited, leaves every channel.
        SurgeryError: no group is in scope, or none has a score; it names the layer and the fix.
    """
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
    comparable = section.allocates is Allocation.GLOBAL
    material = gather(
        model, criterion, context.gradient_batches, seed=context.seed, comparable=comparable, loss=context.loss
    )
    if criterion in NEED_LIGHTING:
        material = replace(material, deviations=_moved(model, graph, groups, criterion, context))
    scored: list[tuple[ChannelGroup, Tensor]] = []
    for group in groups:
        scores = score_group(graph, group, criterion, material)
        if scores is not None:
            scored.append((group, scores))
    if not scored:
        raise SurgeryError(
            f"no removable channel {_UNSEEN[criterion]}",
            where="model",
            fix="use method = filter (weights), or set criterion = l1",
        )
    choices = _chosen(graph, scored, section, ratio, widths, context)
    if not any(choice.removed for choice in choices):
        raise _unchanged(choices, ratio, widths)
    return Plan(scope, criterion, widths, graph, groups, tuple(scored), choices, broken)


def _chosen(
    graph: ChannelGraph, scored: Sequence[tuple[ChannelGroup, Tensor]], section: CompressSection, ratio: float,
    widths: Widths, context: PruneContext,
) -> tuple[Choice, ...]:  # fmt: skip
    """What goes of each group, as the section shares it out."""
    if section.allocates is Allocation.GLOBAL:
        return choose_global(graph, scored, ratio, widths)
    if section.allocates is Allocation.UNIFORM:
        return choose_local(graph, scored, _ratios(graph, scored, section.layers, ratio), widths)
    if context.allocation is None:
        raise SurgeryError(
            f"allocation {section.allocates.value} needs what narrowing each layer alone costs",
            where="compress.allocation", fix='give PruneContext.allocation, or use allocation = "uniform"',
        )  # fmt: skip
    known = {curve.layer: curve for curve in context.allocation.layers}
    stays = Options((0,), (0.0,), (0.0,))
    layers = [
        options_of(known[group.name], removable_counts(graph, group, scores, widths)) if group.name in known else stays
        for group, scores in scored
    ]
    asked = int(ratio * sum(len(scores) for _, scores in scored) + 0.5)
    return choose_counts(graph, scored, shared_out(layers, asked), widths)


def _ratios(
    graph: ChannelGraph, scored: Sequence[tuple[ChannelGroup, Tensor]], given: Mapping[str, float], ratio: float
) -> list[float]:
    """The share of each group: what is given for one of its layers, or the ratio.

    Raises:
        SurgeryError: a layer is not there or not in scope, or two of one group are given.
    """
    ratios: list[float | None] = [None] * len(scored)
    for name, share in given.items():
        out = graph.layer(name).out
        place = next((k for k, (group, _) in enumerate(scored) if out in group.producers), None)
        if place is None:
            why, fix = "no channel of it can be removed in this scope", "leave it out, or set scope"
        elif ratios[place] is not None:
            why, fix = f"it is narrowed together with {scored[place][0].name}", "give one share for both"
        else:
            ratios[place] = share
            continue
        raise SurgeryError(why, where=f"compress.layers: {name}", fix=fix)
    return [ratio if share is None else share for share in ratios]


_UNSEEN = {Criterion.BN_SCALE: "has a BatchNorm whose scale could be ranked"} | dict.fromkeys(
    NEED_LIGHTING,
    "passes a BatchNorm, convolution or linear layer of torch.nn, where its pre-activations could be seen",
)


def _moved(
    model: nn.Module, graph: ChannelGraph, groups: tuple[ChannelGroup, ...], criterion: Criterion, context: PruneContext
) -> dict[Slot, Deviation]:
    """How much lighting moves the groups' channels, by where they are seen."""
    if context.lighting is None:
        raise SurgeryError(
            f"criterion {criterion.value} needs images and lit copies of them", where="compress.criterion",
            fix="give PruneContext.lighting, or use criterion = l1",
        )  # fmt: skip
    return deviations(model, (slot for group in groups for slot in spots(model, graph, group)), context.lighting)


def _asked_for(group: ChannelGroup, graph: ChannelGraph, context: PruneContext) -> bool:
    """Whether `context.only` names one of the group's layers (or nothing)."""
    if context.only is None:
        return True
    wanted = {graph.layer(name).out for name in context.only}
    return bool(wanted & set(group.producers))


def _in_scope(graph: ChannelGraph, scope: Scope, context: PruneContext) -> tuple[ChannelGroup, ...]:
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
                f"a layer of scope paper cannot be narrowed: {reasons_of(layer)}",
                where=name,
                fix="use scope = internal",
            )
    return chosen


def _nothing(graph: ChannelGraph, scope: Scope, *, only: bool) -> SurgeryError:
    """The error to raise when no group is left to prune; `only`: the user named the layers."""
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
        f"no channel can be removed: {reasons_of(blocked)}",
        where=blocked.name,
        fix="rewrite that operation with convolutions, additions and concatenations, or use method = weight",
    )


def _unchanged(choices: tuple[Choice, ...], ratio: float, widths: Widths) -> NothingRemovedError:
    """The error to raise when no unit would be removed, with the setting that prevents it."""
    several = [c for c in choices if len(c.group.units) > 1] or list(choices)
    choice = next((c for c in several if c.note), several[0])
    if len(choice.group.units) == 1:
        fix = "use method = weight, or leave that operation out of the network that is pruned"
        return NothingRemovedError(f"nothing would be removed: {choice.note}", where=choice.group.name, fix=fix)
    cause = choice.note or f"ratio {ratio} of {len(choice.group.units)} channels rounds to none"
    fix = "raise the ratio"
    if "round_to" in cause:
        fix = f"lower round_to (now {widths.round_to}) or raise the ratio"
    elif "min_channels" in cause:
        fix = f"lower min_channels (now {widths.min_channels})"
    return NothingRemovedError(f"nothing would be removed: {cause}", where=choice.group.name, fix=fix)


def reasons_of(layer: Layer) -> str:
    """The reasons of a layer in one clause, the most frequent first."""
    counted = sorted(layer.reasons.items(), key=lambda item: -item[1])
    return "; ".join(f"{count} channels: {reason.text}" for reason, count in counted) or "it has no channels of its own"
