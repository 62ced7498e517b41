"""Corners of the decision that a wrong sign, side or default would turn; each was found by mutating the code."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from gate_fixtures import (
    BASE,
    CAND,
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

from edgesafe.errors import IntegrityError
from edgesafe.policy.decision import decide
from edgesafe.records import GateStatus, Parity

Z = NormalDist().inv_cdf(0.95)
Z2 = NormalDist().inv_cdf(0.975)


def test_a_ratio_of_two_takes_the_baselines_uncertainty_too():
    base = [metric("nll", 0.4, se=0.01)]
    result = only(judge("nll max_ratio='2x'", diff("nll", 0.1, baseline=0.4, se=0.002), base=base))
    assert result.high == pytest.approx((0.5 + Z * (0.002 + 1.0 * 0.01)) / 0.4)
    assert result.low == pytest.approx((0.5 - Z * (0.002 + 1.0 * 0.01)) / 0.4)


def test_a_ratio_of_one_needs_only_the_difference():
    result = only(judge("nll max_ratio='1x'", diff("nll", -0.1, baseline=0.4, se=0.002)))
    assert (result.status, result.high) == (GateStatus.PASS, pytest.approx((0.3 + Z * 0.002) / 0.4))


def test_the_wider_side_of_the_baseline_counts():
    base = [metric("accuracy", 0.6, low=0.6 - 0.01 * Z2, high=0.6 + 0.03 * Z2)]
    result = only(judge("accuracy max_drop='10%'", diff("accuracy", -0.02, baseline=0.6, se=0.002), base=base))
    assert result.high == pytest.approx(0.02 + Z * (0.002 + 0.1 * 0.03))


@pytest.mark.parametrize(
    ("rule", "value", "side"), [("accuracy min='90%'", 0.88, "high"), ("brier max=0.12", 0.14, "low")]
)
def test_an_alarm_uses_the_side_that_faces_the_limit(rule, value, side):
    """The side towards the limit is narrow and the other is wide: p comes from the narrow one."""
    near, far = 0.01 * Z2, 0.2 * Z2
    low, high = (value - far, value + near) if side == "high" else (value - near, value + far)
    result = only(judge(rule, metric(rule.split(" ")[0], value, low=low, high=high)))
    assert result.p_value == pytest.approx(1 - NormalDist().cdf(0.02 / 0.01))
    assert result.status is GateStatus.FAIL


def test_the_p_value_of_a_drop_uses_the_drops_lower_side():
    """A drop is the negative of the difference: its lower side is the difference's upper one."""
    result = only(judge("accuracy max_drop='1pp'", diff("accuracy", -0.03, low=-0.2, high=-0.03 + 0.01 * Z2)))
    assert result.p_value == pytest.approx(1 - NormalDist().cdf(2.0))


def test_the_worst_of_several_parities_counts():
    found = record()
    sparse = Parity(file="model.sparse.onnx", reference="model.onnx", max_abs_logit=0.5, argmax_agreement=1.0, n=64)
    both = found.model_copy(update={"parity": (*found.parity, sparse)})
    assert only(judge("parity.max_abs_logit max=1e-4", records=[both])).estimate == 0.5


def test_counted_numbers_of_both_may_come_from_the_variant_records():
    records = {CAND: record(macs=4000), BASE: record(BASE, macs=5000, onnx="b")}
    measurements = {CAND: measured(CAND), BASE: base_measured()}
    verdict = decide(policy("macs max_ratio='0.8x'"), study(), measurements, records, baseline=None, today=TODAY)
    assert (only(verdict).status, only(verdict).estimate) == (GateStatus.PASS, pytest.approx(0.8))


def test_only_one_side_at_zero_width_is_not_no_change():
    found = diff("accuracy", 0.0, low=0.0, high=0.005, n=10)
    result = only(judge("accuracy max_drop='1pp'", found))
    assert (result.status, result.high) == (GateStatus.PASS, 0.0)
    other = only(judge("accuracy max_drop='1pp'", diff("accuracy", 0.0, low=-0.005, high=0.0, n=10)))
    assert other.high == pytest.approx(0.005 * Z / Z2)


def test_an_interval_that_ends_at_its_estimate_stays():
    """Wilson for 0 of n begins at 0."""
    result = only(judge("high_conf_error@0.9 max='1pp'", metric("high_conf_error@0.9", 0.0, low=0.0, high=0.004)))
    assert result.low == 0.0
    assert only(judge("accuracy min='90%'", metric("accuracy", 1.0, low=0.99, high=1.0))).high == 1.0


def test_an_interval_on_one_side_takes_the_standard_error_for_the_other():
    above = metric("accuracy", 0.9, low=0.91, high=0.94, se=0.01)
    result = only(judge("accuracy min='50%'", above))
    assert (result.low, result.high) == (pytest.approx(0.9 - Z * 0.01), pytest.approx(0.9 + 0.04 * Z / Z2))
    below = only(judge("accuracy min='50%'", metric("accuracy", 0.9, low=0.86, high=0.89, se=0.01)))
    assert (below.low, below.high) == (pytest.approx(0.9 - 0.04 * Z / Z2), pytest.approx(0.9 + Z * 0.01))
    alone = only(judge("accuracy min='50%'", metric("accuracy", 0.9, low=0.86, high=0.89)))
    assert alone.high == pytest.approx(0.9 + 0.04 * Z / Z2)


