"""The reliability diagrams and the accuracy-cost plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgesafe.records import Unit
from edgesafe.report import svg
from edgesafe.report.parts import Column, FigurePart, TablePart, Td
from edgesafe.report.stats import Pareto, Reliability
from edgesafe.report.svg import Panel
from edgesafe.report.words import ABSENT, amount, clean, number, sentences, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pareto_figure", "reliability_panel"]


def reliability_panel(name: str, heading: str, bins: Reliability) -> Panel:
    """Accuracy against confidence with the gap to the diagonal, and the histogram of confidence beneath."""
    width, height, mass = 320, 350, bins.bins
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (44, 126, 14, 32))
        ax.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        nan = float("nan")
        xs = [v for c in mass.confidence for v in (c, c, nan)]
        gaps = [v for c, a in zip(mass.confidence, mass.accuracy, strict=True) for v in (c, a, nan)]
        bars = [v for lo, hi in zip(bins.low, bins.high, strict=True) for v in (lo, hi, nan)]
        ax.plot(xs, gaps, color=svg.LIMIT, linewidth=6, alpha=0.35, solid_capstyle="butt")
        ax.plot(xs, bars, color=svg.series(0), linewidth=1.4)
        ax.plot(
            mass.confidence,
            mass.accuracy,
            color=svg.series(0),
            marker="o",
            linestyle="",
            markersize=5.5,
            markeredgewidth=0,
        )
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["", "", "", "", ""])
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        ax.text(-34 / 262, 1.06, heading, transform=ax.transAxes, color=svg.INK, fontsize=13.5, fontweight="bold")
        said = f"ECE {amount(bins.ece, Unit.FRACTION)}"
        ax.text(0.04, 0.93, said, transform=ax.transAxes, color=svg.INK, fontsize=12)
        under = svg.axes(figure, (44, 40, 14, 236))
        under.stairs(bins.histogram * 100, [k / 20 for k in range(21)], fill=True, color=svg.series(5), alpha=0.75)
        under.set_xlim(0, 1)
        under.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        top = max(float(bins.histogram.max()) * 100, 1.0)
        under.set_ylim(0, top)
        under.set_yticks([0, top], ["", f"{top:.0f} %"])
        under.text(0.04, 0.8, "share of images", transform=under.transAxes, color=svg.MUTED, fontsize=11.5)
        under.set_xlabel("confidence of the prediction", color=svg.MUTED, fontsize=12)
        worst = int(abs(mass.accuracy - mass.confidence).argmax())
        text = (
            f"{said}. {len(mass.confidence)} bins of equal mass; largest gap at confidence "
            f"{mass.confidence[worst] * 100:.1f} %, where {mass.accuracy[worst] * 100:.1f} % are right."
        )
        return svg.draw(figure, name, f"Reliability diagram, {heading}", text)


def pareto_figure(points: Sequence[Pareto], series_of: Sequence[str]) -> FigurePart | None:
    """Accuracy against latency and file size; dominated variants are hollow. None: nothing to compare."""
    if len(points) < 2 or all(p.accuracy is None for p in points):
        return None
    panels = []
    timed = [(p, p.ratio) for p in points if p.accuracy is not None and p.ratio is not None]
    sized = [(p, p.file) for p in points if p.accuracy is not None and p.file is not None]
    if len(timed) > 1:
        panels.append(
            _scatter(
                "cost-0",
                "Accuracy, %, against latency",
                "latency ratio (left is faster)",
                timed,
                series_of,
            )
        )
    if len(sized) > 1:
        scaled = [(p, f / 1e6) for p, f in sized]
        panels.append(
            _scatter(
                "cost-1", "Accuracy, %, against file size", "file to ship, MB (left is smaller)", scaled, series_of
            )
        )
    if not panels:
        return None
    rows = tuple(
        (
            Td(clean(p.group.label)),
            Td(number(p.accuracy.estimate, p.accuracy.unit)) if p.accuracy else Td(ABSENT, kind="absent"),
            Td(f"{p.ratio:.3f}") if p.ratio is not None else Td(ABSENT, kind="absent"),
            Td(size(p.file)) if p.file is not None else Td(ABSENT, kind="absent"),
            Td("no: another is at least as good in all three" if p.dominated else "yes"),
        )
        for p in points
    )
    heads = (
        Column("Variant"),
        Column("Accuracy", "%"),
        Column("Latency ratio"),
        Column("File to ship"),
        Column("On the front"),
    )
    return FigurePart(
        "fig-cost",
        "What accuracy costs: latency and size",
        "Filled: on the Pareto front of accuracy, latency ratio and file size. Hollow: another variant is at least "
        "as good in all three and better in one. Point estimates; see the table of results for intervals.",
        tuple(panels),
        TablePart("Accuracy, latency and size of each variant", heads, rows),
    )


def _scatter(
    name: str, heading: str, xlabel: str, points: Sequence[tuple[Pareto, float]], series_of: Sequence[str]
) -> Panel:
    """One accuracy-cost plot with a label at each point."""
    with svg.frame(400, 300) as figure:
        ax = svg.axes(figure, (44, 40, 60, 34), grid="both")
        for p, x in points:
            k = series_of.index(p.group.series) if p.group.series in series_of else -1
            colour = svg.INK if k < 0 else svg.series(k)
            face = "none" if p.dominated else colour
            y = p.accuracy.estimate * 100 if p.accuracy is not None else 0.0
            ax.plot(
                [x],
                [y],
                marker="*" if k < 0 else svg.MARKERS[k % 7],
                markersize=11 if k < 0 else 8,
                markerfacecolor=face,
                markeredgecolor=colour,
                markeredgewidth=1.4,
                linestyle="",
            )
        ax.margins(0.12)
        ax.autoscale_view()
        ax.locator_params(axis="both", nbins=6)
        ax.set_xlabel(xlabel, color=svg.MUTED, fontsize=12)
        ax.text(-36 / 296, 1.05, heading, transform=ax.transAxes, color=svg.INK, fontsize=13.5, fontweight="bold")
        _label_points(ax, [(x, p.accuracy.estimate * 100, clean(p.group.label)) for p, x in points if p.accuracy])
        words = [
            f"{p.group.label}: accuracy {p.accuracy.estimate * 100:.2f} % at {x:.3g}" for p, x in points if p.accuracy
        ]
        return svg.draw(figure, name, heading, f"{xlabel}. {sentences(words)}")


def _label_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Labels beside the points, where they hit neither a point nor another label; left out where there is no room."""
    spots = [tuple(ax.transData.transform((x, y))) for x, y, _ in points]
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in spots]
    offsets = (
        (9, 0, "left"),
        (-9, 0, "right"),
        (0, 12, "center"),
        (0, -13, "center"),
        (8, 11, "left"),
        (8, -11, "left"),
        (-8, 11, "right"),
        (-8, -11, "right"),
        (9, 20, "left"),
        (9, -20, "left"),
        (-9, -20, "right"),
    )
    for i, ((px, py), (x, y, text)) in enumerate(zip(spots, points, strict=True)):
        others = [t for k, t in enumerate(taken) if k != i]
        wide = 5.6 * len(text)
        for dx, dy, side in offsets:
            left = px + dx - {"left": 0.0, "right": wide, "center": wide / 2}[side]
            box = (left, py + dy - 6, left + wide, py + dy + 6)
            if box[0] >= 2 and box[2] <= 398 and not any(_overlap(box, t) for t in others):
                taken.append(box)
                ax.annotate(
                    text,
                    (x, y),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    color=svg.MUTED,
                    fontsize=11,
                )
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) share area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
