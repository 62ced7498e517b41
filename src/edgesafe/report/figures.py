"""The reliability diagrams and the accuracy-cost plots."""

from __future__ import annotations

from collections.abc import Sequence

from edgesafe.display import ABSENT, amount, clean, number, sentences, size
from edgesafe.records import Unit
from edgesafe.report import svg
from edgesafe.report.labels import label_points
from edgesafe.report.parts import (
    FigurePart,
    Heading,
    TablePart,
    Td,
)
from edgesafe.report.stats import Pareto, Reliability
from edgesafe.report.svg import Panel
from edgesafe.report.words import estimate

__all__ = ["pareto_figure", "reliability_panel"]

LABEL = 28  #: characters of a name in the scatter


def reliability_panel(name: str, heading: str, bins: Reliability) -> Panel:
    """Accuracy against confidence with the gap to the diagonal, and the histogram of confidence beneath."""
    width, height, mass = 344, 360, bins.bins
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (66, 132, 24, 34))
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
        ax.set_ylabel("accuracy", color=svg.MUTED, fontsize=14, labelpad=0)
        ax.text(-62 / 254, 1.06, heading, transform=ax.transAxes, color=svg.INK, fontsize=15, fontweight="bold")
        said = f"ECE {amount(bins.ece, Unit.FRACTION)}"
        ax.text(0.04, 0.91, said, transform=ax.transAxes, color=svg.INK, fontsize=14)
        under = svg.axes(figure, (66, 44, 24, 242))
        under.stairs(bins.histogram * 100, [k / 20 for k in range(21)], fill=True, color=svg.series(5), alpha=0.75)
        under.set_xlim(0, 1)
        for axes in (ax, under):
            axes.tick_params(labelsize=14)  # two stand side by side in a card, at three quarters of their size
        under.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        top = max(float(bins.histogram.max()) * 100, 1.0)
        under.set_ylim(0, top)
        under.set_yticks([0, top], ["", f"{top:.0f} %"])
        under.text(0.04, 0.74, "share of images", transform=under.transAxes, color=svg.MUTED, fontsize=14)
        under.set_xlabel("confidence of the prediction", color=svg.MUTED, fontsize=14)
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
            Td(number(p.accuracy.estimate, p.accuracy.unit), estimate(p.accuracy))
            if p.accuracy
            else Td(ABSENT, kind="absent"),
            Td(ABSENT, kind="absent")
            if p.ratio is None
            else Td(f"{p.ratio:.3f}", "reference" if p.timing is None else estimate(p.timing)),
            Td(size(p.file), "exact") if p.file is not None else Td(ABSENT, kind="absent"),
            Td("no: another is at least as good in all three" if p.dominated else "yes"),
        )
        for p in points
    )
    heads = (
        Heading("Variant"),
        Heading("Accuracy", "%"),
        Heading("Latency ratio"),
        Heading("File to ship"),
        Heading("On the front"),
    )
    return FigurePart(
        "fig-cost",
        "What accuracy costs: latency and size",
        "Filled: on the Pareto front of accuracy, latency ratio and file size. Hollow: another variant is at least "
        "as good in all three and better in one. Point estimates; the table below has the intervals.",
        tuple(panel for panel, _ in panels),
        TablePart("Accuracy, latency and size of each variant", heads, rows),
        "Some points have no label for want of room; the table has all." if any(n for _, n in panels) else "",
    )


def _scatter(
    name: str, heading: str, xlabel: str, points: Sequence[tuple[Pareto, float]], series_of: Sequence[str]
) -> tuple[Panel, int]:
    """One accuracy-cost plot with a label at each point, and how many labels found no room."""
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
        names = [clean(p.group.label) for p, _ in points]
        shown = [name if len(name) <= LABEL else f"{name[: LABEL - 1]}…" for name in names]
        missing = label_points(
            ax, [(x, p.accuracy.estimate * 100, name) for (p, x), name in zip(points, shown, strict=True) if p.accuracy]
        )
        words = [
            f"{p.group.label}: accuracy {p.accuracy.estimate * 100:.2f} % at {x:.3g}" for p, x in points if p.accuracy
        ]
        return svg.draw(figure, name, heading, f"{xlabel}. {sentences(words)}"), missing
