"""What is missing, refused or not to be believed, and which variants are judged."""

from __future__ import annotations

import re
from datetime import date

import pytest
from gate_fixtures import (
    BASE,
    CAND,
    OTHER_SEED,
    TODAY,
    base_measured,
    diff,
    exact,
    judge,
    measured,
    metric,
    only,
    policy,
    record,
    sha,
    study,
)

from edgesafe.errors import (
    IntegrityError,
    NothingEvaluated,
    PolicyError,
    RefusedError,
    UsageError,
)
from edgesafe.policy import looks
from edgesafe.policy.decision import Options, decide
from edgesafe.policy.readings import Subject
from edgesafe.policy.subjects import _of_search
from edgesafe.records import GateStatus, Role, Sample

PASS, FAIL, INCONCLUSIVE = GateStatus.PASS, GateStatus.FAIL, GateStatus.INCONCLUSIVE
MISSING, REFUSED = GateStatus.MISSING, GateStatus.REFUSED
DROP = "accuracy max_drop='1.0pp'"


# ---------------------------------------------------------------------------------------------- missing and refused


@pytest.mark.parametrize(
    "rule", ["accuracy min='90%'", DROP, "macs max=5", "mpc.corruption.* min='10%'", "flips max='2pp'"]
)
def test_what_was_not_measured_is_missing_and_never_a_pass(rule):
    verdict = judge(rule)
    assert (only(verdict).status, verdict.overall, verdict.exit_code) == (MISSING, MISSING, 5)


def test_without_a_baseline_relative_gates_are_missing_and_absolute_ones_decided():
    rules = policy(DROP, "accuracy min='90%'")
    alone = {CAND: measured(CAND, metric("accuracy", 0.95, se=0.002), baseline=None)}
    verdict = decide(rules, study(), alone, {}, baseline=None, today=TODAY)
    assert [one.status for one in verdict.gates] == [MISSING, PASS]
    assert verdict.exit_code == 5


def test_no_baseline_on_purpose_leaves_relative_gates_out_and_says_so():
    rules = policy(DROP, "accuracy min='90%'", "latency.ratio max=0.9")
    alone = {CAND: measured(CAND, metric("accuracy", 0.95, se=0.002), baseline=None)}
    options = Options(no_baseline=True)
    verdict = decide(rules, study(), alone, {}, baseline=None, today=TODAY, options=options)
    assert ([one.id for one in verdict.gates], verdict.exit_code) == (["g1"], 0)
    assert "left out, no baseline asked for: g0, g2" in verdict.notes
    with pytest.raises(NothingEvaluated, match="needs a baseline"):
        decide(policy(DROP), study(), alone, {}, baseline=None, today=TODAY, options=options)


def test_differences_against_another_baseline_do_not_count():
    rules, found = policy(DROP), diff("accuracy", 0.0, se=0.001)
    measurements = {CAND: measured(CAND, found), "baseline-s1": measured("baseline-s1", baseline=None)}
    verdict = decide(rules, study(BASE, "baseline-s1", CAND), measurements, {}, baseline="baseline-s1", today=TODAY)
    assert only(verdict).status is MISSING
    assert "measured against 'baseline-s0', not against 'baseline-s1'" in only(verdict).message


def test_a_baseline_without_measurements_is_missing():
    """The stored difference says that it is against a baseline, but nothing shows on what that one was measured."""
    for rules in (DROP, "macs max_ratio=0.9", "latency.ratio max=0.9"):
        found = [diff("accuracy", 0.0, se=0.001), exact("macs", 4), metric("latency.ratio", 0.5, se=0.01)]
        verdict = decide(policy(rules), study(), {CAND: measured(CAND, *found)}, {}, baseline=None, today=TODAY)
        assert (only(verdict).status, verdict.exit_code) == (MISSING, 5)
        assert "the baseline 'baseline-s0' has no measurements" in only(verdict).message


def test_an_unpaired_difference_is_never_made_up():
    """Both values are known, the paired difference is not: MISSING, not an unpaired comparison."""
    assert (
        only(judge(DROP, metric("accuracy", 0.9, se=0.003), base=[metric("accuracy", 0.9, se=0.003)])).status is MISSING
    )


