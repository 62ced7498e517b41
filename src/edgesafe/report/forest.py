"""The forest plot of the gates: one panel per gate, one row per variant, estimate, interval and limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgesafe.display import ABSENT, MINUS, STATUS, WORST_FIRST, amount, clean, number, rule, sentences, title
from edgesafe.records import GateResult, GateStatus, Unit
from edgesafe.report import svg
from edgesafe.report.parts import (
    FigurePart,
    Heading,
    TablePart,
    Td,
)
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group, View
from edgesafe.report.words import meanings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["forest"]

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
    """The factor from a stored value to the drawn one: percent for fractions, kB for sizes, millionths for logits."""
    return (
        {Unit.FRACTION: 100.0, Unit.BYTES: 1e-3, Unit.LOGIT: 1e6}.get(gate.unit, 1.0) if gate.unit is not None else 1.0
    )


def _unit_word(gate: GateResult) -> str:
    """The unit that the axis of a gate's panel shows, after `_scale`; "" for a unit without a word of its own."""
    if gate.unit is Unit.FRACTION:
        return "pp" if any(w in gate.rule for w in ("drop", "increase")) else "%"
    words = {Unit.MS: "ms", Unit.BYTES: "kB", Unit.NATS: "nats", Unit.RATIO: "ratio", Unit.LOGIT: "millionths"}
    return words.get(gate.unit, "") if gate.unit is not None else ""


def _badness(gate: GateResult) -> tuple[int, float]:
    """A key that is larger for a worse result: the status, then the distance of the estimate beyond the limit."""
    badness = -WORST_FIRST.index(gate.status)
    if gate.estimate is None or gate.limit is None:
        return badness, 0.0
    beyond = gate.estimate - gate.limit
    return badness, -beyond if _is_floor(gate) else beyond


def _is_floor(gate: GateResult) -> bool:
    """Whether the limit is from below ("min 90%")."""
    return gate.rule.strip().lower().startswith("min ")


def _failing_side(gate: GateResult, at: float, view: tuple[float, float]) -> tuple[float, float]:
    """The part of the axis, (from, to), on which the gate fails; `at`: the limit, `view`: the ends of the axis."""
    return (view[0], at) if _is_floor(gate) else (at, view[1])


def _worst(gates: Sequence[GateResult], groups: Sequence[Group]) -> list[GateResult]:
    """The worst result of each variant, which a gate on a family of metrics (every corruption) judges many times."""
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


def forest(view: View, groups: Sequence[Group]) -> FigurePart | None:
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
    levels = {g.confidence for g in shown if g.low is not None or g.high is not None}
    level = next(iter(levels)) if len(levels) == 1 else None
    sided = f" (each one-sided at {level * 100:.4g} %)" if level is not None else ""
    note = f"Bars: the bounds that the gate decided on{sided}. Dashed line: the limit. Tinted: the side that fails."
    if len(shown) < len(view.verdict.gates):
        note += " A gate on many metrics (each corruption, say) shows each variant's worst; results.json has all."
    if drawn < len(shown):
        note += " Of several seeds the worst is drawn; the table has all."
    return FigurePart(
        "fig-gates",
        "Every gate: estimate, interval and limit",
        "One panel per gate, one row per variant. A gate passes only if its whole interval is on the allowed side, and "
        "fails only if all of it is beyond the limit.",
        tuple(panels),
        _gate_table(shown, groups),
        f"{note} {_words(shown)}".rstrip(),
    )


def _words(gates: Sequence[GateResult]) -> str:
    """What the abbreviations of these gates mean."""
    return meanings([g.metric for g in gates], any(_unit_word(g) == "pp" for g in gates))


def _gate_table(gates: Sequence[GateResult], groups: Sequence[Group]) -> TablePart:
    """The table of all gates: one row per gate, in the order of the groups' variants."""
    order = [v.id for g in groups for v in g.members]
    rows = []
    for g in sorted(gates, key=lambda x: order.index(x.variant) if x.variant in order else len(order)):
        unit = g.unit or Unit.SCORE
        points = "drop" in g.rule or "increase" in g.rule
        shown = ABSENT if g.estimate is None else amount(g.estimate, unit, points=points)
        bounds = [None if x is None else number(x, unit) for x in (g.low, g.high)]
        limits = f"{bounds[0] or f'{MINUS}∞'} to {bounds[1] or '∞'}" if any(bounds) else "no interval"
        rows.append(
            (
                Td(clean(g.variant)),
                Td(clean(g.id), clean(title(g.metric))),
                Td(str(STATUS[g.status]), kind=f"status-{g.status.value}"),
                Td(shown, limits, kind="" if g.estimate is not None else "absent"),
                Td(rule(g.rule)),
                Td(("exact" if g.method == "exact" else "not stated") if g.n is None else f"{g.n:,}", clean(g.method)),
                Td(clean(g.message)),
            )
        )
    heads = ("Variant", "Gate", "Verdict", "Estimate", "Rule", "Images or runs", "Message")
    return TablePart("Every gate of every variant", tuple(Heading(h) for h in heads), tuple(rows), "wide gates")


