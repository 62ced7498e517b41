from __future__ import annotations

from statistics import NormalDist

import pytest
from gate_fixtures import BASE, CAND, base_measured, diff, exact, judge, measured, metric, policy, study
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.errors import NothingEvaluated
from edgesafe.policy import proposal
from edgesafe.policy.policy import loads
from edgesafe.policy.proposal import _round_up, check, init
from edgesafe.records import GateStatus

ABSOLUTE = [
    metric("accuracy", 0.917, se=0.0028), metric("mpc", 0.70, se=0.004), metric("mpc.corruption.fog", 0.8, se=0.005),
    metric("ece_em10_top1", 0.0529, low=0.0483, high=0.0578, floor=0.0062), metric("nll", 0.35, se=0.004),
    metric("high_conf_error@0.9", 0.04, se=0.002), exact("size.onnx_bytes", 3e5), exact("parity.max_abs_logit", 1e-6),
]  # fmt: skip


def differences(spread=0.002, n=10_000):
    names = ("accuracy", "mpc", "mpc.corruption.fog", "ece_em10_top1", "nll", "high_conf_error@0.9")
    return [diff(name, 0.0, se=spread, n=n) for name in names]


def limits(text):
    return {gate.id: gate.clauses[0].limit.value for gate in loads(text).gates}


def test_a_proposal_loads_and_a_candidate_equal_to_the_baseline_passes_it():
    found = {
        BASE: base_measured(*ABSOLUTE),
        CAND: measured(CAND, *ABSOLUTE, *differences(), metric("latency.ratio", 0.9, se=0.01)),
    }
    text = init(study(), found)
    rules = loads(text)
    assert [gate.id for gate in rules.gates] == [
        "accuracy-drop", "mpc-drop", "worst-corruption", "ece", "ece-increase", "nll-increase", "sure-and-wrong",
        "parity", "size", "latency",
    ]  # fmt: skip
    verdict = judge(rules, *found[CAND].metrics.values(), *differences(), base=ABSOLUTE)
    assert {one.status for one in verdict.gates} == {GateStatus.PASS}
    assert all(line.startswith("ok ") for line in check(rules, found))
    assert rules.data.min_samples == 10_000
    assert "Noise floor at n=10,000: 0.62 %; the baseline shows 5.29 %." in text


def test_limits_are_widened_to_what_n_can_decide():
    """Spread 1 pp: an equal model passes a limit of 3.17 pp in 80 % of samples; proposed is the next round number."""
    found = {BASE: base_measured(*ABSOLUTE), CAND: measured(CAND, *ABSOLUTE, *differences(0.01))}
    proposed = limits(init(study(), found))
    needed = (NormalDist().inv_cdf(0.99) + NormalDist().inv_cdf(0.8)) * 0.01
    assert proposed["accuracy-drop"] == 0.05 > needed
    assert NormalDist().cdf(0.05 / 0.01 - NormalDist().inv_cdf(0.99)) > 0.8
    fine = {BASE: base_measured(*ABSOLUTE), CAND: measured(CAND, *ABSOLUTE, *differences(0.001))}
    assert limits(init(study(), fine))["accuracy-drop"] == 0.01


def test_without_candidates_the_spread_is_guessed_and_that_is_said():
    text = init(study(BASE), {BASE: base_measured(*ABSOLUTE)})
    assert "the spreads of paired differences are guessed" in text
    assert "latency" not in limits(text)
    assert limits(text)["accuracy-drop"] == 0.01


def test_an_ece_limit_is_never_below_the_noise_floor():
    poor = [metric("ece_em10_top1", 0.01, low=0.0, high=0.02, n=300, floor=0.043)]
    text = init(study(BASE), {BASE: base_measured(*poor)})
    assert limits(text)["ece"] >= 0.043
    assert loads(text).data.min_samples == 300


@settings(max_examples=50)
@given(st.floats(1e-6, 0.3), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(1, 100_000))
def test_any_numbers_give_a_policy_that_loads(spread, ece, floor, n):
    base = [metric("accuracy", 0.9, se=spread, n=n), metric("ece_em10_top1", ece, se=spread, floor=floor, n=n)]
    rules = loads(init(study(BASE), {BASE: base_measured(*base)}))
    assert rules.gates[1].clauses[0].limit.value >= floor * (1 - 1e-9)


@pytest.mark.parametrize(
    ("spread", "limit"), [(0.004, 0.015), (0.006, 0.02), (0.009, 0.03), (0.015, 0.05), (0.021, 0.07), (0.03, 0.1)]
)
def test_limits_are_the_next_round_number(spread, limit):
    """3.168 spreads: 1.27, 1.90, 2.85, 4.75, 6.65 and 9.5 pp."""
    found = {BASE: base_measured(*ABSOLUTE), CAND: measured(CAND, *ABSOLUTE, *differences(spread))}
    assert limits(init(study(), found))["accuracy-drop"] == limit


@pytest.mark.parametrize("value", [1.0, 0.02, 0.15, 3e-4])
def test_a_limit_that_is_round_stays(value):
    assert proposal._round_up(value) == value


