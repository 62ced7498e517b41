"""Coordinate steps from the best of the bisection: one group of layers a little narrower, kept only if that passes.

Groups are tried in the order of what the measured curves promise: the least loss for a saving first. A group whose step
fails is left; one whose step passes may be narrowed further. Pure: whether a step passes is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgesafe.prune.allocation import options_of
from edgesafe.records import LayerCurve

__all__ = ["refined", "step_of"]

_STEP = 8  #: a step is an eighth of a group's channels, in whole steps of the widths
_MOST = 0.9  #: no group loses more


def step_of(channels: int, round_to: int) -> int:
    """Channels of one step of a group.

    >>> step_of(64, 8), step_of(16, 8), step_of(64, 1), step_of(4, 1)
    (8, 8, 8, 1)
    """
    return -(-max(1, channels // _STEP) // round_to) * round_to


def refined(
    curves: Sequence[LayerCurve],
    removed: Mapping[str, int],
    round_to: int,
    attempt: Callable[[Mapping[str, int]], bool],
) -> dict[str, int]:
    """Narrow one group after the other.

    Args:
        curves: of all groups.
        removed: channels that are gone from each, by its first layer.
        round_to: channels that stay are a multiple of it.
        attempt: whether the network with so many channels gone passes and is better; what it raises ends the search.

    Returns:
        What is gone in the end.
    """
    now = {curve.layer: removed.get(curve.layer, 0) for curve in curves}
    closed: set[str] = set()
    while True:
        open_ = [(_price(curve, now[curve.layer], round_to), curve) for curve in curves if curve.layer not in closed]
        possible = [(price, curve) for price, curve in open_ if price is not None]
        if not possible:
            return now
        _, curve = min(possible, key=lambda pair: (pair[0] or 0.0, pair[1].layer))
        further = now | {curve.layer: now[curve.layer] + step_of(curve.channels, round_to)}
        if attempt(further):
            now = further
        else:
            closed.add(curve.layer)


def _price(curve: LayerCurve, gone: int, round_to: int) -> float | None:
    """Loss for each part saved of a group's next step; None: there is none."""
    after = gone + step_of(curve.channels, round_to)
    if after > _MOST * curve.channels:
        return None
    read = options_of(curve, (0, gone, after))
    saved = read.saved[2] - read.saved[1]
    return (read.loss[2] - read.loss[1]) / saved if saved > 0 else float("inf")
