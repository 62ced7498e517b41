"""Each branch of the decision, on synthetic records."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from gate_fixtures import (
    BASE,
    CAND,
    TODAY,
    diff,
    exact,
    judge,
    measured,
    metric,
    only,
    policy,
    record,
    study,
)

from edgesafe.errors import IntegrityError
from edgesafe.policy.decision import decide
from edgesafe.policy.policy import load
from edgesafe.recipe.shipped import Kind, find
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


@pytest.mark.parametrize(("drop", "told"), [(0.0099, "would decide if"), (0.00999999, "the estimate is at the limit")])
def test_where_a_thousand_million_images_would_not_decide_none_are_asked_for(drop, told):
    """n (z se / excess)^2 with n = 1,000 and se = 0.002: about 1.1 million, and about 1.1e14."""
    result = only(judge(DROP, diff("accuracy", -drop, se=0.002, n=1000)))
    assert result.status is INCONCLUSIVE
    assert told in result.message
    assert ("would decide if" in result.message) == (told == "would decide if")


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


@pytest.mark.parametrize(
    ("dense", "sparse", "status"),
    [
        (100_080, 55_000, PASS),  # a temperature inside the dense file, and single weights set to zero
        (100_080, 100_020, FAIL),  # so few that no file is smaller
        (100_001, None, FAIL),  # what ships really is larger, by a byte
        (100_000, None, PASS),
        (90_000, 100_500, PASS),  # channels went, and the sparse form does not pay
    ],
)
@pytest.mark.parametrize("name", ["release", "quickstart"])
def test_the_size_gate_of_the_policies_that_ship_reads_the_file_that_ships(name, dense, sparse, status):
    gate = next(gate for gate in load(find(Kind.POLICY, name)).gates if gate.id == "size")
    rule = f"{gate.metric} max_ratio='{gate.clauses[0].limit.text}'"
    found = [exact("size.onnx_bytes", dense)]
    found += [] if sparse is None else [exact("size.sparse_onnx_bytes", sparse)]
    assert only(judge(rule, *found, base=[exact("size.onnx_bytes", 100_000)])).status is status


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


def test_a_bound_of_an_ece_is_never_negative():
    result = only(judge("ece_em10_top1 max='6pp'", metric("ece_em10_top1", 0.01, se=0.02, floor=0.001)))
    assert result.low == 0.0
    assert "1.00 % [0.00, " in result.message
    drop = only(judge("ece_em10_top1 max_increase='6pp'", diff("ece_em10_top1", 0.0, baseline=0.02, se=0.01)))
    assert drop.low < 0.0
