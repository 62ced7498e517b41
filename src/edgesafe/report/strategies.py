"""What each variant keeps certified, and what it costs to certify: after figure 4 of Hu et al. (arXiv 2510.00083)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesafe.display import clean, number
from edgesafe.records import Unit
from edgesafe.report import svg
from edgesafe.report.parts import FigurePart, Heading, TablePart, Td
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group, Value, View
from edgesafe.report.words import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["any_certified", "strategies_figure"]

_MOST = 16  # variants
_ROW = 22  # px
_NONE = Td("", kind="absent")
_TIMED = "CPU time of certifying one image on one thread, with its interval; it depends on the machine."


@dataclass(frozen=True)
class _Row:
    """A variant under a set."""

    label: str
    colour: str
    kept: Value
    time: Value | None


def strategies_figure(view: View, groups: Sequence[Group], ids: Sequence[str]) -> FigurePart | None:
    """Certified keypoints (of classifiers: images), and CPU time where it was measured, a panel per set; or None."""
    points = any_certified(view, groups, ids, "certified_points")
    panels: list[Panel] = []
    table: list[tuple[Td, ...]] = []
    for name in ids:
        of_points = any_certified(view, groups, (name,), "certified_points")
        rows = _rows(view, groups, name, "certified_points" if of_points else "certified_accuracy")
        if len(rows) < 2:
            continue
        what = "keypoints" if of_points else "images"
        panels.append(_panel(f"strategy-{len(panels)}", name, what, rows))
        table += [(Td(clean(row.label)), Td(name), _td(row.kept), _td(row.time)) for row in rows]
    if not panels:
        return None
    timed = any_certified(view, groups, ids, "certify.cpu_ms")
    heads = [Heading("Variant"), Heading("Set"), Heading("Certified", "%"), Heading("CPU time of an image", "ms")]
    columns = 4 if timed else 3
    what = "keypoints that are right on every image of a set" if points else "images that stay right on a whole set"
    texts = [
        f"The share of {what}, with its interval.",
        *(("Right: " + _TIMED,) if timed else ()),
        "Sets that begin with line. are of the real-valued function; all others were run image by image.",
    ]
    return FigurePart(
        "fig-strategies",
        f"Certified {'keypoints' if points else 'images'}{', and what certifying costs' if timed else ''}",
        " ".join(texts),
        tuple(panels),
        TablePart("Certified shares", tuple(heads[:columns]), tuple(row[:columns] for row in table)),
        "" if len(groups) <= _MOST else f"The first {_MOST} variants.",
    )


def any_certified(view: View, groups: Sequence[Group], ids: Sequence[str], metric: str) -> bool:
    """Whether any variant has a metric, such as "certified_points", of any of these sets."""
    return any(group.value(view, f"{metric}.{name}") is not None for name in ids for group in groups)


def _td(value: Value | None) -> Td:
    return _NONE if value is None else Td(number(value.estimate, value.unit), estimate(value))


def _rows(view: View, groups: Sequence[Group], name: str, metric: str) -> list[_Row]:
    series = list(dict.fromkeys(group.series for group in groups if not group.is_baseline))
    rows = []
    for group in groups[:_MOST]:
        kept = group.value(view, f"{metric}.{name}")
        if kept is not None:
            colour = svg.INK if group.is_baseline else svg.series(series.index(group.series))
            rows.append(_Row(clean(group.label), colour, kept, group.value(view, f"certify.cpu_ms.{name}")))
    return rows


def _panel(panel: str, name: str, what: str, rows: Sequence[_Row]) -> Panel:
    """A line per variant: the share on the left, the time on the right."""
    height = 78 + _ROW * len(rows)
    timed = any(row.time is not None for row in rows)
    with svg.frame(460, height) as figure:
        left = svg.axes(figure, (124, 40, 170 if timed else 20, 34), grid="x")
        _dots(left, [(row.colour, row.kept) for row in rows], 100.0)
        left.set_xlim(left=0.0)
        left.set_yticks(range(len(rows)), [row.label for row in rows])
        left.set_xlabel(f"certified {what}, %", color=svg.MUTED, fontsize=12)
        svg.heading(left, name, 120 / (460 - 124 - (170 if timed else 20)), 1.0 + 12 / (height - 74))
        if timed:
            right = svg.axes(figure, (310, 40, 14, 34), grid="x")
            _dots(right, [(row.colour, row.time) for row in rows], 1.0)
            right.set_xlim(left=0.0)
            right.set_yticks([])
            right.set_xlabel("CPU time, ms", color=svg.MUTED, fontsize=12)
        said = " ".join(f"{row.label}: {number(row.kept.estimate, Unit.FRACTION)} %{_cost(row)}." for row in rows)
        return svg.draw(figure, panel, f"Certified {what} by variant, {name}", said)


def _cost(row: _Row) -> str:
    return "" if row.time is None else f", {number(row.time.estimate, row.time.unit)} ms"


def _dots(ax: Axes, rows: Sequence[tuple[str, Value | None]], scale: float) -> None:
    """Estimates with their intervals, the first one at the top."""
    for place, (colour, value) in enumerate(rows):
        if value is None:
            continue
        low = value.estimate if value.low is None else value.low
        high = value.estimate if value.high is None else value.high
        ax.plot([scale * low, scale * high], [place, place], color=colour, linewidth=1.6)
        ax.plot([scale * value.estimate], [place], color=colour, marker="o", markersize=7, markeredgewidth=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=4)