def test_too_few_images_are_refused():
    rules = policy(DROP, "latency.p50_ms max='8ms'", head="[data]\nmin_samples = 1000")
    found = [diff("accuracy", 0.0, se=0.001, n=999), metric("latency.p50_ms", 1.0, se=0.01, n=64)]
    verdict = judge(rules, *found)
    assert [one.status for one in verdict.gates] == [REFUSED, PASS]  # runs are not images
    assert (verdict.overall, verdict.exit_code) == (REFUSED, 3)
    assert "rests on 999 images, the policy asks for 1,000" in verdict.gates[0].message
    enough = [diff("accuracy", 0.0, se=0.001, n=1000), found[1]]
    assert judge(rules, *enough).exit_code == 0


def test_many_corruptions_of_an_image_are_one_image():
    """15,000 rows of 200 images: n is 200."""
    found = diff("mpc", 0.0, se=0.001, n=15_000, details={"images": 200.0})
    assert only(judge(policy("mpc max_drop='1pp'", head="[data]\nmin_samples = 200"), found)).n == 200
    assert judge(policy("mpc max_drop='1pp'", head="[data]\nmin_samples = 201"), found).exit_code == 3


def test_a_method_is_called_paired_once():
    assert (
        "(n=10,000, bootstrap, paired)"
        in only(judge(DROP, diff("accuracy", 0.0, se=0.001, method="bootstrap"))).message
    )
    assert "(n=10,000, paired-normal)" in only(judge(DROP, diff("accuracy", 0.0, se=0.001))).message


@pytest.mark.parametrize(("limit", "status"), [("2.0pp", REFUSED), ("2.1pp", PASS), ("2.2pp", PASS)])
def test_an_ece_limit_below_its_noise_floor_is_refused(limit, status):
    found = metric("ece_em10_top1", 0.004, se=0.002, n=1000, floor=0.021)
    verdict = judge(f"ece_em10_top1 max='{limit}'", found)
    assert only(verdict).status is status
    if status is REFUSED:
        assert verdict.exit_code == 3
        assert "limit 2.00 % of 'ece_em10_top1' is below its noise floor" in only(verdict).message
        assert "up to 2.10 %" in only(verdict).message


def test_a_noise_floor_does_not_touch_a_difference():
    found = [metric("ece_em10_top1", 0.03, se=0.002, floor=0.021), diff("ece_em10_top1", 0.0, baseline=0.03, se=0.001)]
    assert only(judge("ece_em10_top1 max_increase='0.5pp'", *found)).status is PASS


def test_a_number_without_uncertainty_is_refused():
    assert only(judge("accuracy min='50%'", metric("accuracy", 0.99))).status is REFUSED
    assert only(judge(DROP, diff("accuracy", 0.01))).status is REFUSED
    base = [metric("accuracy", 0.9)]
    assert only(judge("accuracy max_drop='5%'", diff("accuracy", 0.01, se=0.001), base=base)).status is REFUSED


def test_a_variant_without_measurements_is_missing_everywhere():
    verdict = decide(policy(DROP, "macs max=5 ; level='warn'"), study(), {}, {}, baseline=None, today=TODAY)
    assert [(one.status, one.blocking) for one in verdict.gates] == [(MISSING, True), (MISSING, True)]
    assert verdict.exit_code == 5


# ------------------------------------------------------------------------------------------------ which are judged


def _many(*ids):
    return {one: measured(one, diff("accuracy", -0.002 * i, se=0.001), onnx=str(i)) for i, one in enumerate(ids)}


def test_all_variants_but_baselines_are_judged():
    ids = ("weight-r0.30-s0", "weight-r0.50-s0", "filter-r0.50-s0")
    verdict = decide(
        policy(DROP), study(BASE, *ids), {BASE: base_measured(), **_many(*ids)}, {}, baseline=None, today=TODAY
    )
    assert verdict.variants == ids
    assert verdict.candidates == {one: sha(str(i)) for i, one in enumerate(ids)}


