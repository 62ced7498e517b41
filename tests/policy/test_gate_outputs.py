# ruff: noqa: S314 - what is parsed here was written here
"""What CI reads: well-formed for any name, within limits, and the same bytes for the same verdict."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from gate_fixtures import diff, exact, judge, metric, policy, sha
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.policy import outputs
from edgesafe.records import (
    GateResult,
    GateStatus,
    Unit,
    Verdict,
)

RULES = policy(
    "accuracy max_drop='1.0pp'",
    "mpc max_drop='1.0pp'",
    "nll max_increase=0.02",
    "brier max=0.2",
    "ece_em10_top1 max='0.1pp'",
    "macs max=5;level='warn'",
    "size.params max=1000",
    head=f"waiver = [{{ gate = 'g6', candidate = '{sha('c')}', until = 2027-01-31, limit = 2000, "
    "reason = 'r', approver = 'a' }]",
)
VERDICT = judge(
    RULES,
    diff("accuracy", 0.0, se=0.001),
    diff("mpc", -0.02, se=0.001),
    diff("nll", 0.02, baseline=0.3, se=0.01),
    metric("ece_em10_top1", 0.0, se=0.001, floor=0.02),
    exact("macs", 6),
    exact("size.params", 1500),
)
STATUSES = ["pass", "fail", "inconclusive", "missing", "refused", "fail", "waived"]


def test_the_example_holds_every_status():
    assert [one.status.value for one in VERDICT.gates] == STATUSES
    assert VERDICT.exit_code == 3


# ------------------------------------------------------------------------------------------------------------- JSON


def test_json_reads_back_as_the_verdict():
    text = outputs.to_json(VERDICT)
    assert Verdict.model_validate_json(text) == VERDICT
    assert json.loads(text)["schema"] == "edgesafe.verdict/1"
    assert text.endswith("}\n")


# ------------------------------------------------------------------------------------------------------------ JUnit


def test_junit_has_a_case_per_gate_and_the_right_element_in_each():
    root = ElementTree.fromstring(outputs.to_junit(VERDICT))
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [f"g{i}" for i in range(7)]
    assert {case.get("classname") for case in cases} == {"edgesafe.weight-r0.50-s0"}
    found = [[(child.tag, child.get("type")) for child in case if child.tag != "properties"] for case in cases]
    assert found == [
        [],
        [("failure", "fail")],
        [("failure", "inconclusive")],
        [("error", "missing")],
        [("error", "refused")],
        [("skipped", None)],
        [("skipped", None)],
    ]
    counts = {"tests": "7", "failures": "2", "errors": "2", "skipped": "2"}
    for element in (suite, root):
        assert {key: element.get(key) for key in counts} == counts
    assert cases[1].find("failure").get("message") == VERDICT.gates[1].message


def test_junit_properties_hold_the_numbers():
    root = ElementTree.fromstring(outputs.to_junit(VERDICT))
    case = root.find("testsuite").findall("testcase")[1]
    found = {one.get("name"): one.get("value") for one in case.find("properties")}
    assert found["estimate"] == "0.02"
    assert float(found["high"]) == VERDICT.gates[1].high
    assert (found["metric"], found["rule"], found["unit"], found["n"]) == ("mpc", "max_drop 1.0pp", "fraction", "10000")
    assert found["baseline"] == "baseline-s0"


def test_junit_is_red_exactly_where_the_gate_is():
    lenient = policy("accuracy max_drop='1.0pp'", head="[stats]\non_inconclusive = 'warn'")
    root = ElementTree.fromstring(outputs.to_junit(judge(lenient, diff("accuracy", -0.01, se=0.01))))
    assert (root.get("failures"), root.get("skipped")) == ("0", "1")


def test_a_gate_with_two_limits_has_two_cases():
    rules = policy("nll max=1;max_increase=0.1")
    root = ElementTree.fromstring(
        outputs.to_junit(judge(rules, metric("nll", 0.3, se=0.01), diff("nll", 0.0, se=0.01)))
    )
    assert [case.get("name") for case in root.iter("testcase")] == ["g0 (max 1)", "g0 (max_increase 0.1)"]


# -------------------------------------------------------------------------------------------------- any name, any text

TEXT = st.text(min_size=1, max_size=30)
NASTY = st.one_of(
    TEXT,
    st.sampled_from(["</testcase>", "]]>", "&amp;", "a|b`c\n# d", '"\\\n', "\x00\x1b[31m", "%0A::error::x", "<img>"]),
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def verdicts(draw):
    names = draw(st.lists(NASTY, min_size=1, max_size=3, unique=True))
    results = []
    for name in names:
        for i in range(draw(st.integers(0, 4))):
            status = draw(st.sampled_from(GateStatus))
            results.append(
                GateResult(
                    id=f"g{i}",
                    variant=name,
                    metric=draw(NASTY),
                    level=draw(st.sampled_from(["error", "warn"])),
                    status=status,
                    rule=draw(NASTY),
                    limit=draw(st.none() | NUMBER),
                    estimate=draw(st.none() | NUMBER),
                    low=draw(st.none() | NUMBER),
                    high=draw(st.none() | NUMBER),
                    n=draw(st.none() | st.integers(1, 9)),
                    method=draw(st.just("") | NASTY),
                    unit=draw(st.none() | st.sampled_from(Unit)),
                    message=draw(NASTY),
                    blocking=draw(st.booleans()),
                )
            )
    return Verdict(
        study=draw(NASTY), policy_sha256=sha("a"), profile=draw(st.just("") | NASTY), variants=tuple(names),
        gates=tuple(results), overall=draw(st.sampled_from(GateStatus)), exit_code=draw(st.integers(0, 5)),
        notes=tuple(draw(st.lists(NASTY, max_size=3))),
    )  # fmt: skip


@settings(max_examples=40)
@given(verdicts())
def test_junit_is_well_formed_for_any_name(verdict):
    root = ElementTree.fromstring(outputs.to_junit(verdict))
    assert len(list(root.iter("testcase"))) == len(verdict.gates)
    for suite, name in zip(root.findall("testsuite"), verdict.variants, strict=True):
        kept = suite.get("name").replace("\ufffd", "")
        assert set(kept) <= set(name) | {"\ufffd", "\n"}


@settings(max_examples=40)
@given(verdicts())
def test_markdown_stays_a_table(verdict):
    text = outputs.to_markdown(verdict)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(verdict.gates)
    for row in rows:
        assert len(re.findall(r"(?:\\.|[^|])*\|", row)) == 5, "five cell borders, escaped characters apart (GFM)"
    outside = re.sub(r"`[^`]*`", "", text)  # inside a code span, nothing is markup
    assert "<" not in outside
    assert sum(line.startswith("#") for line in text.splitlines()) == 1


@settings(max_examples=40)
@given(verdicts())
def test_annotations_are_one_line_each_and_at_most_ten(verdict):
    text = outputs.annotations(verdict)
    lines = text.split("\n")[:-1]
    assert len(lines) <= 10
    assert all(line.startswith(("::error title=edgesafe", "::warning title=edgesafe")) for line in lines)
    assert "\r" not in text


@settings(max_examples=40)
@given(verdicts())
def test_every_output_is_the_same_twice(verdict):
    again = Verdict.model_validate_json(outputs.to_json(verdict))
    for write in (outputs.to_json, outputs.to_junit, outputs.to_markdown, outputs.to_openmetrics, outputs.annotations):
        assert write(verdict) == write(again)


@settings(max_examples=40)
@given(verdicts())
def test_openmetrics_is_read_by_the_reference_parser(verdict):
    parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="the oracle is not installed")
    text = outputs.to_openmetrics(verdict)
    names = {(one.variant, one.id) for one in verdict.gates}
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert families["edgesafe_gate_exit_code"].samples[0].value == verdict.exit_code
    status = families.get("edgesafe_gate_status")
    assert len(status.samples if status else ()) == len(verdict.gates) == len(names)
    for key in ("estimate", "low", "high", "limit"):
        wanted = [getattr(one, key) for one in verdict.gates if getattr(one, key) is not None]
        family = families.get(f"edgesafe_gate_{key}")
        assert [sample.value for sample in (family.samples if family else ())] == wanted


# --------------------------------------------------------------------------------------------------- sizes and endings


def test_openmetrics_by_hand():
    lines = outputs.to_openmetrics(VERDICT).split("\n")
    assert lines[-2:] == ["# EOF", ""]
    assert 'edgesafe_gate_exit_code{study="toy"} 3' in lines
    label = 'study="toy",variant="weight-r0.50-s0",gate="g1",metric="mpc",rule="max_drop 1.0pp"'
    assert f"edgesafe_gate_status{{{label}}} 3" in lines
    assert f'edgesafe_gate_limit{{{label},unit="fraction"}} 0.01' in lines


def test_labels_are_escaped():
    odd = VERDICT.model_copy(update={"study": 'a"b\\c\nd'})
    assert 'edgesafe_gate_exit_code{study="a\\"b\\\\c\\nd"} 3' in outputs.to_openmetrics(odd)


def _long(n, *, length=300, status=GateStatus.PASS):
    one = VERDICT.gates[0].model_copy(update={"message": "é" * length})
    bad = VERDICT.gates[1].model_copy(update={"status": GateStatus.FAIL, "message": "FAIL here"})
    return VERDICT.model_copy(update={"gates": (*([one.model_copy(update={"status": status})] * n), bad)})


def test_markdown_is_short_enough_and_keeps_what_did_not_pass():
    text = outputs.to_markdown(_long(1000))
    assert len(text.encode()) <= outputs.MARKDOWN_BYTES
    assert "FAIL here" in text
    assert "more rows are in the JSON output" in text
    left = int(text.split(" more rows")[0].rsplit("\n", 1)[1])
    assert left + sum(line.startswith("|") for line in text.splitlines()) - 2 == 1001


def test_markdown_with_very_long_messages_and_notes():
    verdict = _long(60, length=5000, status=GateStatus.FAIL).model_copy(update={"notes": ("|" * 3000,) * 100})
    text = outputs.to_markdown(verdict)
    assert len(text.encode()) <= outputs.MARKDOWN_BYTES
    assert "50 more notes" in text


@pytest.mark.parametrize(("length", "kept"), [(1999, 1999), (2000, 2000), (2001, 1999), (5000, 1999)])
def test_markdown_shortens_only_messages_beyond_2000_characters(length, kept):
    one = VERDICT.gates[0].model_copy(update={"message": "é" * length})
    text = outputs.to_markdown(VERDICT.model_copy(update={"gates": (one,)}))
    assert text.count("é") == kept
    assert ("…" in text) == (length > 2000)


@pytest.mark.parametrize(("notes", "left"), [(0, None), (3, None), (50, None), (51, "- 1 more notes")])
def test_markdown_counts_the_notes_beyond_fifty(notes, left):
    verdict = VERDICT.model_copy(update={"notes": tuple(f"note {i}" for i in range(notes))})
    lines = outputs.to_markdown(verdict).splitlines()
    assert sum(line.startswith("- note ") for line in lines) == min(notes, 50)
    assert [line for line in lines if line.endswith("more notes")] == ([left] if left else [])


def test_markdown_of_the_example():
    text = outputs.to_markdown(VERDICT)
    assert text.startswith("## ⛔ edgesafe gate: refused\n")
    assert "| ❌ | `weight-r0.50-s0` | `g1` | FAIL g1: mpc drop 2.00 pp \\[1.77, 2.23\\] &#62; 1.0 pp" in text
    assert "`g5` (warn)" in text
    assert text.index("`g1`") < text.index("`g0`")  # what passed comes last


def test_annotations_of_the_example():
    lines = outputs.annotations(VERDICT).splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["::error"] * 4 + ["::warning"] * 3
    assert lines[0].startswith("::error title=edgesafe g1 (weight-r0.50-s0)::FAIL g1: mpc drop 2.00 pp")
    assert "80 %25" not in lines[0]


@pytest.mark.parametrize("notes", [1, 49, 50])
def test_markdown_with_all_its_notes_says_nothing_of_more(notes: int):
    text = outputs.to_markdown(VERDICT.model_copy(update={"notes": ("a note",) * notes}))
    assert text.count("- a note") == notes
    assert "more notes" not in text


def test_more_than_ten_annotations_end_with_a_count():
    many = VERDICT.model_copy(update={"gates": (VERDICT.gates[1],) * 25, "notes": ()})
    lines = outputs.annotations(many).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "::error title=edgesafe::16 more; see the summary or the JSON output"
    few = many.model_copy(update={"gates": many.gates[:9], "notes": ("warning: a", "warning: b", "warning: c")})
    assert outputs.annotations(few).splitlines()[-1].startswith("::warning title=edgesafe::3 more")
    ten = many.model_copy(update={"gates": many.gates[:10], "notes": ("warning: a",)})
    assert outputs.annotations(ten).splitlines()[-1].startswith("::error title=edgesafe::2 more")


def test_no_annotation_where_all_is_well():
    assert outputs.annotations(judge("accuracy max_drop='1.0pp'", diff("accuracy", 0.0, se=0.001))) == ""


def test_percent_signs_are_escaped_in_annotations():
    verdict = judge("accuracy min='99%'", metric("accuracy", 0.9, se=0.001))
    assert "90.00 %25" in outputs.annotations(verdict)


def test_the_printed_text_ends_with_the_verdict():
    lines = outputs.to_text(VERDICT).splitlines()
    assert lines[0].startswith("PASS g0: accuracy drop 0.00 pp")
    assert lines[0].endswith(" [weight-r0.50-s0]")
    assert [line.split(" ", 1)[0] for line in lines[:7]] == [
        "PASS", "WAIVED", "FAIL", "INCONCLUSIVE", "FAIL", "MISSING", "REFUSED",
    ]  # fmt: skip
    assert lines[2].endswith(" [weight-r0.50-s0] (warning only)")
    assert lines[-1] == (
        "refused: toy: 1 refused, 1 missing, 1 fail, 1 inconclusive, 1 waived, 1 pass; "
        "as warnings only: 1 fail (exit code 3)"
    )


@settings(max_examples=40)
@given(verdicts())
def test_the_printed_text_has_a_line_per_result_whatever_the_names(verdict):
    lines = outputs.to_text(verdict).split("\n")
    assert len(lines) == len(verdict.gates) + len(verdict.notes) + 2
    assert all(line.isprintable() and "::" not in line and "##[" not in line for line in lines)
