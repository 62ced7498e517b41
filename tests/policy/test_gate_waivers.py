from __future__ import annotations

from datetime import date, timedelta

import pytest
from gate_fixtures import TODAY, diff, exact, judge, only, policy, policy_text, sha

from edgesafe.policy.policy import loads
from edgesafe.records import GateStatus

UNTIL = date(2027, 1, 31)


def rules(*, gate="accuracy max_drop='1.0pp'", limit="'3pp'", until=UNTIL, candidate="c", stats=""):
    head = (
        f"waiver = [{{ gate = 'g0', candidate = '{sha(candidate)}', until = {until}, limit = {limit}, "
        f"reason = 'field trial,\\n two cars', approver = 'A. Person' }}]\n{stats}"
    ).replace("'field trial,\\n two cars'", '"field trial, two cars"')
    return policy(gate, head=head)


def drop(estimate, se=0.002):
    return diff("accuracy", -estimate, se=se)


@pytest.mark.parametrize("estimate", [0.020, 0.011])
def test_a_waiver_covers_a_failure_and_an_undecided_gate(estimate):
    verdict = judge(rules(), drop(estimate))
    result = only(verdict)
    assert (result.status, verdict.overall, verdict.exit_code) == (GateStatus.WAIVED, GateStatus.WAIVED, 0)
    assert "waived up to max_drop 3pp by A. Person until 2027-01-31: field trial, two cars" in result.message
    assert result.message.startswith("WAIVED g0: ")
    assert result.waiver
    assert not result.blocking
    assert result.limit == 0.01  # the gate's own


def test_its_own_limit_still_holds():
    verdict = judge(rules(), drop(0.05))
    assert (only(verdict).status, verdict.exit_code) == (GateStatus.FAIL, 1)
    assert "beyond the waiver's own limit max_drop 3pp as well" in only(verdict).message
    assert only(verdict).waiver == ""


def test_its_own_limit_must_be_met_surely():
    """Estimate 2.8 pp within 3 pp, but the bound is beyond it: not waived."""
    assert only(judge(rules(), drop(0.028))).status is GateStatus.FAIL
    assert only(judge(rules(), drop(0.028, se=0.02))).status is GateStatus.INCONCLUSIVE


def test_a_passing_gate_needs_no_waiver_and_says_so():
    verdict = judge(rules(), drop(0.0))
    assert (only(verdict).status, verdict.exit_code) == (GateStatus.PASS, 0)
    assert any("was not needed" in note for note in verdict.notes)


def test_another_file_is_not_covered():
    verdict = judge(rules(candidate="9"), drop(0.02))
    assert (only(verdict).status, verdict.exit_code) == (GateStatus.FAIL, 1)
    assert any("was not needed" in note for note in verdict.notes)


@pytest.mark.parametrize(
    ("left", "status", "note"),
    [
        (15, GateStatus.WAIVED, None),
        (14, GateStatus.WAIVED, "expires in 14 days"),
        (1, GateStatus.WAIVED, "expires in 1 day ("),
        (0, GateStatus.WAIVED, "expires in 0 days"),
        (-1, GateStatus.FAIL, "expired on"),
    ],
)
def test_dates(left, status, note):
    verdict = judge(rules(until=TODAY + timedelta(days=left)), drop(0.02))
    assert only(verdict).status is status
    notes = [one for one in verdict.notes if "waiver" in one]
    assert (len(notes) == 1 and note in notes[0]) if note else not notes


def test_an_expired_waiver_turns_an_undecided_gate_into_a_failure():
    gone = rules(until=TODAY - timedelta(days=1), stats="[stats]\non_inconclusive = 'warn'")
    verdict = judge(gone, drop(0.011))
    assert (only(verdict).status, verdict.exit_code) == (GateStatus.FAIL, 1)
    assert "expired on" in only(verdict).message


def test_an_expired_waiver_does_not_harm_a_passing_gate():
    verdict = judge(rules(until=TODAY - timedelta(days=1)), drop(0.0))
    assert verdict.exit_code == 0
    assert len([note for note in verdict.notes if "expired" in note or "not needed" in note]) == 2


def test_missing_and_refused_cannot_be_waived():
    assert judge(rules()).exit_code == 5
    assert judge(rules(stats="[data]\nmin_samples = 20000"), drop(0.02)).exit_code == 3


def test_an_exact_gate():
    size = rules(gate="size.params max=1000", limit="2000")
    assert only(judge(size, exact("size.params", 1500))).status is GateStatus.WAIVED
    assert only(judge(size, exact("size.params", 2500))).status is GateStatus.FAIL


def test_a_waived_warning():
    verdict = judge(rules(gate="accuracy max_drop='1.0pp';level='warn'"), drop(0.02))
    assert (only(verdict).status, verdict.overall) == (GateStatus.WAIVED, GateStatus.PASS)


def test_a_waiver_is_of_the_gate_that_it_names_and_of_no_other():
    """Whatever the order of the gates: sorted by id, another one would come first."""
    text = policy_text("size.params max=1000", "accuracy max_drop='1.0pp'", "accuracy max_drop='1.0pp'")
    for old, new in (('"g0"', '"size"'), ('"g1"', '"drop"'), ('"g2"', '"again"')):
        text = text.replace(old, new)
    text += (
        f"[[waiver]]\ngate = 'drop'\ncandidate = '{sha('c')}'\nuntil = {UNTIL}\nlimit = '3pp'\n"
        "reason = 'field trial'\napprover = 'A. Person'\n"
    )
    verdict = judge(loads(text), drop(0.02), exact("size.params", 1))
    assert {result.id: result.status for result in verdict.gates} == {
        "size": GateStatus.PASS,
        "drop": GateStatus.WAIVED,
        "again": GateStatus.FAIL,
    }
