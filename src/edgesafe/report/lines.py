"""The paper's figures (Mitra et al., arXiv 2405.20876, figures 1-3): metrics against the pruning ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesafe.display import ABSENT, clean, number, title
from edgesafe.report import svg
from edgesafe.report.parts import (
    FigurePart,
    Heading,
    TablePart,
    Td,
)
from edgesafe.report.svg import Panel
from edgesafe.report.view import (
    Group,
    Series,
    Value,
    View,
)
from edgesafe.report.words import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "profile_figure", "ratio_figure", "severities", "severity_figure"]

WIDTH, HEIGHT = 400, 270


@dataclass(frozen=True)
class Line:
    """One line: a metric of some groups, the baseline's first. `values` in fractions; None is a gap."""

    label: str
    colour: str
    marker: str
    xs: tuple[float, ...]  #: percent removed, or severity
    values: tuple[Value | None, ...]


@dataclass(frozen=True)
class Sheet:
    """How a panel of lines is labelled."""

    name: str
    title: str
    heading: str
    limits: tuple[float, float] | None = None
    side: str = ""  #: heading over the labels at the line ends
    reach: float = 0.0  #: the x axis goes at least this far
    xlabel: str = "removed, %"


def _line(label: str, look: tuple[str, str], groups: Sequence[Group], view: View, metric: str) -> Line:
    """One line of a figure: `metric` of each group against the share removed, in percent."""
    return Line(
        label, look[0], look[1], tuple(g.ratio * 100 for g in groups), tuple(g.value(view, metric) for g in groups)
    )


def _draw_line(ax: Axes, line: Line, shift: float) -> tuple[float, float] | None:
    """Line, markers and spread: a band over seeds, bars for one seed's interval. Returns the last point."""
    seen = [(x, v) for x, v in zip(line.xs, line.values, strict=True) if v is not None]
    if not seen:
        return None
    xs = [x + shift if x > 0 else x for x, _ in seen]  # the baseline is one point for all
    ys = [v.estimate * 100 for _, v in seen]
    lows = [(v.estimate if v.low is None else v.low) * 100 for _, v in seen]
    highs = [(v.estimate if v.high is None else v.high) * 100 for _, v in seen]
    if any(v.seeds > 1 for _, v in seen):
        ax.fill_between(xs, lows, highs, color=line.colour, alpha=0.18, linewidth=0)
    else:
        gaps = [float("nan")] * len(xs)
        ax.plot(
            [v for x, g in zip(xs, gaps, strict=True) for v in (x, x, g)],
            [v for t in zip(lows, highs, gaps, strict=True) for v in t],
            color=line.colour,
            linewidth=1.2,
        )
    ax.plot(
        xs,
        ys,
        color=line.colour,
        marker=line.marker,
        linewidth=2.0,
        markersize=6,
        markeredgewidth=0,
    )
    return xs[-1], ys[-1]


def _panel(sheet: Sheet, lines: Sequence[Line], text: str) -> Panel:
    """Lines against the ratio with a label at each end."""
    with svg.frame(WIDTH, HEIGHT) as figure:
        ax = svg.axes(figure, (44, 40, 96, 34))
        ticks = sorted({x for line in lines for x in line.xs})
        last = max(ticks[-1], sheet.reach)
        step = (
            0.0 if sheet.side else 0.012 * last
        )  # so that the bars of several methods at one ratio do not hide each other
        shifts = [step * (k - (len(lines) - 1) / 2) for k in range(len(lines))]
        drawn = [(line, _draw_line(ax, line, shift)) for line, shift in zip(lines, shifts, strict=True)]
        ends = [(line, end) for line, end in drawn if end is not None]
        ax.set_xlim(-0.025 * last, 1.025 * last)
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        if sheet.limits is not None:
            ax.set_ylim(*sheet.limits)
        ax.locator_params(axis="y", nbins=6)
        ax.set_xlabel(sheet.xlabel, color=svg.MUTED, fontsize=12)
        ax.text(-40 / 260, 1.07, sheet.heading, transform=ax.transAxes, color=svg.INK, fontsize=13.5, fontweight="bold")
        if sheet.side:
            ax.text(1.03, 1.07, sheet.side, transform=ax.transAxes, color=svg.MUTED, fontsize=12)
        low, high = ax.get_ylim()
        places = svg.spread_labels([end[1] for _, end in ends], 15 / (HEIGHT - 74) * (high - low))
        right = ax.get_xlim()[1]
        for (line, end), y in zip(ends, places, strict=True):
            svg.end_label(ax, line.label, line.colour, end, (right + 0.035 * last, y), shrink=5)
        return svg.draw(figure, sheet.name, sheet.title, text)


