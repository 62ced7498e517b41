"""How far lighting moves the channels before and after pruning, as a figure: after figure 3 of Hu et al.

Only for studies that rank channels by it. The deviation is a reconstruction (docs/robust.md), and so is the figure: of
that paper no more than the caption could be read. Both networks are looked at on the same validation images and the
same lightings, which no ranking has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgesafe.display import clean
from edgesafe.records import DeviationRecord
from edgesafe.report import svg
from edgesafe.report.parts import FigurePart, Heading, TablePart, Td
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["deviation_figure"]

_MOST = 12  # panels of single variants
_LEAST = 1e-6  # deviations below are drawn here: constant channels have none
_STEPS = np.linspace(0.0, 100.0, 51)
_QUANTILES = (10.0, 25.0, 50.0, 75.0, 90.0)
_ENDS = (_QUANTILES[0], _QUANTILES[-1])


@dataclass(frozen=True)
class _Pair:
    """A pruned group's first seed, and the network that it was pruned from."""

    group: Group
    before: DeviationRecord
    after: DeviationRecord


def deviation_figure(view: View, groups: Sequence[Group], series_of: Sequence[str]) -> FigurePart | None:
    """The figure, or None: the study does not rank by lighting, or no pruned variant has a baseline to stand beside."""
    pairs = [pair for group in groups if (pair := _pair(view, group)) is not None]
    if not pairs:
        return None
    colours = [svg.series(series_of.index(p.group.series) if p.group.series in series_of else 0) for p in pairs]
    panels = [_overview(pairs[: svg.SERIES_COLOURS - 1])]
    drawn = pairs[:_MOST]
    tails = [np.percentile(v, _ENDS) for p in drawn for one in (p.before, p.after) for v in _by_layer(one).values()]
    panels += [_panel(f"moved-{k + 1}", pair, colours[k], _limits(tails)) for k, pair in enumerate(drawn)]
    seen = pairs[0].before.calibration
    note = "Of several seeds the lowest is drawn."
    if len(pairs) > _MOST:
        note += f" The first {_MOST} variants are drawn; the table has all."
    return FigurePart(
        "fig-deviation",
        "How far lighting moves the channels, before and after pruning",
        "The relative deviation of a channel: the mean squared change of its pre-activations under another lighting, "
        f"over their variance ({clean(seen.light)}; {seen.images:,} validation images, {seen.draws} lit copies of "
        "each). Large is bad: such a channel sees the light more than the image. First panel: the share of all "
        "channels that are moved by no more. The others, layer by layer: grey before, coloured after, a thin line from "
        "the 10th to the 90th percentile of the layer's channels, a thick one between the quartiles, a dot at the "
        "median. A reconstruction of the paper's measure.",
        tuple(panels),
        _table(pairs),
        note,
    )


def _pair(view: View, group: Group) -> _Pair | None:
    after = group.first.deviation
    baseline = view.baseline_of(group.first)
    if group.is_baseline or after is None or baseline is None or baseline.deviation is None:
        return None
    same = baseline.deviation.calibration == after.calibration  # else they are not comparable
    return _Pair(group, baseline.deviation, after) if same else None


def _values(record: DeviationRecord) -> NDArray[np.float64]:
    """Of all channels, float64 (channels,)."""
    return np.array([value for layer in record.layers for value in layer.relative], np.float64)


