"""Several studies on one page: what is said of each finding, what cannot be compared, and the page itself."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_synthetic import Plan, study
from scipy import stats

from edgesafe.errors import NothingEvaluated, UsageError
from edgesafe.records import Comparison, IntervalMethod, Precision, Task, Unit, VariantStatus
from edgesafe.report import View
from edgesafe.report.comparison import findings as findings_
from edgesafe.report.comparison import pages
from edgesafe.report.comparison.drawings import figures
from edgesafe.report.comparison.findings import MARGIN, Answer, findings
from edgesafe.report.comparison.points import curves
from edgesafe.report.comparison.together import left_out
from edgesafe.study.study import Study, Variant


@pytest.fixture(scope="module")
def two() -> tuple[Study, Study]:
    """Weight and filter pruning with three seeds, and channel pruning with one, of one network."""
    some = {"n": 200, "per_cell": 40, "corruptions": ("fog", "snow"), "layers": 4}
    first = study(Plan(variants=(("weight", 0.3), ("weight", 0.7), ("filter", 0.5)), seeds=(0, 1, 2), **some))
    second = study(Plan(name="slimmed", variants=(("channel", 0.5),), seeds=(0,), **some))
    return first.study, second.study


def with_differences(made: Study, metric: str, intervals: list[tuple[float, float, float]]) -> Study:
    """The study with these differences (estimate, low, high) of its pruned variants, in their order."""
    left = iter(intervals)
    variants = []
    for variant in made.variants:
        measured = variant.measured
        if measured is not None and measured.differences:
            estimate, low, high = next(left)
            told = Comparison(
                metric=metric, estimate=estimate, low=low, high=high, n=10, method=IntervalMethod.PAIRED_NORMAL,
                unit=Unit.FRACTION, candidate=0.5, baseline=0.5,
            )  # fmt: skip
            measured = measured.model_copy(update={"differences": {metric: told}})
        variants.append(replace(variant, measured=measured))
    return Study(made.root, made.record, tuple(variants))


interval = st.tuples(st.floats(-0.05, 0.05), st.floats(0.0001, 0.04))


@given(st.lists(interval, min_size=3, max_size=3), st.sampled_from([("ece_em10_top1", 1, 0), ("mpc", -1, 3)]))
def test_a_statement_is_confirmed_contradicted_or_undecided_as_its_intervals_say(
    drawn: list[tuple[float, float]], what: tuple[str, int, int]
) -> None:
    """Oracle: the three rules written down again, with scipy's quantiles."""
    metric, sign, position = what
    made = with_differences(THREE, metric, [(e, e - h, e + h) for e, h in drawn])
    finding = findings(curves([made]))[position]
    worse = [(sign * e, h) for e, h in drawn]
    wider = stats.norm.ppf(1 - 0.05 / 2 / 3) / stats.norm.ppf(0.975)
    confirming = sum(e + h <= MARGIN for e, h in worse)
    if any(e - h * wider > MARGIN for e, h in worse):
        expected = Answer.CONTRADICTED
    else:
        expected = Answer.CONFIRMED if confirming == 3 else Answer.UNDECIDED
    assert (finding.answer, finding.tested, finding.confirming) == (expected, 3, confirming)


THREE = study(
    Plan(
        variants=(("weight", 0.3), ("weight", 0.5), ("weight", 0.7)), n=60, per_cell=20, corruptions=("fog",), layers=4
    )
).study


def test_what_was_not_measured_is_not_tested(two: tuple[Study, Study]) -> None:
    answers = {a.statement.method: a.answer for a in findings(curves([two[1]])) if "Calibration" in a.statement.text}
    assert answers["weight"] is answers["filter"] is Answer.UNTESTED
    assert answers["channel"] is not Answer.UNTESTED
    assert findings_._judged(findings_.Statement("x"), []).answer is Answer.UNTESTED


