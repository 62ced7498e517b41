"""Each branch of the decision, on synthetic records."""

from __future__ import annotations

from datetime import date
from statistics import NormalDist

import pytest
from gate_fixtures import (
    BASE,
    CAND,
    META,
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

from edgesafe.errors import IntegrityError, NothingEvaluated, RefusedError, UsageError
from edgesafe.gate.decide import Options, decide
from edgesafe.records import GateStatus

PASS, FAIL, INCONCLUSIVE = GateStatus.PASS, GateStatus.FAIL, GateStatus.INCONCLUSIVE
MISSING, REFUSED = GateStatus.MISSING, GateStatus.REFUSED
DROP = "accuracy max_drop='1.0pp'"


# ------------------------------------------------------------------------------------------ paired non-inferiority


@pytest.mark.parametrize(
    ("estimate", "half", "status", "code"),
    [
        (-0.002, 0.004, PASS, 0),
        (-0.030, 0.004, FAIL, 1),
        (-0.010, 0.004, INCONCLUSIVE, 2),
        (-0.009, 0.004, INCONCLUSIVE, 2),
        (-0.012, 0.004, INCONCLUSIVE, 2),
        (+0.050, 0.004, PASS, 0),
    ],
)
def test_drop_of_a_rate(estimate, half, status, code):
    verdict = judge(DROP, diff("accuracy", estimate, half=half))
    assert (only(verdict).status, verdict.overall, verdict.exit_code) == (status, status, code)


def test_message_of_a_failed_drop():
    result = only(judge("mpc max_drop='1.0pp'", diff("mpc", -0.0231, se=0.0030, n=5800)))
    assert result.message == ("FAIL g0: mpc drop 2.31 pp [1.82, 2.80] > 1.0 pp (n=5,800, paired-normal)")
    assert (result.estimate, result.limit, result.n, result.baseline) == (0.0231, 0.01, 5800, BASE)
    assert result.rule == "max_drop 1.0pp"


def test_an_inconclusive_gate_says_how_many_images_would_decide():
    result = only(judge(DROP, diff("accuracy", -0.008, se=0.002, n=1000)))
    needed = 1000 * (NormalDist().inv_cdf(0.95) * 0.002 / 0.002) ** 2  # 2,706
    assert 2700 < needed <= 2800
    assert "straddles 1.0 pp" in result.message
    assert "about n=2,800 would decide" in result.message


def test_bounds_are_one_sided_and_a_two_sided_interval_is_rescaled():
    """The stored 95 % interval comes back as it is at 97.5 % one-sided, and narrower at 95 %."""
    head = "[stats]\nconfidence = 0.975"
    wide = only(judge(policy(DROP, head=head), diff("accuracy", -0.002, low=-0.005, high=0.002)))
    assert (wide.low, wide.high) == pytest.approx((-0.002, 0.005))
    usual = only(judge(DROP, diff("accuracy", -0.002, low=-0.005, high=0.002)))
    shrink = NormalDist().inv_cdf(0.95) / NormalDist().inv_cdf(0.975)
    assert (usual.low, usual.high) == pytest.approx((0.002 - 0.004 * shrink, 0.002 + 0.003 * shrink))


def test_se_and_its_normal_interval_decide_alike():
    z = NormalDist().inv_cdf(0.975)
    by_se = only(judge(DROP, diff("accuracy", -0.004, se=0.003)))
    by_interval = only(judge(DROP, diff("accuracy", -0.004, half=z * 0.003)))
    assert (by_se.low, by_se.high) == pytest.approx((by_interval.low, by_interval.high))
    assert by_se.p_value == pytest.approx(by_interval.p_value)


@pytest.mark.parametrize(("estimate", "status"), [(0.010, PASS), (0.020, INCONCLUSIVE), (0.035, FAIL), (-0.1, PASS)])
def test_increase_of_nll(estimate, status):
    assert only(judge("nll max_increase='0.02nats'", diff("nll", estimate, baseline=0.3, se=0.005))).status is status


def test_a_drop_in_percent_is_of_the_baselines_value():
    """5 % of 0.60 is 3 pp; the baseline's own uncertainty widens the bound by 5 % of its standard error."""
    base = [metric("accuracy", 0.6, se=0.01)]
    result = only(judge("accuracy max_drop='5%'", diff("accuracy", -0.02, baseline=0.6, se=0.002), base=base))
    assert result.limit == pytest.approx(0.03)
    assert result.high == pytest.approx(0.02 + NormalDist().inv_cdf(0.95) * (0.002 + 0.05 * 0.01))
    assert result.status is PASS
    assert "3.00 pp (5 % of the baseline's 60.00 %)" in result.message


def test_a_share_needs_the_baselines_own_measurement():
    result = only(judge("accuracy max_drop='5%'", diff("accuracy", -0.02, baseline=0.6, se=0.002)))
    assert (result.status, "baseline's own 'accuracy' was not measured" in result.message) == (MISSING, True)


def test_ratio_of_an_estimate():
    base = [metric("nll", 0.4, se=0.01)]
    found = diff("nll", 0.02, baseline=0.4, se=0.002)
    result = only(judge("nll max_ratio='1.10x'", found, base=base))
    z = NormalDist().inv_cdf(0.95)
    assert result.estimate == pytest.approx(1.05)
    assert result.high == pytest.approx((0.42 + z * (0.002 + 0.1 * 0.01)) / 0.4)
    assert (result.status, result.unit.value) == (PASS, "ratio")
    assert only(judge("nll max_ratio='1.04x'", found, base=base)).status is FAIL
    assert only(judge("nll max_ratio='1.05x'", found, base=base)).status is INCONCLUSIVE


def test_ratio_to_nothing_is_refused():
    base = [metric("nll", 0.0, se=0.01)]
    assert only(judge("nll max_ratio=1.1", diff("nll", 0.02, baseline=0.0, se=0.1), base=base)).status is REFUSED


def test_no_change_seen_is_not_no_change():
    """0 of 100 images changed: up to 1 - 0.05^(1/100) = 2.95 % may (Clopper-Pearson), so 1 pp is not proven."""
    few = only(judge(DROP, diff("accuracy", 0.0, se=0.0, low=0.0, high=0.0, n=100)))
    assert few.status is INCONCLUSIVE
    assert few.high == pytest.approx(1 - 0.05 ** (1 / 100))
    assert only(judge(DROP, diff("accuracy", 0.0, se=0.0, n=1000))).status is PASS


# ------------------------------------------------------------------------------------------------ absolute limits


@pytest.mark.parametrize(
    ("rule", "estimate", "status"),
    [
        ("accuracy min='90%'", 0.92, PASS),
        ("accuracy min='90%'", 0.902, INCONCLUSIVE),
        ("accuracy min='90%'", 0.898, INCONCLUSIVE),
        ("accuracy min='90%'", 0.88, FAIL),
        ("high_conf_error@0.9 max='5pp'", 0.03, PASS),
        ("high_conf_error@0.9 max='5pp'", 0.049, INCONCLUSIVE),
        ("high_conf_error@0.9 max='5pp'", 0.07, FAIL),
        ("latency.p50_ms max='8ms'", 7.99, PASS),
        ("latency.p50_ms max='8ms'", 8.01, FAIL),
        ("latency.p50_ms max='8ms'", 8.001, INCONCLUSIVE),
    ],
)
def test_absolute(rule, estimate, status):
    name = rule.split(" ")[0]
    result = only(judge(rule, metric(name, estimate, se=0.002)))
    assert result.status is status
    assert result.baseline is None


def test_an_asymmetric_interval_stays_so():
    """Wilson for 10 of 10,000: the upper side is wider than the lower."""
    result = only(
        judge("high_conf_error@0.9 max='1pp'", metric("high_conf_error@0.9", 0.001, low=0.00054, high=0.00184))
    )
    assert result.high - result.estimate > result.estimate - result.low > 0


def test_an_interval_on_one_side_of_its_estimate_gives_no_certainty_on_the_other():
    """The bootstrap of a biased ECE may lie above it: the lower side is then as wide as the upper, not 0."""
    found = metric("ece_em10_top1", 0.0110, low=0.012, high=0.020)
    result = only(judge("ece_em10_top1 max='1.05pp'", found))
    assert result.status is INCONCLUSIVE
    below = metric("accuracy", 0.9, low=0.88, high=0.89, se=0.01)
    assert only(judge("accuracy min='91%'", below)).high > 0.91


@pytest.mark.parametrize(
    ("rule", "value", "status"),
    [
        ("size.onnx_bytes max='300kB'", 300_000, PASS),
        ("size.onnx_bytes max='300kB'", 300_001, FAIL),
        ("macs max='41M'", 41_000_001, FAIL),
        ("size.params max=1000", 1000, PASS),
        ("sparsity min='50%'", 0.5, PASS),
        ("sparsity min='50%'", 0.49, FAIL),
        ("parity.max_abs_logit max=1e-4", 2e-4, FAIL),
        ("latency.min_ms max='2ms'", 2.5, FAIL),
    ],
)
def test_exact_numbers_are_compared(rule, value, status):
    result = only(judge(rule, exact(rule.split(" ")[0], value)))
    assert (result.status, result.low, result.high, result.p_value) == (status, None, None, None)


def test_exact_numbers_relative_to_the_baseline():
    found, base = [exact("size.onnx_bytes", 70_000)], [exact("size.onnx_bytes", 100_000)]
    assert only(judge("size.onnx_bytes max_ratio='0.7x'", *found, base=base)).status is PASS
    assert only(judge("size.onnx_bytes max_ratio='0.69x'", *found, base=base)).status is FAIL
    assert only(judge("size.onnx_bytes max_increase='1%'", *found, base=base)).status is PASS
    assert only(judge("size.onnx_bytes max_ratio='0.7x'", *found)).status is MISSING


def test_exact_numbers_come_from_the_variant_record_too():
    rules = policy(
        "size.onnx_bytes max='300kB'", "macs max=5000", "size.params max=999", "parity.max_abs_logit max=1e-4"
    )
    verdict = judge(rules, records=[record()])
    assert [one.status for one in verdict.gates] == [PASS, PASS, FAIL, PASS]


def test_exact_numbers_that_contradict_each_other_are_refused():
    with pytest.raises(IntegrityError, match=r"macs is 4999 in measurements.json and 5000"):
        judge("macs max=6000", exact("macs", 4999), records=[record()])


def test_latency_ratio_is_absolute_and_needs_a_baseline():
    found = metric("latency.ratio", 0.8, se=0.02, n=1024)
    assert only(judge("latency.ratio max='0.9x'", found)).status is PASS
    alone = {CAND: measured(CAND, found, baseline=None)}
    verdict = decide(policy("latency.ratio max='0.9x'"), study(), alone, {}, baseline=None, today=TODAY)
    assert (only(verdict).status, verdict.exit_code) == (MISSING, 5)


def test_flips_may_be_filed_under_differences():
    assert only(judge("flips max='3pp'", diff("flips", 0.01, baseline=0.0, se=0.002))).status is PASS


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


# ---------------------------------------------------------------------------------------------- levels and precedence


def test_a_warning_never_changes_the_exit_code():
    rules = policy(DROP, "mpc max_drop='1.0pp';level='warn'", "nll max_increase=0.1;level='warn'")
    verdict = judge(rules, diff("accuracy", 0.0, se=0.001), diff("mpc", -0.2, se=0.001))
    assert [one.status for one in verdict.gates] == [PASS, FAIL, MISSING]
    assert (verdict.overall, verdict.exit_code) == (PASS, 0)
    assert "warning: 2 results without effect on the exit code did not pass" in verdict.notes


def test_warnings_alone_of_which_none_was_decided_are_nothing_evaluated():
    verdict = judge("mpc max_drop='1.0pp';level='warn'")
    assert (verdict.overall, verdict.exit_code) == (MISSING, 5)


def test_warnings_alone_pass_where_they_were_decided():
    assert judge("mpc max_drop='1.0pp';level='warn'", diff("mpc", -0.2, se=0.001)).exit_code == 0


def test_inconclusive_may_be_a_warning():
    rules = policy(DROP, head='[stats]\non_inconclusive = "warn"')
    verdict = judge(rules, diff("accuracy", -0.01, se=0.004))
    assert (verdict.overall, verdict.exit_code, only(verdict).blocking) == (INCONCLUSIVE, 0, False)


REFUSE, MISS = "ece_em10_top1 max='0.1pp'", "brier max=0.2"
FAILS, UNSURE, PASSES = "accuracy min='99%'", "accuracy min='90%'", "accuracy min='10%'"


@pytest.mark.parametrize(
    ("gates", "overall", "code"),
    [
        ((PASSES, UNSURE, FAILS, MISS, REFUSE), REFUSED, 3),
        ((PASSES, UNSURE, FAILS, MISS), MISSING, 5),
        ((PASSES, UNSURE, FAILS), FAIL, 1),
        ((PASSES, UNSURE), INCONCLUSIVE, 2),
        ((PASSES,), PASS, 0),
    ],
)
def test_precedence(gates, overall, code):
    found = [metric("accuracy", 0.9, se=0.01), metric("ece_em10_top1", 0.0, se=0.001, floor=0.02)]
    verdict = judge(policy(*gates), *found)
    assert (verdict.overall, verdict.exit_code) == (overall, code)


# ------------------------------------------------------------------------------------------------- families and Holm

CORRUPTIONS = ("fog", "frost", "snow", "contrast", "pixelate")
FAMILY = "mpc.corruption.* max_drop='2pp'"


def _family(*drops, se=0.003):
    return [diff(f"mpc.corruption.{c}", -d, se=se) for c, d in zip(CORRUPTIONS, drops, strict=False)]


def test_a_family_passes_where_every_member_does_and_tells_of_the_closest():
    result = only(judge(FAMILY, *_family(0.001, 0.010, 0.002)))
    assert (result.status, result.metric) == (PASS, "mpc.corruption.frost")
    assert "worst of 3" in result.message


def test_a_family_fails_with_its_worst_member():
    result = only(judge(FAMILY, *_family(0.001, 0.031, 0.050)))
    assert (result.status, result.metric) == (FAIL, "mpc.corruption.snow")


def test_a_member_that_the_baseline_has_and_the_candidate_has_not_is_missing():
    base = [metric("mpc.corruption.snow", 0.7, se=0.01)]
    result = only(judge(FAMILY, *_family(0.001), base=base))
    assert (result.status, result.metric) == (MISSING, "mpc.corruption.snow")


def test_holm_keeps_one_alarm_among_many_from_standing():
    """p = 0.03 alone is an alarm at 5 %; as one of five it is 0.15 and only inconclusive."""
    se = 0.003
    drop = 0.02 + NormalDist().inv_cdf(0.97) * se
    alone = only(judge(FAMILY, *_family(drop)))
    among = only(judge(FAMILY, *_family(drop, 0, 0, 0, 0)))
    assert (alone.status, among.status) == (FAIL, INCONCLUSIVE)
    assert alone.p_value == pytest.approx(0.03)
    assert among.p_value == pytest.approx(0.15)
    assert "p=0.15 after Holm's correction" in among.message
    assert "is not surely within 2 pp" in among.message
    plain = policy(FAMILY, head='[stats]\ncorrection = "none"')
    assert only(judge(plain, *_family(drop, 0, 0, 0, 0))).status is FAIL


def test_holm_counts_over_all_error_gates_and_not_over_warnings():
    se = 0.003
    drop = 0.01 + NormalDist().inv_cdf(0.97) * se
    found = [diff("accuracy", -drop, se=se), diff("mpc", 0.0, se=se)]
    both = judge(policy(DROP, "mpc max_drop='1pp'"), *found)
    warned = judge(policy(DROP, "mpc max_drop='1pp';level='warn'"), *found)
    assert both.gates[0].status is INCONCLUSIVE
    assert warned.gates[0].status is FAIL


def test_exact_failures_are_not_corrected():
    verdict = judge(
        policy("macs max=5", DROP, "mpc max_drop='1pp'"),
        exact("macs", 6),
        diff("accuracy", 0, se=0.001),
        diff("mpc", 0, se=0.001),
    )
    assert verdict.gates[0].status is FAIL


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
    with pytest.raises(NothingEvaluated, match=r"none matches usn-\*"):
        decide(policy(DROP, head='variants = ["usn-*"]'), study(BASE, *ids), found, {}, baseline=None, today=TODAY)


def test_a_refused_variant_is_left_out_with_a_note_unless_it_is_asked_for():
    ids = ("weight-r0.50-s0", "filter-r0.50-s0")
    made = study(BASE, *ids, filter_r0_50_s0="refused")
    found = {BASE: base_measured(), **_many(ids[0])}
    verdict = decide(policy(DROP), made, found, {}, baseline=None, today=TODAY)
    assert verdict.variants == ids[:1]
    assert "'filter-r0.50-s0' left out: compress refused it (layer1: no)" in verdict.notes
    asked = decide(policy(DROP), made, found, {}, baseline=None, today=TODAY, options=Options(variants=ids))
    assert asked.exit_code == 5
    with pytest.raises(NothingEvaluated, match="refused by compress"):
        decide(policy(DROP), study(BASE, ids[1], filter_r0_50_s0="refused"), found, {}, baseline=None, today=TODAY)


# -------------------------------------------------------------------------------------------------------- integrity


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (measured(CAND, test="9"), "the study's test set"),
        (measured("other"), "measurements of 'other'"),
        (measured(CAND, meta={**META, "corruption.seed": 1}), "corruption generator"),
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
    measurements = {CAND: found, BASE: base_measured(meta=META)}
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
