"""The forest plot of the gates, the reliability diagrams and the accuracy-cost plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgesafe.records import GateResult, GateStatus, Unit
from edgesafe.report import svg
from edgesafe.report.parts import Column, FigurePart, TablePart, Td
from edgesafe.report.stats import Pareto, Reliability
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group, StudyView
from edgesafe.report.words import ABSENT, MINUS, STATUS, amount, clean, number, rule, size, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["forest", "pareto_figure", "reliability_panel"]

_LOOK = {
    GateStatus.PASS: (svg.GOOD, "o"),
    GateStatus.FAIL: (svg.BAD, "X"),
    GateStatus.INCONCLUSIVE: (svg.WARN, "D"),
    GateStatus.WAIVED: (svg.WARN, "^"),
    GateStatus.MISSING: (svg.BAD, "s"),
    GateStatus.REFUSED: (svg.BAD, "s"),
}
MAX_ROWS = 16  #: of a forest panel; a larger study shows the worst seed of each group


def _scale(gate: GateResult) -> float:
    """Fractions are drawn in percent, sizes in kB."""
    return {Unit.FRACTION: 100.0, Unit.BYTES: 1e-3}.get(gate.unit, 1.0) if gate.unit is not None else 1.0


def _unit_word(gate: GateResult) -> str:
    """The axis' unit."""
    if gate.unit is Unit.FRACTION:
        return "pp" if any(w in gate.rule for w in ("drop", "increase")) else "%"
    words = {Unit.MS: "ms", Unit.BYTES: "kB", Unit.NATS: "nats", Unit.RATIO: "ratio", Unit.LOGIT: "logits"}
    return words.get(gate.unit, "") if gate.unit is not None else ""


def _badness(gate: GateResult) -> tuple[int, float]:
    """For finding the worst: the status, then how far the estimate is beyond (or short of) the limit."""
    order = (
        GateStatus.PASS,
        GateStatus.WAIVED,
        GateStatus.INCONCLUSIVE,
        GateStatus.FAIL,
        GateStatus.MISSING,
        GateStatus.REFUSED,
    )
    rank = {status: k for k, status in enumerate(order)}
    if gate.estimate is None or gate.limit is None:
        return rank[gate.status], 0.0
    beyond = gate.estimate - gate.limit
    return rank[gate.status], -beyond if _is_floor(gate) else beyond


def _is_floor(gate: GateResult) -> bool:
    """Whether the limit is from below ("min 90%")."""
    return gate.rule.strip().lower().startswith("min ")


def _worst(gates: Sequence[GateResult], groups: Sequence[Group]) -> list[GateResult]:
    """A gate on a family of metrics (every corruption) judges a variant many times: the worst of each variant."""
    order = [v.id for g in groups for v in g.members]
    names = sorted({x.variant for x in gates}, key=lambda i: (order.index(i) if i in order else len(order), i))
    return [max((x for x in gates if x.variant == name), key=_badness) for name in names]


def _rows(gates: Sequence[GateResult], groups: Sequence[Group]) -> list[tuple[str, GateResult]]:
    """One row per variant, or, if they are too many, the worst seed of each group."""
    label = {v.id: (g, v.seed) for g in groups for v in g.members}
    worst = _worst(gates, groups)
    if len(worst) <= MAX_ROWS:
        several = len({v.seed for g in groups for v in g.members}) > 1
        return [(_row_label(x, label, several), x) for x in worst]
    unfinished = [(x.variant, x) for x in worst if x.variant not in label]
    by_group = [(g, [x for x in worst if x.variant in label and label[x.variant][0] is g]) for g in groups]
    return [*((g.label, max(mine, key=_badness)) for g, mine in by_group if mine), *unfinished]


def _row_label(gate: GateResult, label: Mapping[str, tuple[Group, int]], seeds: bool) -> str:
    """Method, ratio and, where there are several, seed; the id of a variant that has no record."""
    if gate.variant not in label:
        return gate.variant
    group, seed = label[gate.variant]
    return f"{group.label} s{seed}" if seeds else group.label


