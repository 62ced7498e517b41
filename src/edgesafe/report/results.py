"""The report for machines: results.json (schema edgesafe.results/2), results.csv, and report.md for pull requests."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from edgesafe import metrics
from edgesafe.display import ABSENT, STATUS, clean, markdown, number, size
from edgesafe.records import (
    Artefact,
    Comparison,
    Conversion,
    DataIdentity,
    Host,
    Lineage,
    Measurement,
    Parity,
    Precision,
    Record,
    Temperature,
    VariantStatus,
    Verdict,
)
from edgesafe.report.cautions import sampled_note, slower_note, temperature_caution
from edgesafe.report.certificates import set_ids
from edgesafe.report.searched import summary_of
from edgesafe.report.stats import BEST_RULE, BestGroup, shipped_bytes
from edgesafe.report.strategies import any_certified
from edgesafe.report.view import Group, Value, View
from edgesafe.report.words import interval, speed

__all__ = ["RESULTS_SCHEMA", "ResultsFile", "VariantResult", "json_schema", "to_csv", "to_json", "to_markdown"]

RESULTS_SCHEMA = "edgesafe.results/2"

Derived = Mapping[str, Mapping[str, Measurement]]
"""By variant id and metric: what the page computes from stored evidence, of the seeds that it shows."""


class VariantResult(Record):
    """One variant with all its numbers. `status` "refused" or "pending": it has none."""

    id: str
    group: str  #: variants that differ by seed only share it
    method: str
    ratio: float
    seed: int
    status: VariantStatus
    reason: str = ""
    arch: str = ""
    params: int | None = None
    macs: int | None = None
    sparsity: float | None = None
    precision: Precision = Precision.FP32
    baseline: str | None = None  #: what `differences` are against
    sibling: str | None = None  #: what `sibling_differences` are against: the fp32 variant with the same weights
    conversion: Conversion | None = None
    artefacts: tuple[Artefact, ...] = ()
    parity: tuple[Parity, ...] = ()
    temperature: Temperature | None = None
    lineage: Lineage | None = None
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    differences: dict[str, Comparison] = Field(default_factory=dict)
    sibling_differences: dict[str, Comparison] = Field(default_factory=dict)
    derived: dict[str, Measurement] = Field(default_factory=dict)  #: computed for the page from stored evidence


class ResultsFile(Record):
    """The content of results.json: the study's identity, all variants with their numbers, the best, and the verdict."""

    schema_: Literal["edgesafe.results/2"] = Field(default="edgesafe.results/2", alias="schema")
    study: str
    edgesafe: str  #: version that ran the study
    recipe_sha256: str
    digest: str
    data: DataIdentity
    host: Host
    variants: tuple[VariantResult, ...]
    best: tuple[str, ...]  #: groups, best first
    best_rule: str
    verdict: Verdict | None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json (draft 2020-12), as shipped in results.schema.json."""
    schema = ResultsFile.model_json_schema(by_alias=True, mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": RESULTS_SCHEMA,
        **schema,
        "title": RESULTS_SCHEMA,
    }


def _variants(view: View, groups: Sequence[Group], derived: Derived) -> tuple[VariantResult, ...]:
    """Every variant of the study, finished ones with their numbers."""
    out = []
    for g in groups:
        for v in g.members:
            m = view.measurements.get(v.id)
            out.append(
                VariantResult(
                    id=v.id,
                    group=g.key,
                    method=v.method,
                    ratio=v.ratio,
                    seed=v.seed,
                    status=VariantStatus.DONE,
                    arch=v.arch,
                    params=v.params,
                    macs=v.macs,
                    sparsity=v.sparsity,
                    precision=v.precision,
                    baseline=m.baseline if m else None,
                    sibling=m.sibling if m else None,
                    conversion=v.conversion,
                    artefacts=v.artefacts,
                    parity=v.parity,
                    temperature=v.temperature,
                    lineage=v.lineage,
                    measurements=m.metrics if m else {},
                    differences=m.differences if m else {},
                    sibling_differences=m.sibling_differences if m else {},
                    derived=dict(derived.get(v.id, {})),
                )
            )
    out += [
        VariantResult(
            id=e.id,
            group=e.group,
            method=e.method,
            ratio=e.ratio,
            seed=e.seed,
            precision=e.precision,
            status=e.status,
            reason=e.reason,
        )
        for e in view.unfinished()
    ]
    return tuple(out)


def to_json(view: View, groups: Sequence[Group], best: Sequence[BestGroup], derived: Derived) -> str:
    """results.json: sorted keys, ASCII, one trailing newline; the same study gives the same bytes."""
    results = ResultsFile(
        study=view.study.record.name,
        edgesafe=view.study.record.edgesafe,
        recipe_sha256=view.study.record.recipe_sha256,
        digest=view.study.record.digest,
        data=view.study.record.data,
        host=view.study.record.host,
        variants=_variants(view, groups, derived),
        best=tuple(b.group.key for b in best),
        best_rule=BEST_RULE,
        verdict=view.verdict,
    )
    return json.dumps(results.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True, allow_nan=False) + "\n"


CSV_COLUMNS = (
    "study",
    "variant",
    "method",
    "ratio",
    "seed",
    "precision",
    "metric",
    "kind",
    "estimate",
    "low",
    "high",
    "se",
    "interval_level",
    "n",
    "unit",
    "interval_method",
    "baseline",
    "population",
    "noise_floor",
)


def _guarded(text: str) -> str:
    """The text of a CSV cell; one that a spreadsheet would run as a formula (= + - @) begins with an apostrophe."""
    text = clean(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_csv(view: View, groups: Sequence[Group], derived: Derived) -> str:
    """results.csv: a row per variant and metric ("value", "derived") and per paired difference; RFC 4180, LF."""
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator="\n")
    out.writerow(CSV_COLUMNS)
    for v in (v for g in groups for v in g.members):
        measured = view.measurements.get(v.id)
        if measured is None:
            continue
        head = [_guarded(view.study.record.name), _guarded(v.id), _guarded(v.method), repr(v.ratio), v.seed]
        head.append(v.precision.value)
        all_of: list[tuple[str, Measurement | Comparison]] = [("value", m) for _, m in sorted(measured.metrics.items())]
        all_of += [("difference", d) for _, d in sorted(measured.differences.items())]
        all_of += [("sibling difference", d) for _, d in sorted(measured.sibling_differences.items())]
        all_of += [("derived", m) for _, m in sorted(derived.get(v.id, {}).items())]
        for kind, m in all_of:
            against = {"difference": measured.baseline, "sibling difference": measured.sibling}.get(kind)
            base = _guarded(against or "")
            out.writerow(
                [
                    *head,
                    *_csv_cells(kind, m),
                    base,
                    _guarded(m.population.description if m.population is not None else ""),
                    _csv_floor(m),
                ]
            )
    return buffer.getvalue()


def _csv_cells(kind: str, m: Measurement | Comparison) -> list[str | int]:
    """One number and how it was got; a number without an interval has no confidence."""
    numbers = ["" if x is None else repr(x) for x in (m.estimate, m.low, m.high, m.se)]
    level = "" if m.low is None and m.high is None else repr(m.interval_level)
    return [_guarded(m.metric), kind, *numbers, level, m.n, m.unit.value, _guarded(m.method)]


def _csv_floor(m: Measurement | Comparison) -> str:
    """The noise floor of a calibration error."""
    return repr(m.noise_floor) if isinstance(m, Measurement) and m.noise_floor is not None else ""


def _md(text: str) -> str:
    """Text of others in Markdown, at most 200 characters."""
    return markdown(clean(text))


def _md_value(value: Value | None, unit: str = "", *, signed: bool = False) -> str:
    """A number, its unit and its interval: 91.73 % (91.17 to 92.25)."""
    if value is None:
        return ABSENT
    return f"{number(value.estimate, value.unit, signed=signed)}{unit} ({interval(value, signed=signed)})"


def _own_metric(view: View) -> str:
    """The metric that the Markdown table shows beside accuracy: the calibration error, or else the task's own."""
    return next(m for m in ("ece_em10_top1", "pck@2") if view.study.record.data.kind in metrics.get(m).tasks)


