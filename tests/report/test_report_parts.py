"""What is drawn and tabulated is what was measured: bounds, sides, directions, worst cases."""

from __future__ import annotations

import numpy as np
import pytest
from report_synthetic import LARGE, Plan, changed, study

from edgesafe.display import error
from edgesafe.policy.outputs import to_text
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import GateResult, GateStatus, InputRecord, Unit
from edgesafe.report import ReportFiles, View, svg
from edgesafe.report.basis import basis_table
from edgesafe.report.deep import deep_parts
from edgesafe.report.forest import (
    _axis_words,
    _failing_side,
    _rows,
    forest,
)
from edgesafe.report.head import lead, provenance_facts
from edgesafe.report.lines import Line, _draw_line
from edgesafe.report.results import ResultsFile
from edgesafe.report.stats import CellDifference, best, pareto
from edgesafe.report.tables import (
    cost_table,
    differences_table,
    heat_table,
    layer_table,
    quality_table,
)
from edgesafe.report.view import Value, grouped

MINUS = "\u2212"


def _texts(row: tuple) -> list[str]:
    return [cell.text for cell in row]


def test_heat_cells_show_sign_size_and_doubt() -> None:
    cells = [
        CellDifference("fog", 1, -0.0312, -0.05, -0.01, 400),
        CellDifference("fog", 2, -0.0312, -0.07, 0.01, 400),
        CellDifference("fog", 3, 0.004, 0.001, 0.007, 400),
        CellDifference("gaussian_noise", 1, -0.2, -0.3, -0.1, 400),
        CellDifference("my_own", 3, 0.06, 0.01, 0.11, 400),
    ]
    table = heat_table("x", cells, CORRUPTIONS)
    assert [c.text for c in table.columns] == ["Corruption", "1", "2", "3"]
    assert [r[0].text for r in table.rows] == ["gaussian noise", "fog", "my own"]
    fog = table.rows[1]
    assert [(c.text, c.kind) for c in fog[1:]] == [(f"{MINUS}3.1", "hn3"), (f"({MINUS}3.1)", "h0"), ("+0.4", "hp1")]
    assert table.rows[0][1].kind == "hn4" and table.rows[2][3].kind == "hp4"
    assert table.rows[0][2].text == "n. m.", "a cell that was not measured"


def test_differences_say_which_way_is_worse(view: View) -> None:
    groups, _ = grouped(view)
    table = differences_table(view, groups)
    assert table is not None
    for row in table.rows:
        group = next(g for g in groups if g.label == row[0].text)
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            metric = {"Δ Accuracy": "accuracy", "Δ mPC": "mpc", "Δ ECE": "ece_em10_top1", "Δ NLL": "nll"}.get(
                column.text
            )
            if metric is None:
                continue
            d = view.measurements[group.first.id].differences[metric]
            good_if_up = metric in ("accuracy", "mpc")
            expected = "" if d.low <= 0 <= d.high else ("better" if (d.estimate > 0) == good_if_up else "worse")
            assert cell.kind == expected
            assert (expected or "no clear change") in cell.small


def test_quality_and_cost_are_the_measurements(view: View) -> None:
    groups, _ = grouped(view)
    quality, cost = quality_table(view, groups), cost_table(view, groups)
    for group, row in zip(groups, quality.rows, strict=True):
        m = view.measurements[group.first.id].metrics["accuracy"]
        assert row[2].text == f"{m.estimate * 100:.2f}" and row[2].small == (
            f"{m.low * 100:.2f}–{m.high * 100:.2f}\nSE {error(m.se, Unit.FRACTION)}"  # noqa: RUF001
        )
    by_name = {r[0].text: _texts(r) for r in cost.rows}
    assert "no speed-up" in by_name["weight 50 %"] and "1.60 times as fast" in by_name["filter 50 %"]
    assert by_name["baseline"][4] == "reference"


