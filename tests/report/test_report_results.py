"""results.json against its shipped schema, results.csv against the records, report.md in shape."""

from __future__ import annotations

import csv
import io
import json
from importlib.resources import files as package_files

import pytest
from report_synthetic import Plan, changed, study

from edgesafe.report import ReportFiles, View, build
from edgesafe.report.results import (
    CSV_COLUMNS,
    ResultsFile,
    json_schema,
    to_markdown,
)
from edgesafe.report.stats import best, pareto
from edgesafe.report.view import grouped


def _shipped() -> dict:
    return json.loads((package_files("edgesafe.report") / "results.schema.json").read_text(encoding="utf-8"))


def test_the_shipped_schema_is_that_of_the_records() -> None:
    assert _shipped() == json_schema(), (
        "regenerate: python -m edgesafe.report.results > src/edgesafe/report/results.schema.json"
    )


def test_the_schema_accepts_our_files_and_refuses_others(files: ReportFiles) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(_shipped())
    validator.check_schema(_shipped())
    good = json.loads(files.json)
    validator.validate(good)
    for broken in (
        {**good, "schema": "edgesafe.results/3"},
        {**good, "extra": 1},
        {k: v for k, v in good.items() if k != "variants"},
        {**good, "variants": [{**good["variants"][0], "status": "perhaps"}]},
    ):
        assert not validator.is_valid(broken)


def test_json_holds_every_number(view: View, files: ReportFiles) -> None:
    results = ResultsFile.model_validate_json(files.json)
    assert {v.id for v in results.variants} == {v.id for v in view.variants}
    for v in results.variants:
        assert v.measurements == view.measurements[v.id].metrics
        assert v.differences == view.measurements[v.id].differences
    assert results.verdict == view.verdict
    assert "NaN" not in files.json and "Infinity" not in files.json and files.json.isascii()


def test_csv_has_one_row_per_variant_and_metric(view: View, files: ReportFiles) -> None:
    rows = list(csv.DictReader(io.StringIO(files.csv)))
    assert tuple(rows[0]) == CSV_COLUMNS
    derived = {v.id: v.derived for v in ResultsFile.model_validate_json(files.json).variants}
    assert len(rows) == sum(len(m.metrics) + len(m.differences) + len(derived[i]) for i, m in view.measurements.items())
    for row in rows:
        m = view.measurements[row["variant"]]
        source = {"value": m.metrics, "difference": m.differences, "derived": derived[row["variant"]]}[row["kind"]][
            row["metric"]
        ]
        assert float(row["estimate"]) == source.estimate
        assert (float(row["low"]) if row["low"] else None) == source.low
        assert int(row["n"]) == source.n and row["unit"] == source.unit
        assert (float(row["se"]) if row["se"] else None) == source.se
        assert (
            row["population"] == (source.population.description if source.population else "")
            and row["interval_method"] == source.method
        )
        assert bool(row["interval_level"]) == (source.low is not None)


def test_refused_and_pending_variants_are_listed(small: View) -> None:
    from edgesafe.records import Role, VariantEntry

    entries = (
        *small.study.record.variants,
        VariantEntry(
            id="filter-r0.90-s0",
            role=Role.CANDIDATE,
            label="filter",
            group="filter-r0.90",
            method="filter",
            ratio=0.9,
            seed=0,
            status="refused",
            reason="layer1.0.conv1: too narrow",
        ),
        VariantEntry(
            id="filter-r0.95-s0",
            role=Role.CANDIDATE,
            label="filter",
            group="filter-r0.95",
            method="filter",
            ratio=0.95,
            seed=0,
            status="pending",
        ),
    )
    files = build(changed(small, record=small.study.record.model_copy(update={"variants": entries})))
    assert "too narrow" in files.html and "pending" in files.html
    assert "filter-r0.90-s0" in files.markdown
    status = {v.id: v.status for v in ResultsFile.model_validate_json(files.json).variants}
    assert status["filter-r0.90-s0"] == "refused" and status["filter-r0.95-s0"] == "pending"


def test_markdown_is_short_and_a_table(files: ReportFiles, view: View) -> None:
    lines = files.markdown.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(view.variants)
    assert {line.count("|") for line in table} == {8}
    assert len(files.markdown) < 10_000
    assert "FAIL" in files.markdown


def test_markdown_of_a_large_study_is_still_short() -> None:
    large = study(
        Plan(variants=tuple(("filter", r / 40) for r in range(1, 25)), n=100, corruptions=(), evidence=False, layers=3)
    )
    groups, _ = grouped(large)
    assert len(to_markdown(large, groups, best(pareto(groups, large), large))) < 20_000