def _says(lines: Sequence[Line], metric: str, against: str = "percent removed") -> str:
    """The lines in a sentence each, for those who do not see them."""
    out = []
    for line in lines:
        seen = [(r, v) for r, v in zip(line.xs, line.values, strict=True) if v is not None]
        if len(seen) > 1:
            (r0, a), (r1, b) = seen[0], seen[-1]
            out.append(
                f"{line.label}: {number(a.estimate, a.unit)} % at {r0:g}, {number(b.estimate, b.unit)} % at {r1:g}."
            )
        elif seen:
            out.append(f"{line.label}: {number(seen[0][1].estimate, seen[0][1].unit)} %.")
    return f"{title(metric)} against {against}. " + " ".join(out)


def _cell(value: Value | None) -> Td:
    """A value with its interval, or "not measured"."""
    if value is None:
        return Td(ABSENT, kind="absent")
    return Td(number(value.estimate, value.unit), estimate(value))


def _spread_note(groups: Sequence[Group]) -> str:
    """A sentence that says whether the drawn bars are intervals over images or bands over seeds."""
    if any(len(g.members) > 1 for g in groups):
        return "Lines are means over seeds; bands are one standard deviation over seeds."
    return "One seed; bars are 95 % intervals over test images, not over seeds."


def ratio_figure(view: View, groups: Sequence[Group], all_series: Sequence[Series]) -> FigurePart | None:
    """Figure 1 of the paper: accuracy and ECE against the ratio, a line per method. None: nothing was removed."""
    base = [g for g in groups if g.is_baseline]
    ratio_series = [s for s in all_series if any(g.ratio > 0 for g in s.groups)]
    if not ratio_series:
        return None
    panels: list[Panel] = []
    wanted = [
        ("accuracy", "Accuracy, %"),
        ("ece_em10_top1", "ECE, %"),
        ("ece_em10_top1.calibrated", "ECE after temperature, %"),
        ("pck@2", "Keypoints within 2 px, %"),
    ]
    wanted = [(m, h) for m, h in wanted if any(g.value(view, m) is not None for g in groups)]
    for metric, heading in wanted:
        lines = [
            _line(
                clean(s.name.replace("_", " ")), (svg.series(k), svg.MARKERS[k % 7]), [*base, *s.groups], view, metric
            )
            for k, s in enumerate(ratio_series)
        ]
        sheet = Sheet(f"ratio-{len(panels)}", f"{title(metric)} against the share removed", heading)
        panels.append(_panel(sheet, lines, _says(lines, metric)))
    sure = any(metric == "ece_em10_top1" for metric, _ in wanted)
    about = "Accuracy and calibration" if sure else "Accuracy"
    table = TablePart(
        f"{about} by variant, in percent",
        (Heading("Variant"), *(Heading(title(m), "%") for m, _ in wanted)),
        tuple((Td(clean(g.label)), *(_cell(g.value(view, m)) for m, _ in wanted)) for g in (*base, *_of(ratio_series))),
    )
    return FigurePart(
        "fig-ratio",
        f"{about} against the share removed",
        "Each line starts at the uncompressed baseline (0 % removed)."
        + (" ECE: expected calibration error, 10 bins of equal mass; lower is better." if sure else ""),
        tuple(panels),
        table,
        _spread_note(groups),
    )


def _of(all_series: Sequence[Series]) -> list[Group]:
    """The groups of all series, in their order."""
    return [g for s in all_series for g in s.groups]


def severities(view: View, metric: str) -> list[int]:
    """The severities that any variant has `<metric>.severity.<s>` for."""
    stem = f"{metric}.severity."
    levels = {int(name[len(stem) :]) for m in view.measurements.values() for name in m.metrics if name.startswith(stem)}
    return sorted(levels)


