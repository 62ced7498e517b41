"""Levels, precedence of exit codes, families and Holm's correction."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from gate_fixtures import (
    diff,
    exact,
    judge,
    metric,
    only,
    policy,
)

from edgesafe.records import GateStatus

PASS, FAIL, INCONCLUSIVE = GateStatus.PASS, GateStatus.FAIL, GateStatus.INCONCLUSIVE
MISSING, REFUSED = GateStatus.MISSING, GateStatus.REFUSED
DROP = "accuracy max_drop='1.0pp'"


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
    plain = policy(FAMILY, head='[stats]\nconfidence = 0.95\ncorrection = "none"')
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