def to_markdown(view: View, groups: Sequence[Group], best: Sequence[BestGroup], left_out: Sequence[str] = ()) -> str:
    """report.md: the verdict, one table and the best variants, short enough for a pull request."""
    out = [f"## edgesafe: {_md(view.study.record.name)}", ""]
    verdict = view.verdict
    if verdict is None:
        out.append("No verdict: `edgesafe gate` has not been run on this study.")
    else:
        look = STATUS[verdict.overall]
        failed = [g for g in verdict.gates if not g.status.passes]
        passed = f"{len(verdict.gates) - len(failed)} of {len(verdict.gates)} decisions passed"
        out.append(f"**{look.mark} {look.word.upper()}**: {passed}.")
        out += [f"- {STATUS[g.status].mark} {_md(g.variant)}, {_md(g.id)}: {_md(g.message)}" for g in failed[:8]]
        if len(failed) > 8:
            out.append(f"- and {len(failed) - 8} more: see the page.")
    own = _own_metric(view)
    out += [
        "",
        f"| variant | accuracy | Δ accuracy, pp | {metrics.title(own)} | Δ mPC, pp | latency | file |",
        "|---|---|---|---|---|---|---|",
    ]
    out += [f"| {' | '.join(_md_row(g, view, own))} |" for g in groups]
    out += _md_certified(groups, view)
    if left_out:
        out += ["", f"Left out: {', and '.join(left_out)}; all are in results.json."]
    if best:
        out += ["", "Best: " + ", ".join(_md(b.group.label) for b in best) + ".", "", f"<sub>{BEST_RULE}</sub>"]
    if (note := sampled_note(view, groups)) is not None:
        out += ["", _md(note)]
    if (note := slower_note(view, groups)) is not None:
        out += ["", f"**Not faster.** {_md(note)}"]
    if (caution := temperature_caution(view, groups)) is not None:
        out += ["", f"**! {caution.head}** {caution.reason} {caution.advice}", ""]  # no user's text
        out += [f"- {_md(line)}" for line in caution.variants]
    if (record := view.study.search()) is not None:
        out += ["", _md(summary_of(record))]
    if missing := view.unfinished():
        out += ["", f"Without a result: {', '.join(_md(e.id) for e in missing)}."]
    out += [
        "",
        f"Measured on the exported ONNX files, on {_md(view.study.record.host.cpu)}. "
        "Evidence for a safety argument, not a certificate.",
    ]
    return "\n".join(out) + "\n"