def _logarithmic(ax: Axes, limits: tuple[float, float]) -> None:
    """A logarithmic axis with these ends, and ticks at 1, 2 and 5 unless it spans many decades."""
    from matplotlib.ticker import LogLocator

    ax.set_yscale("log")
    ax.set_ylim(*limits)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if limits[1] / limits[0] < 300 else (1,)))
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _limits(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The ends of the axis, 10 % beyond what is drawn."""
    drawn = [np.maximum(one, _LEAST) for one in values]
    return 0.9 * min(float(one.min()) for one in drawn), 1.1 * max(float(one.max()) for one in drawn)


def _overview(pairs: Sequence[_Pair]) -> Panel:
    """Quantiles over all channels of a network: the baseline's, and those of each pruned one."""
    lines = [("before", svg.INK, _values(pairs[0].before))]
    lines += [(clean(pair.group.label), svg.series(k), _values(pair.after)) for k, pair in enumerate(pairs)]
    with svg.frame(420, 270) as figure:
        ax = svg.axes(figure, (52, 40, 124, 34))
        _logarithmic(ax, _limits([values for _, _, values in lines]))
        ends = []
        for label, colour, values in lines:
            heights = np.maximum(np.percentile(values, _STEPS), _LEAST)
            ax.plot(_STEPS, heights, color=colour, linewidth=2.0)
            ends.append((label, colour, float(heights[-1])))
        ax.set_xlim(0, 100)
        ax.set_xlabel("share of all channels, %", color=svg.MUTED, fontsize=12)
        low, high = np.log10(ax.get_ylim())
        gap = 15 / (270 - 74) * (high - low)
        places = svg.spread_labels([float(np.log10(end)) for _, _, end in ends], gap)
        for (label, colour, end), place in zip(ends, places, strict=True):
            svg.end_label(ax, label, colour, (100, end), (104, 10**place))
        svg.heading(ax, "All channels: relative deviation", 48 / 244, 1.08)
        said = " ".join(f"{label}: median {np.median(values):.2g}." for label, _, values in lines)
        return svg.draw(figure, "moved-0", "Relative deviation of all channels", said)


def _by_layer(record: DeviationRecord) -> dict[str, NDArray[np.float64]]:
    """Of the channels of each layer, float64 (channels,)."""
    return {layer.name: np.array(layer.relative, np.float64) for layer in record.layers}


def _panel(name: str, pair: _Pair, colour: str, limits: tuple[float, float]) -> Panel:
    """Layer by layer, before and after, on an axis that all panels share."""
    before, after = _by_layer(pair.before), _by_layer(pair.after)
    names = [layer for layer in before if layer in after]
    with svg.frame(400, 230) as figure:
        ax = svg.axes(figure, (52, 38, 14, 34))
        _logarithmic(ax, limits)
        for values, shade, shift in ((before, svg.MUTED, -0.17), (after, colour, 0.17)):
            _bars(ax, [values[layer] for layer in names], shade, shift)
        ax.set_xlim(-0.6, len(names) - 0.4)
        step = max(1, -(-len(names) // 10))
        ticks = list(range(0, len(names), step))
        ax.set_xticks(ticks, [str(tick + 1) for tick in ticks])
        ax.set_xlabel("layer", color=svg.MUTED, fontsize=12)
        svg.heading(ax, f"{clean(pair.group.label)}: relative deviation", 48 / 334, 1.09)
        medians = [np.median(_values(one)) for one in (pair.before, pair.after)]
        text = f"Median of all channels {medians[0]:.2g} before, {medians[1]:.2g} after; {len(names)} layers."
        return svg.draw(figure, name, f"Relative deviation by layer, {pair.group.label}", text)


def _bars(ax: Axes, layers: Sequence[NDArray[np.float64]], colour: str, shift: float) -> None:
    """Percentiles of each layer's channels as a thin line, a thick one and a dot, a little aside of its number."""
    quantiles = np.maximum(np.array([np.percentile(values, _QUANTILES) for values in layers]), _LEAST)
    for (low, high), width in (((0, 4), 1.2), ((1, 3), 4.0)):
        xs = [v for k in range(len(layers)) for v in (k + shift, k + shift, np.nan)]
        ys = [v for row in quantiles for v in (row[low], row[high], np.nan)]
        ax.plot(xs, ys, color=colour, linewidth=width, solid_capstyle="butt")
    places = np.arange(len(layers)) + shift
    ax.plot(places, quantiles[:, 2], color=colour, marker="o", markersize=7, markeredgewidth=0, linestyle="")


def _table(pairs: Sequence[_Pair]) -> TablePart:
    """Channels, median, mean and 90th percentile of all channels of each network."""
    heads = ("Variant", "Channels", "Median", "Mean", "90th percentile")

    def row(label: str, values: NDArray[np.float64]) -> tuple[Td, ...]:
        numbers = (np.median(values), values.mean(), np.percentile(values, 90))
        return (Td(label), Td(f"{len(values):,}"), *(Td(f"{number:.3g}") for number in numbers))

    rows = [row("before", _values(pairs[0].before))]
    rows += [row(clean(pair.group.label), _values(pair.after)) for pair in pairs]
    return TablePart("Relative deviation of all channels", tuple(Heading(h) for h in heads), tuple(rows))
