"""The page: gathers the parts, lays them out with the template, and keeps it under 1 MB, saying what is left out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgesafe.display import ABSENT, WORST_FIRST, clean
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Task, Verdict
from edgesafe.report import figures, lines, tables
from edgesafe.report.basis import basis_table
from edgesafe.report.cautions import sampled_note, slower_note, temperature_caution
from edgesafe.report.certificates import certificates_part
from edgesafe.report.deep import Deep, deep_parts, risk_rows
from edgesafe.report.deviation import deviation_figure
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
from edgesafe.report.searched import search_part
from edgesafe.report.stats import (
    BEST_RULE,
    LEAST_BEST,
    BestGroup,
    Pareto,
    best,
    pareto,
    ranking,
)
from edgesafe.report.terms import terms
from edgesafe.report.view import (
    Group,
    ReportFiles,
    Series,
    View,
    grouped,
)
from edgesafe.report.widths import widths_figure

__all__ = ["MAX_BYTES", "make"]

MAX_BYTES = 1_000_000


#: A larger study is shown by its baseline, its best and the first others: so many variants, and so many gates.
MOST_GROUPS, FEWER_GROUPS, MOST_GATES = 32, 24, 24


@dataclass(frozen=True)
class Detail:
    """How much is shown. A study too large for 1 MB is shown with less, and the page says what was left out."""

    keys: frozenset[str]  #: groups with reliability diagrams and heat maps
    layers: frozenset[str]  #: groups with layer tables
    best: frozenset[str]  #: the best groups
    samples: bool = True
    left_out: str = ""


@dataclass(frozen=True)
class Extract:
    """The part of a study that the page shows, and in words what it leaves out."""

    view: View
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()


def make(view: View) -> ReportFiles:
    """The contents of the four files of the report; arguments and errors as of `edgesafe.report.build`."""
    groups, series = grouped(view)
    points = pareto(groups, view)
    chosen = best(points, view)
    template = Environment(
        loader=PackageLoader("edgesafe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.j2")
    page, extract = "", Extract(view, groups)
    deep: tuple[Deep, ...] = ()
    for most in (MOST_GROUPS, FEWER_GROUPS, LEAST_BEST, 0):
        extract = _extract(view, points, chosen, most)
        names = [s.name for s in series if any(g.series == s.name for g in extract.groups)]
        deep = deep_parts(extract.view, _wanted(extract, chosen))
        context = _context(view, extract, series, chosen)
        for detail in _details(extract, chosen):
            page = template.render(**context, **_detailed(extract.view, deep, detail, names))
            if len(page.encode()) < MAX_BYTES:
                break
        else:
            continue
        break
    extra = {d.variant: {METRIC: d.risks[0].measurement} for d in deep if d.risks is not None}
    markdown = to_markdown(extract.view, extract.groups, chosen, extract.left_out)
    return ReportFiles(page, markdown, to_csv(view, groups, extra), to_json(view, groups, chosen, extra))


def _wanted(extract: Extract, chosen: Sequence[BestGroup]) -> Sequence[Group]:
    """The groups that are looked at one by one: all, or of a study that is shown in part the baseline and the best."""
    if not extract.left_out:
        return extract.groups
    few = {b.group.key for b in chosen}
    return [g for g in extract.groups if g.is_baseline or g.key in few]


def _extract(view: View, points: Sequence[Pareto], chosen: Sequence[BestGroup], most: int) -> Extract:
    """The baseline, the best, and the first others by the order of the best, at most `most` of them."""
    groups = tuple(p.group for p in points)
    if len(groups) > most:
        most = min(most, FEWER_GROUPS)
        baseline = next((p for p in points if p.group.is_baseline), None)
        first = {b.group.key: -1 for b in chosen}
        order = sorted(
            points,
            key=lambda p: (
                not p.group.is_baseline, first.get(p.group.key, 0), ranking(p, p.group.status(view), baseline),
            ),
        )  # fmt: skip
        keys = {p.group.key for p in order[: max(most, 1 + len(chosen))]}
        groups = tuple(g for g in groups if g.key in keys)
    hidden = {v.id for v in view.variants} - {v.id for g in groups for v in g.members}
    gates = _shown_gates(view.verdict)
    said = []
    if hidden:
        said.append(
            f"{len(points) - len(groups)} of {len(points)} variants (shown: the baseline, the best, and the first "
            "others in their order)"
        )
    if view.verdict is not None and (fewer := len({(g.id, g.rule) for g in view.verdict.gates}) - len(gates)) > 0:
        said.append(f"{fewer} gates (shown: those with the worst results)")
    return Extract(_without(view, hidden, gates) if said else view, groups, tuple(said))


def _shown_gates(verdict: Verdict | None) -> set[tuple[str, str]]:
    """Gates and rules with a panel of their own: all, or those with the worst results."""
    if verdict is None:
        return set()
    worst_of: dict[tuple[str, str], int] = {}
    for result in verdict.gates:
        key, rank = (result.id, result.rule), WORST_FIRST.index(result.status)
        worst_of[key] = min(worst_of.get(key, rank), rank)
    return set(sorted(worst_of, key=worst_of.__getitem__)[:MOST_GATES])


def _without(view: View, hidden: Collection[str], gates: Collection[tuple[str, str]]) -> View:
    """The study as if it had neither the hidden variants nor other gates than these."""
    verdict = view.verdict
    if verdict is not None:
        kept = tuple(g for g in verdict.gates if g.variant not in hidden and (g.id, g.rule) in gates)
        verdict = verdict.model_copy(update={"gates": kept, "notes": verdict.notes[:MOST_GATES]})
    entries = tuple(entry for entry in view.study.record.variants if entry.id not in hidden)
    study = replace(
        view.study,
        record=view.study.record.model_copy(update={"variants": entries}),
        variants=tuple(variant for variant in view.study.variants if variant.id not in hidden),
    )
    return replace(view, study=study, verdict=verdict)


def _context(whole: View, extract: Extract, series: Sequence[Series], chosen: Sequence[BestGroup]) -> dict[str, Any]:
    """The parts that every page shows: what was compressed and the verdict of the whole study, else of the extract."""
    view, groups = extract.view, extract.groups
    kept = {g.key for g in groups}
    series = [replace(s, groups=own) for s in series if (own := tuple(g for g in s.groups if g.key in kept))]
    points, names = pareto(groups, view), [s.name for s in series]
    everything, siblings = grouped(whole)[0], tables.siblings_table(view, groups)
    return {
        "view": view,
        "groups": groups,
        "lead": lead(whole, everything),
        "verdict": verdict_box(whole, groups),
        "cards": cards(chosen),
        "best_rule": BEST_RULE,
        "compressed": sum(not g.is_baseline for g in everything),
        "forest": forest(view, groups),
        "certificates": certificates_part(view, groups),
        "search": search_part(whole),
        "quality": tables.quality_table(view, groups),
        "cost_table": tables.cost_table(view, groups),
        "differences": tables.differences_table(view, groups),
        "siblings": siblings,
        "slower": slower_note(view, groups),
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
        "deviation": deviation_figure(view, groups, names),
        "provenance": tables.provenance_table(view),
        "provenance_facts": provenance_facts(view),
        "recipe": json.dumps(view.study.record.recipe, indent=1, sort_keys=True),
        "limits": limits(view),
        "calibrated": rules_of(view.study.record.data.task or Task()).calibrated,
        "terms": terms(view.study.record.data.kind, siblings=siblings is not None),
        "fewer": ", and ".join(extract.left_out),
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
        "witnesses": detail.samples,
        "left_out": detail.left_out,
    }


def _details(extract: Extract, chosen: Sequence[BestGroup]) -> Iterator[Detail]:
    """The levels of detail to try, from everything to the least, until the page is small enough."""
    every = frozenset(g.key for g in extract.groups)
    few = frozenset([b.group.key for b in chosen] + [g.key for g in extract.groups if g.is_baseline])
    but_best, parts = "of all but the best variants", "the diagrams, heat maps and layer tables"

    def said(*more: str) -> str:
        return ", and ".join((*extract.left_out, *more))

    if not extract.left_out:
        yield Detail(every, every, few)
        yield Detail(every, few, few, True, f"the layer tables {but_best}")
    yield Detail(few, few, few, True, said(f"{parts} {but_best}"))
    yield Detail(few, few, few, False, said(f"the sample images, and {parts} {but_best}"))
    yield Detail(
        frozenset(), frozenset(), few, False, said("sample images, reliability diagrams, heat maps and layer tables")
    )
