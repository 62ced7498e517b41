"""Which units go: ranking within a layer or over the whole network, minimum widths, rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgesafe.surgery.units import ChannelGraph, ChannelGroup, ChannelUnit

__all__ = [
    "MAX_REMOVED",
    "Choice",
    "Widths",
    "choose_counts",
    "choose_global",
    "choose_local",
    "kept_units",
    "removable_counts",
]

MAX_REMOVED = 0.9  #: no layer loses more than this share of its channels in one surgery


@dataclass(frozen=True)
class Widths:
    """The least width of a layer, and the number that its width is a multiple of.

    Attributes:
        round_to: the widest producing layer of a group keeps a multiple of this many channels (rounded up), or all.
        min_channels: no layer keeps fewer.
    """

    round_to: int = 1
    min_channels: int = 1


@dataclass(frozen=True)
class Choice:
    """The units of one group that are to be removed, by their scores.

    Attributes:
        group: the group.
        scores: float64 (units,).
        removed: positions of the units that go, ascending.
        threshold: the lowest score that was asked to stay.
        note: why less than asked was removed, or "".
    """

    group: ChannelGroup
    scores: Tensor
    removed: tuple[int, ...]
    threshold: float
    note: str

    @property
    def units(self) -> tuple[ChannelUnit, ...]:
        """The units to remove, in the group's order."""
        return tuple(self.group.units[i] for i in self.removed)


def choose_local(
    graph: ChannelGraph, scored: Sequence[tuple[ChannelGroup, Tensor]], ratios: Sequence[float], widths: Widths
) -> tuple[Choice, ...]:
    """In each group, remove its share of units with the lowest scores (half a unit is rounded up)."""
    counts = [int(ratio * len(scores) + 0.5) for ratio, (_, scores) in zip(ratios, scored, strict=True)]
    return choose_counts(graph, scored, counts, widths)


def choose_counts(
    graph: ChannelGraph, scored: Sequence[tuple[ChannelGroup, Tensor]], counts: Sequence[int], widths: Widths
) -> tuple[Choice, ...]:
    """In each group, remove so many units, those with the lowest scores."""
    return tuple(
        _choice(graph, group, scores, count, widths) for (group, scores), count in zip(scored, counts, strict=True)
    )


def removable_counts(graph: ChannelGraph, group: ChannelGroup, scores: Tensor, widths: Widths) -> tuple[int, ...]:
    """All numbers of a group's units that may go by their scores under the widths, rising from 0."""
    best = torch.argsort(-scores, stable=True).tolist()
    counts: list[int] = []
    wanted = 0
    while wanted <= len(best):
        kept, _ = kept_units(graph, group, best, wanted, widths)
        counts.append(len(best) - kept)
        wanted = kept + 1
    return tuple(reversed(counts))


def choose_global(
    graph: ChannelGraph, scored: Sequence[tuple[ChannelGroup, Tensor]], ratio: float, widths: Widths
) -> tuple[Choice, ...]:
    """Remove the share `ratio` of all units with the lowest scores: one threshold for the whole network.

    Ties are broken by the order of the layers, then of the channels. Minimum widths are kept layer by layer, so less
    than `ratio` may go.
    """
    flat = torch.cat([scores for _, scores in scored])
    count = int(ratio * flat.numel() + 0.5)
    order = torch.argsort(flat, stable=True)[:count]
    owner = torch.cat([torch.full((len(scores),), i) for i, (_, scores) in enumerate(scored)])
    lost = torch.bincount(owner[order], minlength=len(scored)).tolist()
    return tuple(
        _choice(graph, group, scores, int(wanted), widths) for (group, scores), wanted in zip(scored, lost, strict=True)
    )


def _choice(graph: ChannelGraph, group: ChannelGroup, scores: Tensor, wanted: int, widths: Widths) -> Choice:
    """The lowest `wanted` scores go, as far as the widths allow."""
    best = torch.argsort(-scores, stable=True).tolist()
    kept, cause = kept_units(graph, group, best, len(best) - wanted, widths)
    removed = tuple(sorted(best[kept:]))
    threshold = float(scores[best[kept - 1]])
    note = f"{cause} keeps {kept} of {len(best)} removable channel groups" if cause else ""
    if len(best) == 1:
        tie = group.units[0].tie
        note = f"its channels can only go together{f' ({tie})' if tie else ''}, and then none would be left"
    return Choice(group, scores, removed, threshold, note)


def kept_units(
    graph: ChannelGraph, group: ChannelGroup, best: Sequence[int], wanted: int, widths: Widths
) -> tuple[int, str]:
    """The smallest number of units, at least `wanted`, that satisfies the widths; monotone in `wanted`.

    Args:
        graph: holds the group.
        group: whose units.
        best: positions of the units, most important first.
        wanted: units asked to stay.
        widths: the constraints.

    Returns:
        The number, and which constraint raised it ("" if none).
    """
    sizes = {slot: len(graph.trace.slots[slot]) for slot in group.producers}
    total = {slot: sum(unit.width(slot) for unit in group.units) for slot in group.producers}
    widest = max(group.producers, key=lambda slot: sizes[slot])
    floor = max(1, -(-len(best) * round((1 - MAX_REMOVED) * 100) // 100))
    cause = "" if wanted >= floor else f"the limit of {MAX_REMOVED:.0%} per layer"
    kept = max(wanted, floor)
    while kept < len(best):
        width = {
            slot: sizes[slot] - total[slot] + sum(group.units[i].width(slot) for i in best[:kept])
            for slot in group.producers
        }
        if any(w < min(widths.min_channels, sizes[slot]) for slot, w in width.items()):
            cause = f"min_channels = {widths.min_channels}"
        elif width[widest] % widths.round_to:
            cause = f"round_to = {widths.round_to}"
        else:
            break
        kept += 1
    return kept, cause
