"""The statistics that the page adds: bins that give back the ECE, paired cells, the Pareto front, the best three."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_synthetic import Plan, changed, study

from edgesafe.display import amount, clean, error, number, rule, size, title
from edgesafe.errors import NonFiniteError
from edgesafe.measure.metrics.calibration import ece_equal_mass
from edgesafe.records import (
    Artefact,
    Cell,
    Evidence,
    GateStatus,
    Measurement,
    Provenance,
    Unit,
)
from edgesafe.report.lines import severities
from edgesafe.report.stats import (
    best,
    cell_differences,
    pareto,
    reliability,
    shipped_bytes,
    tempered,
)
from edgesafe.report.svg import spread_labels
from edgesafe.report.view import View, grouped
from edgesafe.report.words import interval, speed


def _cell(name: str, s: int, index: list[int], right: list[bool]) -> Cell:
    n = len(index)
    zeros = np.zeros(n)
    label = np.zeros(n, np.int64)
    return Cell(name, s, np.array(index), label, np.where(right, 0, 1), zeros + 0.5, zeros, zeros)


def _evidence(*cells: Cell) -> Evidence:
    clean_cell = _cell("", 0, [0, 1], [True, False])
    origin = Provenance(test_sha256="t", onnx_sha256="x")
    return Evidence(clean_cell, np.zeros((2, 2), np.float32), origin, {(c.corruption, c.severity): c for c in cells})


def test_cells_are_paired_by_image_whatever_the_order() -> None:
    mine = _evidence(_cell("fog", 1, [5, 3, 9, 7], [True, True, False, True]))
    base = _evidence(_cell("fog", 1, [3, 5, 7, 11], [False, True, True, True]), _cell("snow", 2, [1, 2], [True, True]))
    (one,) = cell_differences(mine, base)
    assert (one.corruption, one.severity, one.n) == ("fog", 1, 3)
    assert one.estimate == pytest.approx(1 / 3)  # image 3 gained, 5 and 7 unchanged
    assert one.low < 1 / 3 < one.high and not one.decided


def test_a_cell_difference_is_decided_only_when_zero_is_outside() -> None:
    index = list(range(400))
    base = _evidence(_cell("fog", 5, index, [True] * 400))
    worse = _evidence(_cell("fog", 5, index, [i % 8 != 0 for i in index]))
    (one,) = cell_differences(worse, base)
    assert one.decided and one.high < 0 and one.estimate == pytest.approx(-0.125)
    (same,) = cell_differences(base, base)
    assert not same.decided and same.estimate == 0.0


def test_cells_without_a_partner_are_left_out() -> None:
    assert cell_differences(_evidence(_cell("fog", 1, [1], [True])), _evidence(_cell("fog", 1, [1], [True]))) == ()
    assert cell_differences(_evidence(), _evidence(_cell("fog", 1, [1, 2], [True, True]))) == ()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_the_bins_give_back_the_calibration_error(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    conf = np.round(rng.uniform(0.1, 1.0, n), rng.integers(1, 6))  # rounding makes ties
    right = rng.uniform(size=n) < conf
    found = reliability(conf, right)
    assert found.ece == pytest.approx(ece_equal_mass(conf, right).value, abs=1e-12)
    assert found.histogram.sum() == pytest.approx(1.0)
    assert np.all(found.low <= found.bins.accuracy + 1e-12) and np.all(found.bins.accuracy <= found.high + 1e-12)


def test_a_temperature_cools_the_confidence_and_not_the_class() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    e = dataclasses.replace(_evidence(), logits=logits)
    assert np.all(tempered(e, 2.0) <= tempered(e, 1.0))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(NonFiniteError):
            tempered(e, bad)


@pytest.fixture(scope="module")
def ungated() -> View:
    return study(Plan(n=400, corruptions=(), gated=False, evidence=False, layers=3))


def _set(view: View, name: str, **values: float) -> View:
    """`view` with some metrics of a variant replaced."""
    m = view.measurements[name]
    metrics = dict(m.metrics)
    for key, value in values.items():
        metric = key.replace("__", ".")
        unit = metrics[metric].unit
        metrics[metric] = Measurement(
            metric=metric, estimate=value, low=value - 0.001, high=value + 0.001, n=100, method="normal", unit=unit
        )
    return changed(view, measurements={**view.measurements, name: m.model_copy(update={"metrics": metrics})})


def test_the_best_follow_their_rule(ungated: View) -> None:
    view = ungated
    base = view.measurements["baseline-s0"].metrics["accuracy"].estimate
    view = _set(view, "weight-r0.30-s0", accuracy=base - 0.001)
    view = _set(view, "filter-r0.30-s0", accuracy=base - 0.004, latency__ratio=0.7)
    view = _set(view, "filter-r0.50-s0", accuracy=base - 0.025, latency__ratio=0.5)
    view = _set(view, "channel-r0.30-s0", accuracy=base - 0.009, latency__ratio=0.65)
    view = _set(view, "channel-r0.50-s0", accuracy=base - 0.030, latency__ratio=0.55)
    groups, _ = grouped(view)
    chosen = [b.group.key for b in best(pareto(groups, view), view)]
    # under one point lost: by latency ratio (channel 0.65, filter 0.70, weight 1.00); two points lost comes after
    assert chosen[:3] == ["channel-r0.30", "filter-r0.30", "weight-r0.30"]


def test_the_best_hold_all_that_is_drawn_on_the_front_and_surely_faster(ungated: View) -> None:
    view = ungated
    base = view.measurements["baseline-s0"].metrics["accuracy"].estimate
    for k, ratio in enumerate((0.9, 0.8, 0.7, 0.6)):  # each dearer and faster than the one before
        name = f"{('filter', 'channel')[k % 2]}-r0.{(30, 30, 50, 50)[k]}-s0"
        view = _set(view, name, accuracy=base - 0.001 - 0.01 * k, latency__ratio=ratio)
    points = pareto(grouped(view)[0], view)
    on_front = {p.group.key for p in points if not p.dominated and p.ratio is not None and p.ratio < 0.95}
    chosen = [b.group.key for b in best(points, view)]
    assert on_front == {"filter-r0.30", "channel-r0.30", "filter-r0.50", "channel-r0.50"}
    assert on_front <= set(chosen)


def test_nothing_is_best_that_is_drawn_as_dominated(ungated: View) -> None:
    base = ungated.measurements["baseline-s0"]
    file = next(v for v in ungated.variants if v.id == "baseline-s0").artefacts[0].bytes
    view = _set(ungated, "baseline-s0", accuracy=0.99)
    view = changed(
        view,
        variants=tuple(
            v.model_copy(update={"artefacts": tuple(a.model_copy(update={"bytes": file + 1}) for a in v.artefacts)})
            if v.id != "baseline-s0" else v for v in view.variants
        ),
    )  # fmt: skip
    for name in ungated.measurements:
        if name != base.variant:
            view = _set(view, name, size__onnx_bytes=float(file + 1), latency__ratio=1.1)
    points = pareto(grouped(view)[0], view)
    assert all(p.dominated for p in points if not p.group.is_baseline), "the baseline is better than every variant"
    assert best(points, view) == ()


def test_the_control_is_never_best() -> None:
    view = study(Plan(variants=(("random", 0.5),), n=100, corruptions=(), gated=False, evidence=False, layers=3))
    groups, _ = grouped(view)
    assert best(pareto(groups, view), view) == ()


def test_a_failed_gate_keeps_a_variant_from_being_best() -> None:
    view = study(Plan(n=400, corruptions=(), evidence=False, layers=3))
    groups, _ = grouped(view)
    assert view.verdict is not None
    failed = {g.variant for g in view.verdict.gates if g.status is GateStatus.MISSING}
    assert failed, "mpc is not measured here, so its gate is missing"
    assert best(pareto(groups, view), view) == ()


def test_dominated_means_no_better_anywhere(ungated: View) -> None:
    groups, _ = grouped(ungated)
    points = pareto(groups, ungated)
    for p in points:
        assert p.accuracy is not None and p.ratio is not None and p.file is not None
        better = [
            q
            for q in points
            if q.accuracy.estimate >= p.accuracy.estimate
            and q.ratio <= p.ratio
            and q.file <= p.file
            and (q.accuracy.estimate, q.ratio, q.file) != (p.accuracy.estimate, p.ratio, p.file)
        ]
        assert p.dominated == bool(better)


def test_the_sparse_file_is_what_ships(ungated: View) -> None:
    groups, _ = grouped(ungated)
    weight = next(g for g in groups if g.key == "weight-r0.70")
    sparse = weight.first.artefact("model.sparse.onnx")
    assert isinstance(sparse, Artefact) and shipped_bytes(weight, ungated) == sparse.bytes


def test_seeds_are_means_with_a_standard_deviation() -> None:
    view = study(
        Plan(variants=(("filter", 0.5),), seeds=(0, 1, 2), n=300, corruptions=(), gated=False, evidence=False, layers=3)
    )
    groups, series = grouped(view)
    assert [g.key for g in groups] == ["baseline", "filter-r0.50"] and len(series) == 1
    value = groups[1].value(view, "accuracy")
    each = [view.measurements[f"filter-r0.50-s{s}"].metrics["accuracy"] for s in (0, 1, 2)]
    got = [m.estimate for m in each]
    assert value is not None
    assert value.estimate == pytest.approx(np.mean(got)) and value.high - value.estimate == pytest.approx(
        np.std(got, ddof=1)
    )
    assert value.outer == (min(m.low for m in each), max(m.high for m in each))
    assert interval(value).startswith("±")


def test_labels_keep_recipe_entries_of_one_method_apart(ungated: View) -> None:
    renamed = tuple(
        v.model_copy(update={"id": v.id.replace("filter", "filter_all")}) if v.ratio == 0.5 else v
        for v in ungated.variants
    )
    _, series = grouped(changed(ungated, variants=renamed, measurements={}))
    assert [s.name for s in series] == ["weight", "filter", "filter_all", "channel"]


def test_speed_needs_the_whole_interval_below_one(ungated: View) -> None:
    groups, _ = grouped(ungated)
    said = {g.key: speed(g.value(ungated, "latency.ratio")) for g in groups if not g.is_baseline}
    assert said["weight-r0.50"] == "no speed-up" and said["filter-r0.50"].endswith("times as fast")
    slow = _set(ungated, "filter-r0.50-s0", latency__ratio=1.2)
    assert (
        speed(next(g for g in groups if g.key == "filter-r0.50").value(slow, "latency.ratio")) == "no speed-up (slower)"
    )
    assert speed(None) == "not measured"


def test_severities_come_from_what_is_measured(view: View, ungated: View) -> None:
    assert severities(view, "mpc") == [1, 2, 3, 4, 5] and severities(ungated, "mpc") == []


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.9173, Unit.FRACTION, "91.73 %"),
        (1.8412, Unit.MS, "1.84 ms"),
        (184.12, Unit.MS, "184 ms"),
        (0.01841, Unit.MS, "0.0184 ms"),
        (40_810_000, Unit.COUNT, "40.8 M"),
        (272_474, Unit.COUNT, "272 k"),
        (999, Unit.COUNT, "999"),
        (1_110_896, Unit.BYTES, "1.11 MB"),
        (999_499, Unit.BYTES, "999 kB"),
        (999_500, Unit.BYTES, "1.00 MB"),
        (0.23561, Unit.NATS, "0.236"),
        (4.2e-6, Unit.LOGIT, "4.2e-06"),
        (1e9, Unit.COUNT, "1.00 G"),
        (0.0, Unit.MS, "0.00 ms"),
        (0.0, Unit.COUNT, "0"),
    ],
)
def test_amounts(value: float, unit: Unit, shown: str) -> None:
    assert amount(value, unit) == shown


@pytest.mark.parametrize(
    ("se", "unit", "shown"),
    [
        (0.0028, Unit.FRACTION, "0.28"),
        (0.01, Unit.FRACTION, "1.0"),
        (0.123, Unit.FRACTION, "12"),
        (0.0000487, Unit.MS, "0.000049"),
        (0.0, Unit.NATS, "0"),
    ],
)
def test_standard_errors_have_two_digits(se: float, unit: Unit, shown: str) -> None:
    assert error(se, unit) == shown


def test_signs() -> None:
    assert amount(-0.0166, Unit.FRACTION, signed=True) == "\u22121.66 pp"
    assert amount(0.0166, Unit.FRACTION, signed=True) == "+1.66 pp"
    assert number(-0.000001, Unit.FRACTION, signed=True) == "0.00"
    assert size(0) == "0 B"


def test_words() -> None:
    assert (
        rule("max_drop 1.0pp") == "drop ≤ 1.0 pp"
        and rule("min 90%") == "≥ 90 %"
        and rule("max_ratio 0.9x") == "ratio ≤ 0.9"
    )
    assert rule("something else") == "something else"
    assert title("mpc.severity.3") == "mPC, severity 3" and title("mpc.corruption.glass_blur") == "mPC, glass blur"
    assert title("strange.metric") == "strange.metric"
    assert clean("a\x00b\n c") == "a b c"


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7), st.floats(-50, 50))
def test_spread_labels_keep_their_order_and_distance(values: list[float], least: float) -> None:
    placed = spread_labels(values, 5.0, least)
    assert min(placed) >= least
    order = sorted(range(len(values)), key=lambda i: values[i])
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert all(g >= 4.5 for g in gaps)
