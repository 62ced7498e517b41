"""How many channels each layer loses where that is decided by what narrowing each layer alone costs and saves.

Losses of layers are taken to add up. Channels go in the order of loss per saving, along the lower convex hull of each
layer's curve, until as many are gone as were asked for. Among choices on the hulls, none saves as much for less loss
(Everett's generalised Lagrange multipliers, Operations Research 11, 1963). What one number of channels removes, a
larger one removes, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from edgesafe.records import LayerCurve

__all__ = ["Options", "options_of", "shared_out"]


@dataclass(frozen=True)
class Options:
    """How many channels of one layer may go, from 0 on, and what is expected of each number.

    Attributes:
        removed: rising from 0.
        loss: not falling, from 0.
        saved: not falling, from 0.
    """

    removed: tuple[int, ...]
    loss: tuple[float, ...]
    saved: tuple[float, ...]


def options_of(curve: LayerCurve, possible: Sequence[int]) -> Options:
    """The numbers of channels that may go, with loss and saving read off a curve.

    Between what was tried values are interpolated, beyond the last one the last slope goes on. A narrower network that
    seemed better, or slower, by noise counts as no worse and no slower.

    Args:
        curve: what was tried.
        possible: numbers of channels that widths allow to remove, rising from 0.
    """
    places = (0, *(probe.removed for probe in curve.probes))
    losses = tuple(accumulate((0.0, *(probe.loss for probe in curve.probes)), max))
    savings = tuple(accumulate((0.0, *(probe.saved for probe in curve.probes)), max))
    return Options(
        tuple(possible),
        tuple(_at(count, places, losses) for count in possible),
        tuple(_at(count, places, savings) for count in possible),
    )


def _at(count: int, places: Sequence[int], values: Sequence[float]) -> float:
    """The value at a place between known ones, or beyond the last."""
    right = next((k for k, place in enumerate(places) if place >= count), len(places) - 1)
    if right == 0:
        return values[0]
    (start, end), (low, high) = places[right - 1 : right + 1], values[right - 1 : right + 1]
    return low + (high - low) * (count - start) / (end - start)


def shared_out(layers: Sequence[Options], asked: int) -> tuple[int, ...]:
    """How many channels each layer loses, at most `asked` together.

    Args:
        layers: in the order of the network.
        asked: channels that should go.
    """
    moves = sorted(
        (price, layer, end - start)
        for layer, options in enumerate(layers)
        for price, (start, end) in zip(_prices(options), pairwise(options.removed), strict=True)
    )
    gone = [0] * len(layers)
    for _, layer, count in moves:
        if sum(gone) + count > asked:
            break
        gone[layer] += count
    return tuple(gone)


def _prices(options: Options) -> list[float]:
    """Loss per saving of each step between neighbouring options, on the lower convex hull: not falling."""
    prices: list[float] = []
    start = 0
    while start < len(options.removed) - 1:
        ends = range(start + 1, len(options.removed))
        price, end = min((_price(options, start, end), -end) for end in ends)  # of equal ones the farthest
        prices += [price] * (-end - start)
        start = -end
    return prices


def _price(options: Options, start: int, end: int) -> float:
    loss, saved = options.loss[end] - options.loss[start], options.saved[end] - options.saved[start]
    return loss / saved if saved > 0 else float("inf")