def forest(view: StudyView, groups: Sequence[Group]) -> FigurePart | None:
    """One panel per gate: estimate, interval and limit of every variant, verdict in words. None: no verdict."""
    if view.verdict is None or not view.verdict.gates:
        return None
    keys = list(dict.fromkeys((g.id, g.rule) for g in view.verdict.gates))
    panels, shown, drawn = [], [], 0
    for k, key in enumerate(keys):
        gates = [g for g in view.verdict.gates if (g.id, g.rule) == key]
        shown += _worst(gates, groups)
        rows = _rows(gates, groups)
        drawn += len(rows)
        panels.append(_forest_panel(f"gate-{k}", rows))
    note = "Bars are the bounds that the gate decided on; the dashed line is the limit; the tinted side fails."
    if len(shown) < len(view.verdict.gates):
        note += " A gate on many metrics (each corruption, say) shows each variant's worst; results.json has all."
    if drawn < len(shown):
        note += " Of several seeds the worst is drawn; the table has all."
    return FigurePart(
        "fig-gates",
        "Every gate: estimate, interval and limit",
        "One panel per gate, one row per variant. A gate passes only if its whole interval is on the allowed side.",
        tuple(panels),
        _gate_table(shown, groups),
        note,
    )


def _gate_table(gates: Sequence[GateResult], groups: Sequence[Group]) -> TablePart:
    """Every gate of every variant."""
    order = [v.id for g in groups for v in g.members]
    rows = []
    for g in sorted(gates, key=lambda x: order.index(x.variant) if x.variant in order else len(order)):
        unit = g.unit or Unit.SCORE
        points = "drop" in g.rule or "increase" in g.rule
        shown = ABSENT if g.estimate is None else amount(g.estimate, unit, points=points)
        bounds = [None if x is None else number(x, unit) for x in (g.low, g.high)]
        limits = f"{bounds[0] or f'{MINUS}∞'} to {bounds[1] or '∞'}" if any(bounds) else "no interval"
        icon, word = STATUS[g.status]
        rows.append(
            (
                Td(clean(g.variant)),
                Td(clean(g.id), clean(title(g.metric))),
                Td(f"{icon} {word}", kind=f"status-{g.status.value}"),
                Td(shown, limits, kind="" if g.estimate is not None else "absent"),
                Td(rule(g.rule)),
                Td("not stated" if g.n is None else f"{g.n:,}", clean(g.method)),
                Td(clean(g.message)),
            )
        )
    heads = ("Variant", "Gate", "Verdict", "Estimate", "Rule", "Images", "Message")
    return TablePart("Every gate of every variant", tuple(Column(h) for h in heads), tuple(rows), "wide")


def _forest_panel(name: str, rows: Sequence[tuple[str, GateResult]]) -> Panel:
    """One gate."""
    gate, factor = rows[0][1], _scale(rows[0][1])
    width, height = 400, 66 + 21 * len(rows)
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (112, 34, 92, 32), grid="x")
        numbers = [x * factor for _, g in rows for x in (g.estimate, g.low, g.high, g.limit) if x is not None]
        low, high = (min([*numbers, 0.0]), max([*numbers, 0.0])) if numbers else (0.0, 1.0)
        if gate.unit in (Unit.RATIO, Unit.MS, Unit.BYTES) or (numbers and low > 0.5 * high):
            low = min(numbers) if numbers else low
        room = 0.08 * (high - low) or 0.5
        ax.set_xlim(low - room, high + room)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_yticks([])
        ax.locator_params(axis="x", nbins=5)
        for y, (label, g) in enumerate(rows):
            _forest_row(ax, y, label, g)
        if gate.limit is not None:
            at = gate.limit * factor
            ax.axvline(at, color=svg.INK, linewidth=1.4, linestyle=(0, (4, 3)))
            side = (low - room, at) if _is_floor(gate) else (at, high + room)
            ax.axvspan(*side, color=svg.LIMIT, alpha=0.13, linewidth=0)
        ax.text(-104 / 196, 1 + 15 / (height - 66), clean(gate.id), transform=ax.transAxes, color=svg.INK,
                fontsize=13.5, fontweight="bold")  # fmt: skip
        said = f"{rule(gate.rule)}{' (warning only)' if gate.level == 'warn' else ''}"
        ax.text(
            1 + 84 / 196, 1 + 15 / (height - 66), said, transform=ax.transAxes, color=svg.MUTED, fontsize=12, ha="right"
        )
        ax.set_xlabel(_axis_words(gate), color=svg.MUTED, fontsize=12)
        words = [f"{label}: {g.message or STATUS[g.status][1]}" for label, g in rows]
        return svg.draw(figure, name, f"Gate {gate.id}: {title(gate.metric)}, {rule(gate.rule)}", clean_join(words))


def _axis_words(gate: GateResult) -> str:
    """What the x axis shows."""
    unit = _unit_word(gate)
    what = title(gate.metric)
    for word in ("drop", "increase", "ratio"):
        if word in gate.rule and word not in what.lower():
            what = f"{what}, {word}"
    return f"{what}, {unit}" if unit and unit not in what else what