def test_the_fixed_limits():
    found = {BASE: base_measured(*ABSOLUTE), CAND: measured(CAND, metric("latency.ratio", 0.9, se=0.01))}
    proposed = limits(init(study(), found))
    assert (proposed["parity"], proposed["size"], proposed["latency"]) == (1e-4, 1.0, 1.0)


def test_the_smallest_n_is_asked_for():
    few = [diff("mpc", 0.0, se=0.001, n=1200)]
    assert loads(init(study(), {BASE: base_measured(*ABSOLUTE), CAND: measured(CAND, *few)})).data.min_samples == 1200


def test_nothing_measured():
    with pytest.raises(NothingEvaluated, match="no measured baseline"):
        init(study(), {})
    with pytest.raises(NothingEvaluated, match="no metric"):
        init(study(), {BASE: base_measured()})
    with pytest.raises(NothingEvaluated):
        check(policy("accuracy min='10%'"), {})


def test_odd_names_stay_in_their_comment():
    odd = study().model_copy(update={"name": 'x\nschema = "evil"\r'})
    assert loads(init(odd, {BASE: base_measured(*ABSOLUTE)}))


# ------------------------------------------------------------------------------------------------------------- check


def lines(rules, *found, base=ABSOLUTE):
    return check(policy(rules), {BASE: base_measured(*base), CAND: measured(CAND, *found)})


def test_check_gives_the_power_that_the_formula_does():
    (line,) = lines("accuracy max_drop='1.0pp'", diff("accuracy", -0.005, se=0.002))
    power = NormalDist().cdf(0.005 / 0.002 - NormalDist().inv_cdf(0.95))
    assert f"pass {power:.0%}, fail 0% of samples; n of about " in line
    assert line.startswith(f"ok accuracy [{CAND}]".replace("accuracy", "g0"))
    assert "accuracy drop 0.50 pp, limit 1.0 pp, spread 0.20 pp (n=10,000)" in line


def test_check_says_how_many_images_a_weak_gate_needs():
    (line,) = lines("accuracy max_drop='1.0pp'", diff("accuracy", -0.008, se=0.002, n=1000))
    factor = ((NormalDist().inv_cdf(0.95) + NormalDist().inv_cdf(0.8)) * 0.002 / 0.002) ** 2
    assert line.startswith("weak")
    assert f"n of about {int(1000 * factor) + 1:,} decides in 80%" in line


@pytest.mark.parametrize(
    ("rules", "found", "says"),
    [
        ("accuracy max_drop='1.0pp'", [], "missing g0"),
        ("mpc.severity.* min='10%'", [], "missing g0"),
        ("accuracy min='10%'", [metric("accuracy", 0.9)], "refused g0"),
        ("ece_em10_top1 max='1pp'", [metric("ece_em10_top1", 0.01, se=0.001, floor=0.02)], "refused g0"),
        ("macs max=5", [exact("macs", 4)], "ok g0"),
        ("accuracy max_drop='1.0pp'", [diff("accuracy", -0.01, se=0.002)], "it stands at its limit"),
        ("accuracy max_drop='1.0pp'", [diff("accuracy", -0.05, se=0.002)], "pass 0%, fail 100% of samples"),
    ],
)
def test_check_of_each_kind(rules, found, says):
    (line,) = lines(rules, *found)
    assert says in line


def test_check_takes_the_wider_side():
    (line,) = lines("accuracy max_drop='1.0pp'", diff("accuracy", 0.0, low=-0.004 * 1.959964, high=0.001 * 1.959964))
    assert "spread 0.40 pp" in line


def test_check_of_a_certain_difference():
    (good,) = lines("nll max_increase=0.1", diff("nll", 0.05, se=0.0))
    (bad,) = lines("nll max_increase=0.1", diff("nll", 0.15, se=0.0))
    assert "pass 100%, fail 0% of samples" in good
    assert "pass 0%, fail 100% of samples" in bad


def test_check_of_a_baseline_alone_does_its_absolute_gates():
    (line,) = check(policy("accuracy min='80%'"), {BASE: base_measured(*ABSOLUTE)})
    assert line.startswith(f"ok g0 [{BASE}]")


def test_check_of_a_family_takes_the_widest_member():
    (line,) = lines(
        "mpc.corruption.* max_drop='5pp'",
        diff("mpc.corruption.fog", 0, se=0.001),
        diff("mpc.corruption.snow", 0, se=0.01),
    )
    assert "mpc.corruption.snow" in line


@pytest.mark.parametrize("power", [1e-4, 0.01, 1.0, 1000.0])
@pytest.mark.parametrize("step", [1.0, 1.5, 2.0, 3.0, 5.0, 7.0])
def test_a_limit_that_is_a_step_already_is_not_rounded_to_the_next(step, power):
    """Whichever way its float was rounded: 0.07 written as 7 * 0.01 is a little above it."""
    assert _round_up(step * power) == pytest.approx(step * power, rel=1e-9)
    assert _round_up(step * power * (1 + 1e-15)) == pytest.approx(step * power, rel=1e-9)
    assert _round_up(step * power * 1.001) > step * power * 1.2