def _forest_panel(name: str, rows: Sequence[tuple[str, GateResult]]) -> Panel:
    """The panel of one gate: its limit as a dashed line, and one row per (label, result) with estimate and interval."""
    gate, factor = rows[0][1], _scale(rows[0][1])
    width, height = 400, 66 + 21 * len(rows)
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (108, 34, 106, 32), grid="x")
        numbers = [x * factor for _, g in rows for x in (g.estimate, g.low, g.high, g.limit) if x is not None]
        low, high = (min([*numbers, 0.0]), max([*numbers, 0.0])) if numbers else (0.0, 1.0)
        if gate.unit in (Unit.RATIO, Unit.MS, Unit.BYTES) or (numbers and low > 0.5 * high):
            low = min(numbers) if numbers else low
        room = 0.08 * (high - low) or 0.5
        ax.set_xlim(low - room, high + room)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_yticks([])
        ax.locator_params(axis="x", nbins=5)
        if not numbers:
            ax.set_xticks([])
        for y, (label, g) in enumerate(rows):
            _forest_row(ax, y, label, g)
        if gate.limit is not None:
            at = gate.limit * factor
            ax.axvline(at, color=svg.INK, linewidth=1.4, linestyle=(0, (4, 3)))
            ax.axvspan(*_failing_side(gate, at, ax.get_xlim()), color=svg.LIMIT, alpha=0.13, linewidth=0)
        ax.text(
            -104 / 186,
            1 + 15 / (height - 66),
            clean(gate.id),
            transform=ax.transAxes,
            color=svg.INK,
            fontsize=13.5,
            fontweight="bold",
        )
        said = f"{rule(gate.rule)}{' (warning only)' if gate.level == 'warn' else ''}"
        ax.text(
            1 + 102 / 186,
            1 + 15 / (height - 66),
            said,
            transform=ax.transAxes,
            color=svg.MUTED,
            fontsize=12,
            ha="right",
        )
        ax.set_xlabel(_axis_words([g for _, g in rows]), color=svg.MUTED, fontsize=12)
        words = [f"{label}: {g.message or STATUS[g.status].word}" for label, g in rows]
        return svg.draw(figure, name, f"Gate {gate.id}: {title(gate.metric)}, {rule(gate.rule)}", sentences(words))


def _axis_words(gates: Sequence[GateResult]) -> str:
    """The label of the x axis; a gate on a family of metrics shows each variant's worst metric, which may differ."""
    gate = gates[0]
    unit = _unit_word(gate)
    what = title(gate.metric)
    if len({g.metric for g in gates}) > 1:
        what = f"{title(gate.metric.partition('.')[0])}, each variant's worst"
    for word in ("drop", "increase", "ratio"):
        if word in gate.rule and word not in what.lower():
            what = f"{what}, {word}"
    return f"{what}, {unit}" if unit and unit not in what else what


def _forest_row(ax: Axes, y: int, label: str, gate: GateResult) -> None:
    """Draw one variant's estimate, interval and label at height `y` of a forest panel."""
    factor = _scale(gate)
    colour, marker = _LOOK[gate.status]
    text = clean(label)
    text = text if len(text) <= 19 else f"{text[:18]}…"
    ax.annotate(
        text,
        (0, y),
        xycoords=("axes fraction", "data"),
        xytext=(-104, 0),
        textcoords="offset points",
        va="center",
        color=svg.INK,
        fontsize=12,
    )
    ax.annotate(
        str(STATUS[gate.status]),
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=12,
        fontweight="bold",
    )
    if gate.estimate is None:
        said = ABSENT if gate.status is GateStatus.MISSING else "no decision possible"
        ax.annotate(said, (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", color=svg.MUTED)
        return
    left, right = ax.get_xlim()
    low = left if gate.low is None else gate.low * factor
    high = right if gate.high is None else gate.high * factor
    if gate.low is not None or gate.high is not None:
        ax.plot([low, high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
    ax.plot([gate.estimate * factor], [y], color=colour, marker=marker, markersize=7, markeredgewidth=0)