def clean_join(words: Sequence[str]) -> str:
    """Sentences for a description."""
    return " ".join(f"{clean(w).rstrip('.')}." for w in words)


def _forest_row(ax: Axes, y: int, label: str, gate: GateResult) -> None:
    """One variant in a forest panel."""
    factor = _scale(gate)
    colour, marker = _LOOK[gate.status]
    text = clean(label)
    text = text if len(text) <= 19 else f"{text[:18]}…"
    ax.annotate(text, (0, y), xycoords=("axes fraction", "data"), xytext=(-104, 0), textcoords="offset points",
                va="center", color=svg.INK, fontsize=12)  # fmt: skip
    icon, word = STATUS[gate.status]
    ax.annotate(f"{icon} {word}", (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
                va="center", color=colour, fontsize=12, fontweight="bold")  # fmt: skip
    if gate.estimate is None:
        ax.annotate(ABSENT, (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", color=svg.MUTED)
        return
    left, right = ax.get_xlim()
    low = left if gate.low is None else gate.low * factor
    high = right if gate.high is None else gate.high * factor
    if gate.low is not None or gate.high is not None:
        ax.plot([low, high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
    ax.plot([gate.estimate * factor], [y], color=colour, marker=marker, markersize=7, markeredgewidth=0)


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
        ax.text(0.04, 0.85, "accuracy against confidence", transform=ax.transAxes, color=svg.MUTED, fontsize=11.5)
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
    timed = [(p, p.latency.estimate) for p in points if p.accuracy is not None and p.latency is not None]
    sized = [(p, p.file) for p in points if p.accuracy is not None and p.file is not None]
    if len(timed) > 1:
        panels.append(
            _scatter("cost-0", "Accuracy, %, against latency", "median latency, ms (left is faster)", timed, series_of)
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
            Td(amount(p.latency.estimate, p.latency.unit)) if p.latency else Td(ABSENT, kind="absent"),
            Td(size(p.file)) if p.file is not None else Td(ABSENT, kind="absent"),
            Td("no: another is at least as good in all three" if p.dominated else "yes"),
        )
        for p in points
    )
    heads = (
        Column("Variant"),
        Column("Accuracy", "%"),
        Column("Latency, median"),
        Column("File to ship"),
        Column("On the front"),
    )
    return FigurePart(
        "fig-cost",
        "What accuracy costs: latency and size",
        "Filled: on the Pareto front of accuracy, latency and file size. Hollow: another variant is at least as good "
        "in all three and better in one. Point estimates; see the table of results for intervals.",
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
            ax.plot([x], [y], marker="*" if k < 0 else svg.MARKERS[k % 7], markersize=11 if k < 0 else 8,
                    markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.4, linestyle="")  # fmt: skip
        ax.margins(0.12)
        ax.autoscale_view()
        ax.locator_params(axis="both", nbins=6)
        ax.set_xlabel(xlabel, color=svg.MUTED, fontsize=12)
        ax.text(-36 / 296, 1.05, heading, transform=ax.transAxes, color=svg.INK, fontsize=13.5, fontweight="bold")
        _label_points(ax, [(x, p.accuracy.estimate * 100, clean(p.group.label)) for p, x in points if p.accuracy])
        words = [
            f"{p.group.label}: accuracy {p.accuracy.estimate * 100:.2f} % at {x:.3g}" for p, x in points if p.accuracy
        ]
        return svg.draw(figure, name, heading, f"{xlabel}. {clean_join(words)}")


def _label_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Labels beside the points, where they hit neither a point nor another label; left out where there is no room."""
    spots = [tuple(ax.transData.transform((x, y))) for x, y, _ in points]
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in spots]
    offsets = (
        (9, 0, "left"), (-9, 0, "right"), (0, 12, "center"), (0, -13, "center"), (8, 11, "left"), (8, -11, "left"),
        (-8, 11, "right"), (-8, -11, "right"), (9, 20, "left"), (9, -20, "left"), (-9, -20, "right"),
    )  # fmt: skip
    for i, ((px, py), (x, y, text)) in enumerate(zip(spots, points, strict=True)):
        others = [t for k, t in enumerate(taken) if k != i]
        wide = 5.6 * len(text)
        for dx, dy, side in offsets:
            left = px + dx - {"left": 0.0, "right": wide, "center": wide / 2}[side]
            box = (left, py + dy - 6, left + wide, py + dy + 6)
            if box[0] >= 2 and box[2] <= 398 and not any(_overlap(box, t) for t in others):
                taken.append(box)
                ax.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", ha=side, va="center",
                            color=svg.MUTED, fontsize=11)  # fmt: skip
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) share area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
