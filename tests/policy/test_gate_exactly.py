"""What policies and verdicts say, to the word: each of these small faults once went unnoticed."""

from __future__ import annotations

import pytest
from gate_fixtures import BASE, CAND, STATS, TODAY, base_measured, diff, exact, judge, measured, metric, policy, study
from pydantic import ValidationError

from edgesafe.policy import outputs
from edgesafe.policy.decision import Options, decide
from edgesafe.policy.policy import loads
from edgesafe.records import GateStatus, Role, Sample, Verdict

DROP = "accuracy max_drop='1.0pp'"


def test_one_result_without_effect_is_one() -> None:
    rules = policy(DROP, "mpc max_drop='1.0pp';level='warn'")
    verdict = judge(rules, diff("accuracy", 0.0, se=0.001), diff("mpc", -0.2, se=0.001))
    assert "warning: 1 result without effect on the exit code did not pass" in verdict.notes


def test_a_waiver_is_read_with_the_unit_of_its_own_gate() -> None:
    text = (
        f'schema = "edgesafe.policy/1"\n{STATS}\n'
        '[[gate]]\nid = "z"\nmetric = "accuracy"\nmax_drop = "1pp"\n'
        '[[gate]]\nid = "a"\nmetric = "size.onnx_bytes"\nmax_ratio = "2x"\n'
        f'[[waiver]]\ngate = "a"\ncandidate = "sha256:{"c" * 64}"\nuntil = 2027-01-31\nlimit = "3x"\n'
        'reason = "field trial"\napprover = "A. Person"\n'
    )
    verdict = judge(
        loads(text),
        diff("accuracy", 0.0, se=0.001),
        exact("size.onnx_bytes", 250),
        base=(exact("size.onnx_bytes", 100),),
    )
    assert [one.status for one in verdict.gates] == [GateStatus.PASS, GateStatus.WAIVED]


@pytest.mark.parametrize(("estimate", "says"), [(0.900001, "the estimate is at the limit"), (0.905, "about n=")])
def test_more_images_are_asked_for_only_where_they_are_a_number_to_reach(estimate: float, says: str) -> None:
    verdict = judge("accuracy min='90%'", metric("accuracy", estimate, se=0.05))
    assert verdict.gates[0].status is GateStatus.INCONCLUSIVE
    assert says in verdict.gates[0].message


def test_trials_of_a_search_are_counted() -> None:
    whole = study(BASE, CAND, "weight-r0.60-s0", "weight-r0.70-s0", "weight-r0.80-s0")
    trials = [entry.model_copy(update={"role": Role.TRIAL}) for entry in whole.variants[2:]]
    searched = whole.model_copy(update={"variants": (*whole.variants[:2], *trials), "search_sha256": "sha256:0"})
    found = {CAND: measured(CAND, metric("accuracy", 0.9, se=0.001)), BASE: base_measured()}
    verdict = decide(policy("accuracy min='50%'"), searched, found, {}, baseline=None, today=TODAY, options=Options())
    assert "not judged: 3 trials of the search (name one with --variant)" in verdict.notes


def judged(sample: Sample) -> Verdict:
    candidate = measured(CAND, metric("accuracy", 0.9, se=0.001)).model_copy(update={"sample": sample})
    found = {CAND: candidate, BASE: base_measured()}
    return decide(policy("accuracy min='50%'"), study(), found, {}, baseline=None, today=TODAY, options=Options())


@pytest.mark.parametrize(("looks", "rivals", "each"), [(5, 1, "99.00%"), (5, 2, "99.50%"), (2, 5, "99.50%")])
def test_the_level_of_each_look_is_told(looks: int, rivals: int, each: str) -> None:
    (note,) = (n for n in judged(Sample(seed=0, looks=looks, rivals=rivals)).notes if "growing sample" in n)
    assert f"could be judged {looks} times" in note
    assert f"each bound holds at {each}, together 95.00%" in note
    assert (f"judge {rivals} files of a search" in note) == (rivals > 1)


def test_a_policy_does_not_change_once_it_is_read() -> None:
    rules = policy(DROP)
    with pytest.raises(ValidationError, match="frozen"):
        rules.data.profile = "another"  # type: ignore[misc]


def test_a_message_of_any_length_has_its_row() -> None:
    verdict = judge(DROP, diff("accuracy", 0.0, se=0.001))
    for length, shown in ((1999, 1999), (2000, 2000), (2001, 1999), (9000, 1999)):
        gate = verdict.gates[0].model_copy(update={"message": "x" * length})
        text = outputs.to_markdown(verdict.model_copy(update={"gates": (gate,)}))
        assert "x" * shown in text
        assert "x" * (shown + 1) not in text
        assert ("…" in text) == (shown < length)
