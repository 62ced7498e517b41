"""The page: gathers the parts, lays them out with the template, and keeps them under 1 MB, saying what is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgesafe.errors import RefusedError
from edgesafe.report import figures, lines, tables
from edgesafe.report.basis import basis_table
from edgesafe.report.cautions import sampled_note, temperature_caution
from edgesafe.report.deep import Deep, deep_parts, risk_rows
from edgesafe.report.forest import forest
from edgesafe.report.head import (
    cards,
    lead,
    limits,
    provenance_facts,
    samples_uri,
    verdict_box,
)
from edgesafe.report.results import to_csv, to_json, to_markdown
from edgesafe.report.risk import METRIC, risk_figure
from edgesafe.report.stats import (
    BEST_RULE,
    Best,
    best,
    pareto,
)
from edgesafe.report.view import (
    Group,
    ReportFiles,
    Series,
    View,
    grouped,
)
from edgesafe.report.widths import widths_figure
from edgesafe.report.words import ABSENT, clean, size

__all__ = ["MAX_BYTES", "make"]

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Detail:
    """How much is shown. A study too large for 1 MB is shown with less, and the page says what was left out."""

    keys: frozenset[str]  #: groups with reliability diagrams and heat maps
    layers: frozenset[str]  #: groups with layer tables
    best: frozenset[str]  #: the best groups
    samples: bool = True
    left_out: str = ""


def make(view: View) -> ReportFiles:
    """All four files. See `edgesafe.report.build`."""
    groups, series = grouped(view)
    chosen, names = best(pareto(groups, view), view), [s.name for s in series]
    context = _context(view, groups, series, chosen)
    deep = deep_parts(view, groups)
    environment = Environment(
        loader=PackageLoader("edgesafe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    page = ""
    for detail in _details(groups, chosen):
        page = template.render(**context, **_detailed(view, deep, detail, names))
        if len(page.encode()) < MAX_BYTES:
            break
    else:
        raise RefusedError(
            f"the page would be {size(len(page.encode()))}",
            where=view.study.record.name,
            fix="split the recipe into smaller studies",
        )
    extra = {d.variant: {METRIC: d.risks[0].measurement} for d in deep if d.risks is not None}
    return ReportFiles(
        page, to_markdown(view, groups, chosen), to_csv(view, groups, extra), to_json(view, groups, chosen, extra)
    )


def _context(view: View, groups: Sequence[Group], series: Sequence[Series], chosen: Sequence[Best]) -> dict[str, Any]:
    """The parts that every page shows."""
    points, names = pareto(groups, view), [s.name for s in series]
    return {
        "view": view,
        "groups": groups,
        "lead": lead(view, groups),
        "verdict": verdict_box(view, groups),
        "cards": cards(chosen),
        "best_rule": BEST_RULE,
        "compressed": sum(not g.is_baseline for g in groups),
        "forest": forest(view, groups),
        "quality": tables.quality_table(view, groups),
        "cost_table": tables.cost_table(view, groups),
        "differences": tables.differences_table(view, groups),
        "basis": basis_table(view, groups),
        "unfinished": tables.unfinished_table(view),
        "paper": [
            part
            for part in (
                lines.ratio_figure(view, groups, series),
                lines.severity_figure(view, groups, series, "mpc"),
                lines.severity_figure(view, groups, series, "ece_em10_top1"),
            )
            if part is not None
        ],
        "profile": None if any(g.ratio > 0 for g in groups) else lines.profile_figure(view, groups),
        "cost": figures.pareto_figure(points, names),
        "caution": temperature_caution(view, groups),
        "sampled": sampled_note(view, groups),
        "widths": widths_figure(groups, names),
        "provenance": tables.provenance_table(view),
        "provenance_facts": provenance_facts(view),
        "recipe": json.dumps(view.study.record.recipe, indent=1, sort_keys=True),
        "limits": limits(view),
        "absent": ABSENT,
        "clean": clean,
    }


def _detailed(view: View, deep: Sequence[Deep], detail: Detail, names: Sequence[str]) -> dict[str, Any]:
    """The parts that a large study shows for some variants only."""
    risks = risk_rows([d for d in deep if d.group.key in detail.keys], names)
    return {
        "risk": risk_figure(risks, detail.best),
        "reliability": [d for d in deep if d.group.key in detail.keys and d.panels],
        "heat": [d.heat for d in deep if d.group.key in detail.keys and d.heat is not None],
        "layers": [d for d in deep if d.group.key in detail.layers and d.layers is not None],
        "samples": samples_uri(view) if detail.samples else "",
        "left_out": detail.left_out,
    }


def _details(groups: Sequence[Group], chosen: Sequence[Best]) -> Iterator[Detail]:
    """From everything to the least."""
    every = frozenset(g.key for g in groups)
    few = frozenset([b.group.key for b in chosen] + [g.key for g in groups if g.is_baseline])
    yield Detail(every, every, few)
    yield Detail(every, few, few, True, "the layer tables of all but the best variants")
    yield Detail(few, few, few, True, "the diagrams, heat maps and layer tables of all but the best variants")
    yield Detail(
        few,
        few,
        few,
        False,
        "the sample images, and the diagrams, heat maps and layer tables of all but the best variants",
    )
    yield Detail(
        frozenset(), frozenset(), few, False, "sample images, reliability diagrams, heat maps and layer tables"
    )