def test_the_policy_or_the_caller_may_choose():
    ids = ("weight-r0.30-s0", "weight-r0.50-s0", "filter-r0.50-s0")
    found = {BASE: base_measured(), **_many(*ids)}
    rules = policy(DROP, head='variants = ["weight-*"]')
    verdict = decide(rules, study(BASE, *ids), found, {}, baseline=None, today=TODAY)
    assert verdict.variants == ids[:2]
    assert verdict.notes == ("not judged, not among the policy's variants: filter-r0.50-s0",)
    options = Options(variants=("filter-r0.50-s0",))
    assert decide(rules, study(BASE, *ids), found, {}, baseline=None, today=TODAY, options=options).variants == ids[2:]
    with pytest.raises(UsageError, match=r"did you mean 'filter-r0\.50-s0'"):
        decide(
            rules, study(BASE, *ids), found, {}, baseline=None, today=TODAY, options=Options(variants=("filter-r0.5",))
        )
    with pytest.raises(UsageError, match="no variant 'baseline-s9'"):
        decide(rules, study(BASE, *ids), found, {}, baseline="baseline-s9", today=TODAY)


def test_a_refused_variant_that_the_policy_names_is_never_passed_over():
    ids = ("weight-r0.50-s0", "filter-r0.50-s0")
    made = study(BASE, *ids, filter_r0_50_s0="refused")
    found = {BASE: base_measured(), **_many(ids[0])}
    asked = Options(variants=ids)
    for options in (Options(), asked):
        verdict = decide(policy(DROP), made, found, {}, baseline=None, today=TODAY, options=options)
        assert verdict.variants == ids
        assert [result.status for result in verdict.gates] == [PASS, REFUSED]
        assert (verdict.overall, verdict.exit_code) == (REFUSED, 3)
        assert "'filter-r0.50-s0' was refused when it was made (layer1: no)" in verdict.gates[1].message
    left_out = decide(policy(DROP, head='variants = ["weight-*"]'), made, found, {}, baseline=None, today=TODAY)
    assert left_out.exit_code == 0  # the policy says which variants count
    assert left_out.notes == ("not judged, not among the policy's variants: filter-r0.50-s0",)


def test_a_variant_that_is_not_finished_is_missing():
    made = study(BASE, "weight-r0.50-s0", "filter-r0.50-s0", filter_r0_50_s0="pending")
    found = {BASE: base_measured(), **_many("weight-r0.50-s0")}
    verdict = decide(policy(DROP), made, found, {}, baseline=None, today=TODAY)
    assert [result.status for result in verdict.gates] == [PASS, MISSING]
    assert verdict.exit_code == 5


def test_refused_goes_before_missing():
    made = study(BASE, "a", "b", a="refused", b="pending")
    assert decide(policy(DROP), made, {BASE: base_measured()}, {}, baseline=None, today=TODAY).exit_code == 3