def test_the_page_holds_every_curve_and_mean_and_spread_over_seeds(two: tuple[Study, Study]) -> None:
    files = pages.compared(two)
    assert set(files) == {"figure-1.svg", "figure-2.svg", "figure-3.svg", "report.md", "results.json", "index.html"}
    assert pages.compared(two) == files
    result = json.loads(files["results.json"])
    assert [(c["network"], c["method"], len(c["points"])) for c in result["curves"]] == [
        ("resnet20", "weight", 3), ("resnet20", "filter", 2), ("resnet20", "channel", 2),
    ]  # fmt: skip
    cells = []
    for metric in ("accuracy", "ece_em10_top1"):
        values = [two[0][f"weight-r0.70-s{seed}"].metrics[metric].estimate for seed in range(3)]
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        deepest = result["curves"][0]["points"][-1]["metrics"][metric]
        assert (deepest["mean"], deepest["sd"]) == (pytest.approx(mean), pytest.approx(sd, abs=1e-12))
        assert deepest["seeds"] == 3
        cells.append(f"{100 * mean:.2f} ± {100 * sd:.2f}")
    assert f"| resnet20-cifar10 | resnet20 | weight | 70 | 3 | {' | '.join(cells)} |" in files["report.md"]
    for number in (1, 2, 3):
        drawing = ET.fromstring(files[f"figure-{number}.svg"])  # noqa: S314 - our own
        text = "".join(drawing.itertext())
        assert all(f"resnet20, {method}" in text for method in ("weight", "filter", "channel"))
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", files["index.html"])
    assert "<script" not in files["index.html"]


def test_panels_share_their_scales_and_the_severities_are_named_once(two: tuple[Study, Study]) -> None:
    drawing = pages.compared(two)["figure-2.svg"]
    words = re.findall(r">([^<>]+)</text>", drawing)
    assert [words.count(f"severity {severity}") for severity in range(1, 6)] == [1] * 5
    scales = re.findall(r"share removed, %\|(.*?)\|mPC, %", "|".join(words))
    assert len(scales) == 3
    assert len(set(scales)) == 1


