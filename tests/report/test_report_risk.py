"""The risk-coverage figure shows what the evidence says: by a naive count, with ties, in any order of images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from report_synthetic import Plan, changed, study

from edgesafe.measure.metrics.calibration import aurc
from edgesafe.records import Cell, Measurement, Unit
from edgesafe.report import View, build
from edgesafe.report.deep import deep_parts, risk_rows
from edgesafe.report.results import ResultsFile
from edgesafe.report.risk import (
    METRIC,
    _curve,
    risk_figure,
    risk_of,
)
from edgesafe.report.view import grouped


def _naive(cell: Cell, coverage: float) -> tuple[float, int]:
    """Risk and images kept at the highest threshold that keeps enough, trying each."""
    right = cell.prediction == cell.label
    for threshold in sorted(set(cell.confidence.tolist()), reverse=True):
        kept = cell.confidence >= threshold
        if kept.sum() >= coverage * len(right) - 1e-9:
            return float((~right[kept]).mean()), int(kept.sum())
    raise AssertionError


def _shuffled(cell: Cell) -> Cell:
    p = np.random.default_rng(5).permutation(len(cell.index))
    arrays = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
    return Cell(**{k: v[p] if isinstance(v, np.ndarray) else v for k, v in arrays.items()})


def _coarse(cell: Cell) -> Cell:
    return dataclasses.replace(cell, confidence=np.round(cell.confidence, 1))


@pytest.mark.parametrize("change", [lambda c: c, _shuffled, _coarse, lambda c: _shuffled(_coarse(c))])
def test_the_numbers_are_those_of_a_naive_count(view: View, change) -> None:
    cell = change(view.evidence["filter-r0.50-s0"].clean)
    risk, (expected, kept) = risk_of(cell, view, "filter-r0.50-s0"), _naive(cell, 0.8)
    m = risk.measurement
    assert m.estimate == pytest.approx(expected, abs=1e-12) and m.n == kept
    assert risk.area == aurc(cell.confidence, cell.prediction == cell.label)
    assert m.low is not None and m.high is not None and m.low < m.estimate < m.high and m.se
    assert m.population.description.startswith("synthetic; those of confidence ") and "threshold" in m.method


def test_order_never_matters_where_confidences_tie(view: View) -> None:
    cell = _coarse(view.evidence["filter-r0.50-s0"].clean)
    one, other = risk_of(cell, view, "x"), risk_of(_shuffled(cell), view, "x")
    assert one.measurement == other.measurement and one.area == pytest.approx(other.area, abs=1e-12)
    for a, b in zip(_curve(one), _curve(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_line_is_drawn_at_thresholds_that_exist(view: View) -> None:
    cell = view.evidence["baseline-s0"].clean
    coverage, risk = _curve(risk_of(cell, view, "baseline-s0"))
    assert coverage[-1] == 1.0 and np.all(np.diff(coverage) > 0) and len(coverage) <= 50
    for c, r in zip(coverage, risk, strict=True):
        assert r == pytest.approx(_naive(cell, c)[0], abs=1e-12)


def test_one_panel_per_variant_beside_its_baseline(view: View) -> None:
    groups, series = grouped(view)
    rows = risk_rows(deep_parts(view, groups), [s.name for s in series])
    part = risk_figure(rows)
    assert part is not None and len(part.panels) == len(groups) - 1 and len(part.table.rows) == len(groups)
    for row, panel in zip(rows[1:], part.panels, strict=True):
        assert row.baseline is not None
        for risk in (row.own, row.baseline):
            assert f"{risk.area:.4f}" in panel.svg
            assert f"{risk.at.interval.estimate * 100:.2f} % wrong at 8" in panel.svg
    assert "SE " in part.table.rows[1][2].small and "interval not measured" in part.table.rows[1][1].small


def test_the_baseline_alone_and_nothing_at_all(view: View) -> None:
    groups, _ = grouped(view)
    alone = risk_figure(risk_rows(deep_parts(view, groups[:1]), []))
    assert alone is not None and len(alone.panels) == 1
    assert risk_figure(()) is None


def test_a_network_without_an_error_has_a_flat_line() -> None:
    n = 50
    right = np.zeros(n, np.int64)
    cell = Cell("", 0, np.arange(n), right, right, np.linspace(0.5, 1.0, n), np.zeros(n), np.ones(n))
    view = study(Plan(variants=(), gated=False, n=60, corruptions=(), evidence=False))
    risk = risk_of(cell, view, "nobody")
    assert risk.area == 0.0 and risk.at.interval.estimate == 0.0 and risk.at.interval.high > 0.0
    assert risk.measurement.population.description.startswith("images like the test images; ")


def test_a_measured_area_brings_its_interval(small: View) -> None:
    m = small.measurements["filter-r0.50-s0"]
    area = Measurement(
        metric="aurc",
        estimate=0.02,
        low=0.0181,
        high=0.0219,
        se=0.00097,
        n=200,
        method="jackknife-log",
        unit=Unit.SCORE,
    )
    other = m.model_copy(update={"metrics": {**m.metrics, "aurc": area}})
    html = build(changed(small, measurements={**small.measurements, "filter-r0.50-s0": other})).html
    assert "0.0181–0.0219\nSE 0.00097" in html  # noqa: RUF001


def test_results_hold_the_risk_with_its_interval_and_population(view: View) -> None:
    files = build(view)
    for v in ResultsFile.model_validate_json(files.json).variants:
        assert v.derived[METRIC].estimate == pytest.approx(_naive(view.evidence[v.id].clean, 0.8)[0])
    assert files.csv.count(f",{METRIC},derived,") == len(view.variants)


def test_of_many_variants_the_best_are_drawn_and_all_are_tabulated(view: View) -> None:
    groups, _ = grouped(view)
    one = risk_rows(deep_parts(view, groups[:2]), [])[1]
    rows = [dataclasses.replace(one, key=f"k{i}") for i in range(12)]
    for best, drawn, said in (({"k3", "k7"}, 2, "Drawn: the best"), (set(), 9, "Drawn: the first 9")):
        part = risk_figure(rows, best)
        assert part is not None and len(part.panels) == drawn and len(part.table.rows) == 12 and said in part.note