@pytest.mark.parametrize(
    ("patterns", "wrong", "near"),
    [
        ('["wieght-*"]', "wieght-*", "weight-r0.50-s0"),
        ('["weight-*", "filter-r0.6*"]', "filter-r0.6*", "filter-r0.50-s0"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest(patterns, wrong, near):
    ids = ("weight-r0.50-s0", "filter-r0.50-s0")
    found = {BASE: base_measured(), **_many(*ids)}
    rules = policy(DROP, head=f"variants = {patterns}")
    with pytest.raises(PolicyError, match=re.escape(f"'{wrong}' matches no variant")) as caught:
        decide(rules, study(BASE, *ids), found, {}, baseline=None, today=TODAY)
    assert near in caught.value.fix


def test_baselines_alone_leave_nothing_to_judge():
    with pytest.raises(NothingEvaluated, match="baselines only"):
        decide(policy(DROP), study(BASE), {BASE: base_measured()}, {}, baseline=None, today=TODAY)


# -------------------------------------------------------------------------------------------------------- integrity


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (measured(CAND, test="9"), "the study's test set"),
        (measured("other"), "measurements of 'other'"),
        (measured(CAND, corruptions=OTHER_SEED), "corruption generator"),
        (measured(CAND, onnx="9"), "none of the variant's ONNX files"),
        (measured(CAND, metric("accuracy", 0.9, se=0.01, unit="nats")), "in nats, not in fraction"),
        (measured(CAND, metric("accuracy", 0.9, se=-0.01)), "impossible"),
        (measured(CAND, metric("accuracy", 0.9, low=0.95, high=0.85)), "upside down"),
        (measured(CAND, metric("accuracy", 0.9, se=0.1, n=0)), "impossible"),
        (
            measured(CAND).model_copy(update={"metrics": {"accuracy": metric("mpc", 0.99, se=0.001)}}),
            "'mpc' is filed as 'accuracy'",
        ),
    ],
)
def test_records_that_contradict_themselves_or_each_other(found, says):
    measurements = {CAND: found, BASE: base_measured()}
    with pytest.raises(IntegrityError, match=says):
        decide(policy("accuracy min='10%'"), study(), measurements, {CAND: record()}, baseline=None, today=TODAY)


def test_a_baseline_measured_on_other_data():
    measurements = {CAND: measured(CAND), BASE: base_measured(test="9")}
    with pytest.raises(IntegrityError, match="the study's test set"):
        decide(policy("accuracy min='10%'"), study(), measurements, {}, baseline=None, today=TODAY)


def test_the_policy_may_name_its_test_set():
    rules = policy("accuracy min='10%'", head=f'[data]\ntest_sha256 = "{sha("7")}"')
    with pytest.raises(IntegrityError, match="the policy's test set"):
        judge(rules, metric("accuracy", 0.9, se=0.01))


def test_numbers_that_slipped_past_the_record_are_caught():
    broken = metric("accuracy", 0.9, se=0.01).model_copy(update={"estimate": float("nan")})
    with pytest.raises(RefusedError, match="not finite"):
        judge("accuracy min='10%'", broken)
    with pytest.raises(RefusedError, match="not finite"):
        judge("macs max=5", exact("macs", 1).model_copy(update={"estimate": float("inf")}))


def test_an_ece_gate_alone_is_warned_about():
    alone = judge("ece_em10_top1 max='6pp'", metric("ece_em10_top1", 0.01, se=0.001))
    assert any("ECE alone" in note for note in alone.notes)
    rules = policy("ece_em10_top1 max='6pp'", "accuracy min='10%'", "nll max=1")
    more = judge(
        rules, metric("ece_em10_top1", 0.01, se=0.001), metric("accuracy", 0.9, se=0.001), metric("nll", 0.3, se=0.01)
    )
    assert not any("ECE alone" in note for note in more.notes)


def test_the_verdict_carries_what_it_was_made_from():
    rules = policy(DROP, head='profile = "release"')
    verdict = judge(rules, diff("accuracy", 0.0, se=0.001))
    assert (verdict.study, verdict.profile, verdict.policy_sha256) == ("toy", "release", rules.sha256)
    assert judge(rules, diff("accuracy", 0.0, se=0.001), today=date(2030, 1, 1)) == verdict


@pytest.mark.parametrize(("count", "confidence"), [(1, 0.95), (2, 0.975), (5, 0.99)])
def test_each_of_several_looks_is_surer_so_that_together_they_err_as_seldom(count, confidence):
    candidate = measured(CAND, metric("accuracy", 0.9, se=0.01)).model_copy(
        update={"sample": Sample(seed=0, looks=count)}
    )
    own = looks.each(policy("accuracy min='10%'"), Subject(CAND, candidate, None, None, None, None, 1.0))
    assert own.stats.confidence == pytest.approx(confidence)


@pytest.mark.parametrize(("count", "rivals", "told"), [(5, 2, "99.50%"), (3, 1, "98.33%"), (1, 4, "98.75%")])
def test_the_note_of_several_looks_tells_the_level_that_each_bound_holds_at(count, rivals, told):
    rules = policy("accuracy min='10%'")
    candidate = measured(CAND, metric("accuracy", 0.9, se=0.01)).model_copy(
        update={"sample": Sample(seed=0, looks=count, rivals=rivals)}
    )
    subject = Subject(CAND, candidate, None, None, None, None, 1.0)
    own = looks.each(rules, subject)
    (note,) = looks.notes([(subject, own)], rules)
    assert f"judged {count} times" in note
    assert f"each bound holds at {told}, together 95.00%" in note
    assert own.stats.confidence == pytest.approx(float(told.rstrip("%")) / 100, abs=5e-5)


def test_a_search_says_how_many_trials_are_not_judged():
    found = study(BASE, CAND, "filter-r0.30-s0", "filter-r0.50-s0", "filter-r0.70-s0")
    roles = {BASE: Role.BASELINE, CAND: Role.CANDIDATE}
    found = found.model_copy(
        update={
            "variants": tuple(
                entry.model_copy(update={"role": roles.get(entry.id, Role.TRIAL)}) for entry in found.variants
            )
        }
    )
    chosen, notes = _of_search(found)
    assert [entry.id for entry in chosen] == [CAND]
    assert notes == ["not judged: 3 trials of the search (name one with --variant)"]