def test_half_an_interval_is_none():
    result = only(judge("accuracy min='50%'", metric("accuracy", 0.9, low=0.1, se=0.01)))
    assert result.low == pytest.approx(0.9 - Z * 0.01)
    assert only(judge("accuracy min='50%'", metric("accuracy", 0.9, high=0.99))).status is GateStatus.REFUSED


def test_a_certain_excess_fails_and_a_certain_gain_passes():
    assert only(judge("nll max_increase=0.1", diff("nll", 0.2, se=0.0))).status is GateStatus.FAIL
    assert only(judge("nll max_increase=0.1", diff("nll", 0.1, se=0.0))).status is GateStatus.PASS


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_an_interval_level_must_be_one(level):
    with pytest.raises(IntegrityError, match="interval level"):
        judge("accuracy min='50%'", metric("accuracy", 0.9, low=0.8, high=0.95, interval_level=level))


def test_a_family_under_a_minimum_tells_of_the_lowest_bound():
    found = [
        metric("accuracy.fog.5", 0.80, se=0.001), metric("accuracy.snow.5", 0.85, se=0.05),
        metric("accuracy.frost.5", 0.9, se=0.001),
    ]  # fmt: skip
    result = only(judge("accuracy.*.5 min='50%'", *found))
    assert (result.status, result.metric) == (GateStatus.PASS, "accuracy.snow.5")


def test_members_alike_are_told_in_order():
    found = [diff(f"mpc.corruption.{c}", 0.0, se=0.001) for c in ("snow", "fog")]
    assert only(judge("mpc.corruption.* max_drop='1pp'", *found)).metric == "mpc.corruption.fog"


def test_holms_correction_is_named_only_where_it_decided():
    unsure = judge(
        policy("accuracy max_drop='1pp'", "mpc max_drop='1pp'"),
        diff("accuracy", -0.01, se=0.01),
        diff("mpc", 0.0, se=0.001),
    )
    assert unsure.gates[0].status is GateStatus.INCONCLUSIVE
    assert "Holm" not in unsure.gates[0].message


def test_a_waiver_of_a_family_covers_every_member_or_none():
    head = (
        f"waiver = [{{ gate = 'g0', candidate = '{sha('c')}', until = 2027-01-31, limit = '5pp', "
        "reason = 'r', approver = 'a' }]"
    )
    rules = policy("mpc.corruption.* max_drop='2pp'", head=head)
    found = [diff("mpc.corruption.fog", -0.03, se=0.001), diff("mpc.corruption.snow", -0.04, se=0.001)]
    assert only(judge(rules, *found)).status is GateStatus.WAIVED
    found[1] = diff("mpc.corruption.snow", -0.06, se=0.001)
    assert only(judge(rules, *found)).status is GateStatus.FAIL


def test_an_ece_beside_gates_that_do_not_watch_the_model_is_warned_about():
    found = [
        metric("ece_em10_top1", 0.01, se=0.001),
        exact("macs", 4),
        metric("accuracy", 0.9, se=0.01),
        metric("nll", 0.3, se=0.01),
    ]
    for others in (["macs max=5"], ["accuracy min='10%'"], ["nll max=1"]):
        verdict = judge(policy("ece_em10_top1 max='6pp'", *others), *found)
        assert any("ECE alone" in note for note in verdict.notes), others
    for others in (["accuracy min='10%'", "nll max=1"],):
        assert not judge(policy("ece_em10_top1 max='6pp'", *others), *found).notes


def test_the_correction_is_over_one_level_and_holm_is_used_within_it():
    se = 0.003
    drop = 0.01 + NormalDist().inv_cdf(0.97) * se
    rules = policy("accuracy max_drop='1pp';level='warn'", "mpc max_drop='1pp';level='warn'", "nll max_increase=1")
    found = [diff("accuracy", -drop, se=se), diff("mpc", 0.0, se=se), diff("nll", 0.0, se=0.001)]
    first = judge(rules, *found).gates[0]
    assert (first.status, first.p_value) == (GateStatus.INCONCLUSIVE, pytest.approx(0.06))


def test_a_family_of_two_says_so():
    found = [diff(f"mpc.corruption.{c}", 0.0, se=0.001) for c in ("snow", "fog")]
    assert "worst of 2" in only(judge("mpc.corruption.* max_drop='1pp'", *found)).message
    assert "worst of" not in only(judge("mpc.corruption.* max_drop='1pp'", found[0])).message


def test_any_of_several_patterns_chooses():
    ids = ("weight-r0.30-s0", "filter-r0.50-s0", "random-r0.50-s0")
    found = {BASE: base_measured(), **{one: measured(one, diff("accuracy", 0.0, se=0.001)) for one in ids}}
    rules = policy("accuracy max_drop='1pp'", head='variants = ["weight-*", "filter-*"]')
    assert decide(rules, study(BASE, *ids), found, {}, baseline=None, today=TODAY).variants == ids[:2]


def test_one_image_is_possible_and_none_is_not():
    assert only(judge("accuracy min='1%'", metric("accuracy", 0.9, se=0.01, n=1))).n == 1


def test_at_the_limit_there_is_no_alarm():
    assert only(judge("accuracy max_drop='1pp'", diff("accuracy", -0.01, se=0.01))).p_value == 1.0