def severity_figure(
    view: View, groups: Sequence[Group], all_series: Sequence[Series], metric: str
) -> FigurePart | None:
    """Figures 2 and 3 of the paper: mPC or ECE against the ratio, a line per severity, a panel per method.

    `metric` is "mpc" (clean accuracy is severity 0) or "ece_em10_top1". None without corruptions or variants.
    """
    levels = severities(view, metric)
    base = [g for g in groups if g.is_baseline]
    ratio_series = [s for s in all_series if any(g.ratio > 0 for g in s.groups)]
    if not levels or not ratio_series:
        return None
    untouched = "accuracy" if metric == "mpc" else metric
    rows = [(0, untouched), *((s, f"{metric}.severity.{s}") for s in levels)]
    names = {0: "clean", **{s: str(s) for s in levels}}
    drawn = [
        (s, [_line(names[k], (svg.severity(k), "o"), [*base, *s.groups], view, m) for k, m in rows])
        for s in ratio_series
    ]
    limits = _limits([v for _, lines in drawn for line in lines for v in line.values])
    panels = []
    for k, (series, lines) in enumerate(drawn):
        name = clean(series.name.replace("_", " "))
        sheet = Sheet(
            f"{'mpc' if metric == 'mpc' else 'ece'}-{k}",
            f"{title(metric)} against the share removed, {name}",
            f"{name}: {title(metric)}, %",
            limits,
            "severity",
            max(g.ratio for g in _of(ratio_series)) * 100,
        )
        panels.append(_panel(sheet, lines, f"Method {name}, one line per severity. {_says(lines, metric)}"))
    table = TablePart(
        f"{title(metric)} by variant and severity, in percent",
        (Heading("Variant"), *(Heading("clean" if k == 0 else f"severity {k}", "%") for k, _ in rows)),
        tuple((Td(clean(g.label)), *(_cell(g.value(view, m)) for _, m in rows)) for g in (*base, *_of(ratio_series))),
    )
    about = (
        "mPC: accuracy averaged over all corruptions, per severity; higher is better."
        if metric == "mpc"
        else "ECE of the corrupted images, pooled over all corruptions per severity; lower is better."
    )
    head = "Accuracy under corruption" if metric == "mpc" else "Calibration error under corruption"
    return FigurePart(
        f"fig-{'mpc' if metric == 'mpc' else 'ece'}",
        f"{head} against the share removed",
        f"One panel per method, one line per severity (1 mild, 5 strong). {about}",
        tuple(panels),
        table,
        _spread_note(groups),
    )


def profile_figure(view: View, groups: Sequence[Group]) -> FigurePart | None:
    """MPC and ECE against the severity, a line per variant: for audits, which have no ratio. None: nothing to show."""
    shown = groups[: len(svg.MARKERS)]
    panels: list[Panel] = []
    columns: list[Heading] = []
    rows = [[Td(clean(g.label))] for g in shown]
    for metric, clean_metric in (("mpc", "accuracy"), ("ece_em10_top1", "ece_em10_top1")):
        levels = severities(view, metric)
        names = [clean_metric, *(f"{metric}.severity.{s}" for s in levels)]
        if not levels:
            continue
        lines = []
        for k, (g, row) in enumerate(zip(shown, rows, strict=True)):
            values = tuple(g.value(view, m) for m in names)
            lines.append(Line(clean(g.label), svg.series(k), svg.MARKERS[k], (0.0, *map(float, levels)), values))
            row += [_cell(v) for v in values]
        heading = f"{title(metric)}, %"
        sheet = Sheet(f"profile-{len(panels)}", f"{title(metric)} by severity", heading, xlabel="severity (0: clean)")
        panels.append(_panel(sheet, lines, _says(lines, metric, "severity")))
        columns += [Heading(f"{title(metric)}, {f'severity {s}' if s else 'clean'}", "%") for s in (0, *levels)]
    if not panels:
        return None
    note = _spread_note(groups) + ("" if len(shown) == len(groups) else " The first seven variants are drawn.")
    table = TablePart(
        "By severity, in percent", (Heading("Variant"), *columns), tuple(tuple(r) for r in rows), "wide sticky"
    )
    text = "One line per variant; severity 0 is the untouched test images. Pooled over all corruptions measured."
    both = any(severities(view, "ece_em10_top1"))
    heading = f"Accuracy{' and calibration error' if both else ''} by severity"
    return FigurePart("fig-profile", heading, text, tuple(panels), table, note)


def _limits(values: Sequence[Value | None]) -> tuple[float, float]:
    """Common y limits in percent with 4 % of room."""
    lows = [(v.estimate if v.low is None else v.low) * 100 for v in values if v is not None]
    highs = [(v.estimate if v.high is None else v.high) * 100 for v in values if v is not None]
    room = 0.04 * (max(highs) - min(lows)) or 1.0
    return max(0.0, min(lows) - room), min(100.0, max(highs) + room) if max(highs) <= 100 else max(highs) + room