def test_the_noise_floor_stands_under_the_error(view: View) -> None:
    m = view.measurements["baseline-s0"]
    ece = m.metrics["ece_em10_top1"].model_copy(update={"noise_floor": 0.0123})
    other = m.model_copy(update={"metrics": {**m.metrics, "ece_em10_top1": ece}})
    with_floor = changed(view, measurements={**view.measurements, "baseline-s0": other})
    groups, _ = grouped(with_floor)
    assert "floor 1.23" in quality_table(with_floor, groups).rows[0][3].small


def test_reliability_after_temperature_is_what_was_measured(view: View) -> None:
    groups, _ = grouped(view)
    for part in deep_parts(view, groups[:2]):
        metrics = view.measurements[part.variant].metrics
        before, after = part.panels
        assert f"ECE {metrics['ece_em10_top1'].estimate * 100:.2f} %" in before.svg
        assert f"ECE {metrics['ece_em10_top1.calibrated'].estimate * 100:.2f} %" in after.svg


def _value(estimate: float, low: float | None, high: float | None, seeds: int = 1) -> Value:
    return Value("accuracy", estimate, low, high, Unit.FRACTION, seeds, 100, "x")


def test_lines_draw_the_interval_or_the_band() -> None:
    points = (_value(0.9, 0.88, 0.93), None, _value(0.8, 0.75, 0.82))
    with svg.frame(400, 300) as figure:
        ax = svg.axes(figure, (40, 40, 40, 40))
        end = _draw_line(ax, Line("a", svg.INK, "o", (0.0, 30.0, 50.0), points), 0.0)
        bars, line = ax.lines
        assert end == (50.0, 80.0)
        np.testing.assert_allclose(line.get_xydata(), [[0, 90], [50, 80]])
        np.testing.assert_allclose(bars.get_ydata(), [88, 93, np.nan, 75, 82, np.nan])
        assert not ax.collections
        seeds = (_value(0.9, 0.88, 0.92, 3), _value(0.8, 0.7, 0.9, 3))
        _draw_line(ax, Line("b", svg.INK, "o", (0.0, 50.0), seeds), 0.0)
        band = ax.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == 70 and band[:, 1].max() == 92
        assert _draw_line(ax, Line("c", svg.INK, "o", (0.0,), (None,)), 0.0) is None


def _gate(variant: str, rule: str, status: GateStatus, estimate: float | None, limit: float = 0.01) -> GateResult:
    return GateResult(
        id="g",
        variant=variant,
        metric="accuracy",
        level="error",
        status=status,
        rule=rule,
        limit=limit,
        estimate=estimate,
        unit=Unit.FRACTION,
        message="m",
    )


def test_the_tinted_side_is_the_one_that_fails() -> None:
    assert _failing_side(_gate("a", "max_drop 1.0pp", GateStatus.PASS, 0.0), 1.0, (-2.0, 5.0)) == (1.0, 5.0)
    assert _failing_side(_gate("a", "min 90%", GateStatus.PASS, 0.95, 0.9), 90.0, (80.0, 100.0)) == (80.0, 90.0)


def test_a_family_shows_each_variants_worst_and_many_seeds_the_worst_seed() -> None:
    many = study(
        Plan(
            variants=(("filter", 0.5),),
            seeds=tuple(range(20)),
            n=60,
            corruptions=(),
            gated=False,
            evidence=False,
            layers=2,
        )
    )
    groups, _ = grouped(many)
    gates = []
    for s in range(20):
        name = f"filter-r0.50-s{s}"
        gates += [
            _gate(name, "max_drop 1.0pp", GateStatus.PASS, 0.002),
            _gate(name, "max_drop 1.0pp", GateStatus.PASS, 0.005),
        ]
    gates[14] = _gate("filter-r0.50-s7", "max_drop 1.0pp", GateStatus.INCONCLUSIVE, 0.0101)
    rows = _rows(gates, groups)
    assert [(label, g.variant, g.status) for label, g in rows] == [
        ("filter 50 %", "filter-r0.50-s7", GateStatus.INCONCLUSIVE)
    ]
    few = _rows(gates[:6], groups)
    assert [label for label, _ in few] == ["filter 50 % s0", "filter 50 % s1", "filter 50 % s2"]
    assert all(g.estimate == 0.005 for _, g in few)


