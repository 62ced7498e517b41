"""The risk-coverage figure: what stays wrong if the least confident images are set aside, beside the baseline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.display import ABSENT, clean, number
from edgesafe.measure.intervals.selective import (
    COVERAGE,
    RiskSteps,
    SelectiveRisk,
    risk_at_coverage,
    risk_steps,
)
from edgesafe.measure.metrics.calibration import aurc
from edgesafe.records import Cell, IntervalMethod, Measurement, Population, PopulationKind, Unit
from edgesafe.report import svg
from edgesafe.report.parts import (
    FigurePart,
    Heading,
    TablePart,
    Td,
)
from edgesafe.report.svg import Panel
from edgesafe.report.view import View
from edgesafe.report.words import estimate

__all__ = ["METRIC", "Risk", "RiskRow", "risk_figure", "risk_of"]

METRIC = "risk@coverage.0.8"  #: of `Risk.measurement`
MAX_PANELS = 9
_DRAWN = np.arange(2, 101, 2) / 100.0  # coverages drawn; below 2 % a single image moves the line
_PERCENT = f"{COVERAGE * 100:g} %"


@dataclass(frozen=True)
class Risk:
    """The curve of one variant and the two numbers that stand for it.

    Attributes:
        steps: the whole curve.
        at: the risk at 80 % coverage.
        area: AURC, computed from the evidence.
        stored: AURC as measured, with its interval; None: not measured.
        measurement: `at` as a metric, for results.json.
    """

    steps: RiskSteps
    at: SelectiveRisk
    area: float
    stored: Measurement | None
    measurement: Measurement


@dataclass(frozen=True)
class RiskRow:
    """One variant in the figure: its name, its colour and marker, its curve and its baseline's."""

    key: str  #: of its group
    label: str
    colour: str
    marker: str
    own: Risk
    baseline: Risk | None  #: None: it is the baseline itself, or there is none


def risk_of(cell: Cell, view: View, variant: str) -> Risk:
    """The curve of the clean images of one variant."""
    right = cell.prediction == cell.label
    at = risk_at_coverage(cell.confidence, right)
    i = at.interval
    measured = view.measurements.get(variant)
    metrics = measured.metrics if measured is not None else {}
    said = metrics["accuracy"].population if "accuracy" in metrics else None
    who = said.description if said is not None else "images like the test images"
    kept = f"{who}; those of confidence {at.threshold:.6f} or more"
    measurement = Measurement(
        metric=METRIC,
        estimate=i.estimate,
        low=i.low,
        high=i.high,
        se=i.se,
        interval_level=i.interval_level,
        n=i.n,
        method=IntervalMethod.WILSON_KEPT,
        unit=Unit.FRACTION,
        population=Population(kind=PopulationKind.IMAGES, description=kept),
        details={"coverage": at.coverage, "threshold": at.threshold},
    )
    return Risk(risk_steps(cell.confidence, right), at, aurc(cell.confidence, right), metrics.get("aurc"), measurement)


def risk_figure(rows: Sequence[RiskRow], best: Collection[str] = ()) -> FigurePart | None:
    """One panel per compressed variant, with its baseline; the baseline alone if there is nothing else.

    Of more than nine variants only those whose keys are in `best` are drawn, or the first nine if none of them is; the
    table has all.
    """
    drawn = [row for row in rows if row.baseline is not None] or list(rows)
    if not drawn:
        return None
    note = "Clean test images, before temperature. Images of equal confidence are kept or set aside together."
    if len(drawn) > MAX_PANELS:
        chosen = [row for row in drawn if row.key in best]
        note += f" Drawn: the {'best' if chosen else f'first {MAX_PANELS}'} variants; the table has all."
        drawn = chosen or drawn[:MAX_PANELS]
    curves = [r for row in drawn for r in (row.own, row.baseline) if r is not None]
    top = 105 * max(0.001, *(float(_curve(r)[1].max()) for r in curves))
    return FigurePart(
        "fig-risk",
        "Risk against coverage: errors left when unsure images are set aside",
        "Coverage: the share of images kept when all below a confidence threshold go to a fallback (a person, a larger "
        "network). Risk: the share of the kept ones that is wrong. A lower line is better. AURC: the area under the "
        f"line, that is the mean risk over all coverages. Dots: {_PERCENT} coverage.",
        tuple(_panel(f"risk-{k}", row, top) for k, row in enumerate(drawn)),
        _table(rows),
        note,
    )