def _md_certified(groups: Sequence[Group], view: View) -> list[str]:
    """A table of what each group keeps certified, a column per set; no line where nothing was certified."""
    ids = set_ids(view)
    points = any_certified(view, groups, ids, "certified_points")
    metric, what = ("certified_points", "keypoints") if points else ("certified_accuracy", "images")
    if not ids:
        return []
    rows = [
        [_md(group.label), *(_md_value(group.value(view, f"{metric}.{name}"), " %") for name in ids)]
        for group in groups
    ]
    heads = " | ".join(f"certified {what}, {_md(name)}" for name in ids)
    return ["", f"| variant | {heads} |", "|---" * (1 + len(ids)) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _md_row(group: Group, view: View, own: str) -> list[str]:
    """The cells of one group's row in the Markdown table."""
    ratio, file = group.value(view, "latency.ratio"), shipped_bytes(group, view)
    drop = "reference" if group.is_baseline else _md_value(group.difference(view, "accuracy"), signed=True)
    robust = "reference" if group.is_baseline else _md_value(group.difference(view, "mpc"), signed=True)
    fast = "reference" if group.is_baseline else speed(ratio)
    return [
        _md(group.label),
        _md_value(group.value(view, "accuracy"), " %"),
        drop,
        _md_value(group.value(view, own), " %"),
        robust,
        fast,
        ABSENT if file is None else size(file),
    ]


if __name__ == "__main__":  # how results.schema.json is made
    import sys

    sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")