@pytest.mark.parametrize(
    ("seen", "worst"),
    [
        ((GateStatus.PASS, GateStatus.WAIVED), GateStatus.WAIVED),
        ((GateStatus.PASS, GateStatus.INCONCLUSIVE, GateStatus.WAIVED), GateStatus.INCONCLUSIVE),
        ((GateStatus.FAIL, GateStatus.INCONCLUSIVE), GateStatus.FAIL),
        ((GateStatus.MISSING, GateStatus.FAIL), GateStatus.MISSING),
        ((GateStatus.REFUSED, GateStatus.MISSING, GateStatus.PASS), GateStatus.REFUSED),
        ((GateStatus.PASS,), GateStatus.PASS),
    ],
)
def test_a_group_is_as_good_as_its_worst_gate(small: View, seen: tuple[GateStatus, ...], worst: GateStatus) -> None:
    gates = tuple(_gate("filter-r0.50-s0", "max_drop 1.0pp", s, 0.0) for s in seen)
    warning = _gate("filter-r0.50-s0", "max_drop 1.0pp", GateStatus.FAIL, 0.5).model_copy(update={"level": "warn"})
    assert small.verdict is not None
    view = changed(small, verdict=small.verdict.model_copy(update={"gates": (*gates, warning)}))
    groups, _ = grouped(view)
    status = {g.key: g.status(view) for g in groups}
    assert status["filter-r0.50"] is worst and status["weight-r0.50"] is None


def test_the_page_counts_decisions_as_the_terminal_does(small: View) -> None:
    """A gate that only warns counts as one that passes where it does, and apart where it does not."""
    from edgesafe.report import build

    statuses = (GateStatus.PASS, GateStatus.PASS, GateStatus.INCONCLUSIVE, GateStatus.PASS, GateStatus.FAIL)
    gates = tuple(
        _gate("filter-r0.50-s0", "max_drop 1.0pp", status, 0.0).model_copy(update={"level": level})
        for status, level in zip(statuses, ("error", "error", "error", "warn", "warn"), strict=True)
    )
    assert small.verdict is not None
    verdict = small.verdict.model_copy(update={"gates": gates, "notes": ()})
    assert "1 inconclusive, 3 pass; as warnings only: 1 fail" in to_text(verdict).splitlines()[-1]
    assert "1 inconclusive, 3 passed; as warnings only: 1 failed" in build(changed(small, verdict=verdict)).html


def test_an_unmeasured_variant_may_be_judged_missing(small: View) -> None:
    """The gate judges refused variants too; they have no record, and the page must still show them."""
    from edgesafe.records import Role, VariantEntry
    from edgesafe.report import build

    entry = VariantEntry(
        id="filter-r0.90-s0",
        role=Role.CANDIDATE,
        label="filter",
        group="filter-r0.90",
        method="filter",
        ratio=0.9,
        seed=0,
        status="refused",
        reason="too narrow",
    )
    assert small.verdict is not None
    gate = _gate(entry.id, "max_drop 1.0pp", GateStatus.MISSING, None).model_copy(update={"limit": None, "unit": None})
    view = changed(
        small,
        record=small.study.record.model_copy(update={"variants": (*small.study.record.variants, entry)}),
        verdict=small.verdict.model_copy(update={"gates": (*small.verdict.gates, gate)}),
    )
    files = build(view)
    assert "filter-r0.90-s0" in files.html and "∅ missing" in files.html
    assert ResultsFile.model_validate_json(files.json).verdict == view.verdict
    part = forest(view, grouped(view)[0])
    assert part is not None and any("filter-r0.90-s0" in str(p.svg) for p in part.panels)