def _curve(risk: Risk) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(coverage, risk) at the thresholds nearest above each drawn coverage."""
    at = np.unique([risk.steps.reaching(float(c)) for c in _DRAWN])
    return risk.steps.coverage[at], risk.steps.risk[at]


def _panel(name: str, row: RiskRow, top: float) -> Panel:
    """The variant's line over its baseline's, each with a dot at 80 % and a label at its end."""
    width, height = 400, 264
    shown = [] if row.baseline is None else [("baseline", svg.MUTED, "o", row.baseline)]
    shown.append((row.label, row.colour, row.marker, row.own))
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (44, 40, 96, 66))
        ax.set_xlim(0, 102)
        ax.set_ylim(0, top)
        ax.set_xticks([0, 20, 40, 60, 80, 100])
        ax.locator_params(axis="y", nbins=5)
        ends = []
        for label, colour, marker, risk in shown:
            coverage, wrong = (v * 100 for v in _curve(risk))
            ax.plot(coverage, wrong, color=colour, linewidth=1.4 if label == "baseline" else 2.0)
            at = (risk.at.coverage * 100, risk.at.interval.estimate * 100)
            ax.plot([at[0]], [at[1]], color=colour, marker=marker, markersize=7, markeredgewidth=0, clip_on=False)
            ends.append((label, colour, float(wrong[-1])))
        places = svg.spread_labels([end for _, _, end in ends], 16 / (height - 106) * top)
        for (label, colour, end), y in zip(ends, places, strict=True):
            svg.end_label(ax, label, colour, (100, end), (107, y))
        ax.set_xlabel("coverage: images kept, %", color=svg.MUTED, fontsize=12)
        svg.heading(ax, f"{row.label}: risk, %", 40 / 260, 1.29)
        for y, said in zip((1.18, 1.07), _numbers(row), strict=True):
            ax.text(-40 / 260, y, said, transform=ax.transAxes, color=svg.MUTED, fontsize=12)
        return svg.draw(figure, name, f"Risk against coverage, {row.label}", _says(row))


def _numbers(row: RiskRow) -> tuple[str, str]:
    """AURC and the risk at 80 %, each beside the baseline's."""
    own, base = row.own, row.baseline
    area, wrong = f"AURC {own.area:.4f}", f"at {_PERCENT} coverage {own.at.interval.estimate * 100:.2f} %"
    if base is None:
        return area, wrong
    return f"{area}, baseline {base.area:.4f}", f"{wrong}, baseline {base.at.interval.estimate * 100:.2f} %"


def _says(row: RiskRow) -> str:
    """The text alternative of a panel: AURC and the risks at 80 % and at full coverage, also of the baseline."""
    risks = [(row.label, row.own)] + ([("baseline", row.baseline)] if row.baseline is not None else [])
    return " ".join(
        f"{label}: AURC {r.area:.4f}; {r.at.interval.estimate * 100:.2f} % wrong at {r.at.coverage * 100:.1f} % "
        f"coverage, {r.steps.risk[-1] * 100:.2f} % at full coverage."
        for label, r in risks
    )


def _table(rows: Sequence[RiskRow]) -> TablePart:
    """AURC and the risk at 80 % of every variant, with intervals and standard errors."""
    heads = (
        Heading("Variant"),
        Heading("AURC", "score"),
        Heading(f"Risk at {_PERCENT} coverage", "%"),
        Heading("Kept", "% of images"),
        Heading("Confidence threshold", "%"),
        Heading("Risk at full coverage", "%"),
    )
    return TablePart("Risk and coverage of each variant, clean test images", heads, tuple(_cells(r) for r in rows))


def _cells(row: RiskRow) -> tuple[Td, ...]:
    """The cells of one variant's row in the table of risks."""
    risk = row.own
    area = f"interval {ABSENT}" if risk.stored is None else estimate(risk.stored, digits=4)
    return (
        Td(clean(row.label)),
        Td(f"{risk.area:.4f}", area),
        Td(number(risk.at.interval.estimate, Unit.FRACTION), estimate(risk.measurement)),
        Td(f"{risk.at.coverage * 100:.2f}", f"{risk.at.interval.n:,} images"),
        Td(f"{risk.at.threshold * 100:.2f}"),
        Td(f"{risk.steps.risk[-1] * 100:.2f}", f"{int(risk.steps.wrong[-1]):,} of {int(risk.steps.kept[-1]):,}"),
    )