def test_a_hostile_name_is_text(two: tuple[Study, Study]) -> None:
    record = two[0].record.model_copy(update={"recipe": {"model": {"arch": "<script>alert(1)</script>|x"}}})
    files = pages.compared([Study(two[0].root, record, two[0].variants), two[1]])
    assert "<script" not in files["index.html"]
    rows = [line for line in files["report.md"].splitlines() if "alert" in line and line.startswith("|")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {12}
    ET.fromstring(files["figure-1.svg"])  # noqa: S314 - our own


def changed(made: Study, root: str = "", entries: dict[str, dict[str, Any]] | None = None, **record: Any) -> Study:
    """The study elsewhere, with other values in its record, and in the entries of some variants."""
    variants = tuple(replace(v, entry=v.entry.model_copy(update=(entries or {}).get(v.id, {}))) for v in made.variants)
    told = made.record.model_copy(update={"variants": tuple(v.entry for v in variants), **record})
    return Study(Path(root) if root else made.root, told, variants)


def under(made: Study, *corruptions: str) -> Study:
    """The study with an mPC of each of these corruptions, as a real one has it."""
    variants = tuple(
        replace(v, measured=v.measured.model_copy(update={
            "metrics": v.metrics | {f"mpc.corruption.{name}": v.metrics["mpc"] for name in corruptions}
        })) for v in made.variants if v.measured is not None
    )  # fmt: skip
    return Study(made.root, made.record, variants)


def test_two_studies_of_one_name_are_called_by_their_directories(two: tuple[Study, Study]) -> None:
    """Also in the figures, where no label of a block reaches into the next panel, however long it is."""
    long = {v.id: {"label": "a_label_" + "x" * 60} for v in two[0].variants if v.entry.method == "filter"}
    files = pages.compared([two[0], changed(two[0], "export/again", long, digest="sha256:2")])
    rows = [line.split(" | ")[0] for line in files["report.md"].splitlines() if "| weight | 70 |" in line]
    assert rows == ["| resnet20-cifar10", "| again"]
    words = re.findall(r">([^<>]+)</text>", files["figure-1.svg"])
    said = " ".join(words)
    assert "resnet20, weight (resnet20-cifar10)" in said
    assert "resnet20, weight (again)" in said
    assert max(map(len, words)) <= 34


@pytest.mark.parametrize("root", ["", "export/a-copy"])
def test_a_study_given_twice_is_refused_under_whatever_path(two: tuple[Study, Study], root: str) -> None:
    with pytest.raises(UsageError, match="given twice"):
        curves([two[0], changed(two[0], root)])


def test_means_over_other_corruptions_are_not_compared(two: tuple[Study, Study]) -> None:
    both, fog = under(two[0], "fog", "snow"), under(two[1], "fog")
    with pytest.raises(UsageError, match=r"resnet20-cifar10, slimmed: .*fog, snow at severities 1.*and fog at"):
        curves([both, fog])
    seeded = changed(under(two[1], "fog", "snow"), recipe={"evaluate": {"seed": 1}})
    with pytest.raises(UsageError, match=r"seed 0, and .*seed 1"):
        curves([both, seeded])
    assert curves([both, two[1]])  # nothing is known to differ: no mPC of single corruptions
    assert curves([both, under(two[1], "snow", "fog")])


def test_what_is_on_no_curve_is_named(two: tuple[Study, Study]) -> None:
    at_a_budget = {"weight-r0.70-s1": {"ratio": 0.0}}
    as_int8 = {"filter-r0.50-s2": {"precision": Precision.INT8, "sibling": "filter-r0.50-s1"}}
    refused = {"weight-r0.30-s0": {"status": VariantStatus.REFUSED, "reason": "NaN"}}
    left = left_out(changed(two[0], entries=at_a_budget | as_int8 | refused))
    assert [line.split(" (")[0] for line in left] == ["weight-r0.30-s0", "filter-r0.50-s2", "weight-r0.70-s1"]
    assert "refused: NaN" in left[0]
    assert left_out(two[0]) == ()


def test_keypoints_have_no_place_on_these_figures(two: tuple[Study, Study]) -> None:
    task = Task.keypoints(("left", "right"), tolerance_px=2.0, shape=(32, 32))
    other = changed(two[1], data=two[1].record.data.model_copy(update={"task": task}))
    with pytest.raises(UsageError, match="slimmed: its networks answer keypoints"):
        curves([two[0], other])


def test_panels_without_lines_say_so_and_a_single_severity_is_named(two: tuple[Study, Study]) -> None:
    def only(made: Study, kept: str) -> tuple[Variant, ...]:
        return tuple(
            replace(v, measured=v.measured.model_copy(update={
                "metrics": {k: m for k, m in v.metrics.items() if "severity" not in k or k.endswith(kept)}
            })) for v in made.variants if v.measured is not None
        )  # fmt: skip

    seen = [Study(made.root, made.record, only(made, kept)) for made, kept in zip(two, (".3", "none"), strict=True)]
    words = re.findall(r">([^<>]+)</text>", figures(curves(seen))[1])
    assert [w for w in words if w.startswith("severity")] == ["severity 3"]
    assert words.count("not measured") == 1


def test_what_cannot_be_compared(two: tuple[Study, Study], small: View) -> None:
    data = two[1].record.data.model_copy(update={"test_sha256": "sha256:" + "1" * 64})
    other = Study(two[1].root, two[1].record.model_copy(update={"data": data}), two[1].variants)
    with pytest.raises(UsageError, match="different test images"):
        curves([two[0], other])
    alone = tuple(v for v in small.study.variants if v.entry.method == "baseline")
    record = small.study.record.model_copy(update={"variants": tuple(v.entry for v in alone)})
    with pytest.raises(NothingEvaluated, match="no fp32 variant at a ratio"):
        curves([Study(Path("x"), record, alone)])