def test_layer_tables_say_why_a_layer_was_left_alone(small: View) -> None:
    table = layer_table(next(v for v in small.variants if v.id == "filter-r0.50-s0"))
    assert table is not None
    notes = [row[-1].text for row in table.rows]
    assert "pruned" in notes and "classifier: never narrowed" in notes
    assert any("→" in row[2].text for row in table.rows)
    assert layer_table(small.variants[0]) is None


def test_the_axis_of_a_family_names_no_single_member() -> None:
    one = _gate("a", "max_drop 1.0pp", GateStatus.PASS, 0.0).model_copy(update={"metric": "mpc.corruption.fog"})
    other = one.model_copy(update={"metric": "mpc.corruption.snow", "variant": "b"})
    assert _axis_words([one, one]) == "mPC, fog, drop, pp"
    assert _axis_words([one, other]) == "mPC, each variant's worst, drop, pp"


def test_each_estimate_says_what_it_is_about(view: View) -> None:
    groups, _ = grouped(view)
    table = basis_table(view, groups)
    assert table is not None
    rows = {row[0].text: _texts(row)[1:] for row in table.rows}
    assert rows["Accuracy"] == ["synthetic", "800 images", "95 %, normal", "%"]
    assert rows["Δ Accuracy"][2:] == ["95 %, paired normal", "pp"] and rows["NLL"][3] == "nats"
    assert rows["Parameters"] == ["this file", "counted", "exact", "count"]
    assert rows["Latency ratio"][0] == "not stated" and rows["Latency ratio"][1] == "1,024 runs"
    assert basis_table(changed(view, measurements={}), groups) is None


def test_the_first_screen_names_what_was_compressed_and_the_best(view: View, files: ReportFiles) -> None:
    groups, _ = grouped(view)
    facts = dict(lead(view, groups))
    assert facts["Network"] == "resnet20, 272 k parameters before compression"
    assert facts["Compressed variants"] == (
        "7, by method and share removed: weight 30, 50, 70 %; filter 30, 50 %; channel 30, 50 %"
    )
    many = study(Plan(variants=LARGE, n=60, corruptions=(), gated=False, evidence=False, layers=2))
    assert "filter 10 to 80 % (8)" in dict(lead(many, grouped(many)[0]))["Compressed variants"]
    box = files.html.split('<div class="chosen">')[1].split("</div>")[0]
    assert box.count('href="#best"') == len(best(pareto(groups, view), view))
    assert "ECE (expected calibration error)" in files.html and "pp: percentage points" in files.html


def test_what_the_data_and_the_inputs_were_is_said(view: View) -> None:
    plain = dict(provenance_facts(view))
    assert not any("Input of" in name or "Different test" in name for name in plain)  # nothing odd, nothing said
    data = view.study.record.data.model_copy(
        update={"test_distinct": 20, "test_in_train": 3, "notes": ("'.ipynb_checkpoints' is skipped",)}
    )
    given = InputRecord(
        layout="NCHW", dtype="float32", scale=1 / 255, channels="BGR", outputs="logits", text="NCHW float32",
        stated=("channels",), images=500, accuracy=0.917, runner_up="NHWC", runner_up_z=4.2,
    )  # fmt: skip
    first = view.variants[0].model_copy(update={"input": given})
    record = view.study.record.model_copy(update={"data": data})
    facts = dict(provenance_facts(changed(view, record=record, variants=(first, *view.variants[1:]))))
    assert facts["Different test images"] == f"20 of {data.test_n:,}"
    assert facts["Test images that are also training images"] == f"3 of {data.test_n:,}"
    assert "ipynb_checkpoints" in facts["Seen while the data were read"]
    told = facts[f"Input of {first.id}"]
    assert told == (
        "NCHW float32 (stated: channels; accuracy 91.7% on 500 labelled images); next best: NHWC, 4.2 standard errors "
        "behind"
    )
