"""Gates against the fp32 sibling: what the conversion to another precision alone may cost."""

from __future__ import annotations

import pytest
from gate_fixtures import (
    BASE,
    CAND,
    OTHER_SEED,
    TODAY,
    base_measured,
    diff,
    measured,
    metric,
    only,
    policy,
    record,
    sha,
    study,
)

from edgesafe.errors import IntegrityError, PolicyError
from edgesafe.policy import lock as locks
from edgesafe.policy.decision import Options, decide, gates_that_compare
from edgesafe.policy.policy import loads
from edgesafe.policy.proposal import check, init
from edgesafe.records import Agreement, Conversion, GateStatus, Precision

INT8 = "weight-r0.50-int8-s0"
SIBLING = "accuracy max_drop='1.0pp';against='sibling'"
CLOSE = diff("accuracy", -0.001, half=0.002)  # to the fp32 sibling: within 1 pp
FAR = diff("accuracy", -0.03, half=0.002)  # and beyond


def converted(*found, to_sibling=(), **more):
    """Measurements of an int8 variant, compared with the baseline and with its fp32 sibling."""
    own = measured(INT8, *found, onnx=more.pop("onnx", "8"), **more)
    told = {"sibling": CAND, "sibling_differences": {one.metric: one for one in to_sibling}}
    return own.model_copy(update=told)


def int8_record(*, of=CAND, onnx="c", size=100_000):
    """variant.json of an int8 variant that was converted from a file with that hash."""
    agreement = Agreement(max_abs_logit=0.1, argmax_agreement=1.0, n=64)
    conversion = Conversion(sibling=of, onnx_sha256=sha(onnx), agreement=agreement)
    told = {"precision": Precision.INT8, "conversion": conversion}
    return record(INT8, onnx="8", size=size).model_copy(update=told)


def judged(rules, int8, *, fp32=None, base=(), records=(), options=None):
    """The verdict on the int8 variant of a study that holds its sibling and the baseline, too."""
    rules = policy(rules) if isinstance(rules, str) else rules
    found = {BASE: base_measured(*base), CAND: fp32 or measured(CAND), INT8: int8}
    asked = options or Options(variants=(INT8,))
    return decide(
        rules, study(BASE, CAND, INT8), found, {one.id: one for one in records}, baseline=None, today=TODAY,
        options=asked,
    )  # fmt: skip


def test_a_gate_against_the_sibling_reads_the_difference_to_it_and_not_that_to_the_baseline():
    good = only(judged(SIBLING, converted(FAR, to_sibling=[CLOSE])))
    assert good.status is GateStatus.PASS
    assert good.baseline == CAND
    assert "accuracy drop to the fp32 sibling 0.10 pp" in good.message
    bad = only(judged(SIBLING, converted(CLOSE, to_sibling=[FAR])))
    assert bad.status is GateStatus.FAIL
    plain = only(judged("accuracy max_drop='1.0pp'", converted(CLOSE, to_sibling=[FAR])))  # the control
    assert (plain.status, plain.baseline) == (GateStatus.PASS, BASE)
    assert "sibling" not in plain.message


def test_sizes_are_compared_with_the_sibling_s():
    records = [record(CAND, size=300_000), record(BASE, onnx="b", size=900_000), int8_record(size=100_000)]
    half = "size.onnx_bytes max_ratio='0.5x';against='sibling'"
    assert only(judged(half, converted(), records=records)).estimate == pytest.approx(1 / 3)
    tight = only(judged("size.onnx_bytes max_ratio='0.2x';against='sibling'", converted(), records=records))
    assert tight.status is GateStatus.FAIL  # 1/9 of the baseline's would pass
    assert only(judged("size.onnx_bytes max_ratio='0.2x'", converted(), records=records)).status is GateStatus.PASS


def test_a_share_is_of_the_sibling_s_value():
    fp32 = measured(CAND, metric("nll", 0.5, half=0.01))
    relative = diff("nll", 0.04, baseline=0.5, half=0.001)
    found = only(judged("nll max_increase='10%';against='sibling'", converted(to_sibling=[relative]), fp32=fp32))
    assert (found.status, found.limit) == (GateStatus.PASS, pytest.approx(0.05))
    assert "of the fp32 sibling's 0.5000" in found.message
    nothing = only(judged("nll max_increase='10%';against='sibling'", converted(to_sibling=[relative])))
    assert "the fp32 sibling's own 'nll' was not measured" in nothing.message


def test_what_was_not_compared_with_a_sibling_is_missing_and_never_a_pass():
    none = only(judged(SIBLING, converted(CLOSE)))
    assert none.status is GateStatus.MISSING
    assert "no paired difference of 'accuracy' to the fp32 sibling" in none.message
    without = converted(CLOSE, to_sibling=[CLOSE]).model_copy(update={"sibling": None})
    assert only(judged(SIBLING, without)).status is GateStatus.MISSING
    absent = converted(CLOSE, to_sibling=[CLOSE]).model_copy(update={"sibling": "filter-r0.50-s0"})
    found = only(judged(SIBLING, absent))
    assert (found.status, "'filter-r0.50-s0' has no measurements" in found.message) == (GateStatus.MISSING, True)


def test_fp32_variants_are_not_asked_and_that_is_said():
    rules = policy("accuracy max_drop='1.0pp'", SIBLING)
    found = {BASE: base_measured(), CAND: measured(CAND, CLOSE), INT8: converted(CLOSE, to_sibling=[CLOSE])}
    records = {one.id: one for one in (record(CAND), record(BASE, onnx="b"), int8_record())}
    verdict = decide(rules, study(BASE, CAND, INT8), found, records, baseline=None, today=TODAY)
    asked = [(gate.variant, gate.id) for gate in verdict.gates]
    assert asked == [(CAND, "g0"), (INT8, "g0"), (INT8, "g1")]
    assert any(note.startswith(f"not asked of {CAND}: g1 (fp32 has no sibling") for note in verdict.notes)
    alone = decide(policy(SIBLING), study(BASE, CAND, INT8), found, records, baseline=None, today=TODAY)
    assert [(gate.variant, gate.status) for gate in alone.gates] == [
        (CAND, GateStatus.MISSING), (INT8, GateStatus.PASS),
    ]  # fmt: skip


def test_no_baseline_leaves_gates_against_the_sibling_in():
    rules = policy("accuracy max_drop='1.0pp'", SIBLING)
    assert gates_that_compare(rules) == ("g0",)
    own = converted(to_sibling=[CLOSE], baseline=None)
    verdict = judged(rules, own, options=Options(variants=(INT8,), no_baseline=True))
    assert [(gate.id, gate.status) for gate in verdict.gates] == [("g1", GateStatus.PASS)]


def test_the_lock_pins_the_baseline_of_a_gate_against_the_sibling_too():
    own = converted(to_sibling=[CLOSE])
    pinned = locks.loads(locks.pin({BASE: base_measured()}), source="lock")
    assert only(judged(SIBLING, own, options=Options((INT8,), lock=pinned))).status is GateStatus.PASS
    other = locks.loads(locks.pin({BASE: base_measured(onnx="0")}), source="lock")
    with pytest.raises(IntegrityError, match=f"onnx_sha256 of '{BASE}'"):
        judged(SIBLING, own, options=Options((INT8,), lock=other))


def test_a_waiver_is_held_against_the_same_sibling():
    waiver = (
        f"[[waiver]]\ngate = 'g0'\ncandidate = '{sha('8')}'\nuntil = 2026-12-31\nlimit = '5pp'\n"
        "reason = 'field trial'\napprover = 'A. Person'"
    )
    text = 'schema = "edgesafe.policy/1"\n[stats]\nconfidence = 0.95\n[[gate]]\nid = "g0"\nmetric = "accuracy"\n'
    rules = loads(f'{text}max_drop = "1.0pp"\nagainst = "sibling"\n{waiver}\n')
    assert only(judged(rules, converted(CLOSE, to_sibling=[FAR]))).status is GateStatus.WAIVED
    worse = diff("accuracy", -0.2, half=0.002)
    assert only(judged(rules, converted(CLOSE, to_sibling=[worse]))).status is GateStatus.FAIL


# --------------------------------------------------------------------------------- records that contradict each other


def test_a_sibling_that_it_was_not_converted_from_is_refused():
    own, fp32 = converted(to_sibling=[CLOSE]), measured(CAND)
    for one in (int8_record(of=BASE), int8_record().model_copy(update={"conversion": None})):
        with pytest.raises(IntegrityError, match="not converted from"):
            judged(SIBLING, own, fp32=fp32, records=[one])
    with pytest.raises(IntegrityError, match=r"converted from is sha256:d.*but sha256:c"):
        judged(SIBLING, own, fp32=fp32, records=[int8_record(onnx="d")])
    judged(SIBLING, own, fp32=fp32, records=[int8_record()])  # the control


@pytest.mark.parametrize(
    ("fp32", "says"),
    [
        (measured(CAND, test="0"), "the study's test set"),
        (measured(CAND, corruptions=OTHER_SEED), "the corruption generator of 'weight-r0.50-s0'"),
        (measured("filter-r0.50-s0"), "holds the measurements of 'filter-r0.50-s0'"),
    ],
)
def test_the_sibling_s_records_are_checked_as_the_baseline_s_are(fp32, says):
    with pytest.raises(IntegrityError, match=says):
        judged(SIBLING, converted(to_sibling=[CLOSE]), fp32=fp32)


# ------------------------------------------------------------------------------------------------------- writing it


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("accuracy min='90%';against='sibling'", "give max_drop, or leave against out"),
        ("flips max='2%';against='sibling'", 'write metric = "flips.sibling" without against'),
        ("latency.ratio max='1x';against='sibling'", 'write metric = "latency.ratio.sibling" without against'),
        ("latency.p50_ms max_ratio='1x';against='sibling'", 'write metric = "latency.ratio.sibling", max'),
        ("latency.p50_ms max='8ms';against='sibling'", "leave against out"),
        ("accuracy max_drop='1pp';against='siblings'", "'baseline' or 'sibling'"),
        ("accuracy max_drop='1pp';agianst='sibling'", "did you mean 'against'"),
    ],
)
def test_what_makes_no_sense_against_a_sibling_is_one_line(gate, says):
    with pytest.raises(PolicyError, match=says):
        policy(gate)


# ------------------------------------------------------------------------------------------------------- proposing it


def proposed(*, slow=False):
    ratio = metric("latency.ratio.sibling", 1.2 if slow else 0.7, half=0.05)
    own = [metric("accuracy", 0.9, half=0.005), metric("certified_accuracy.brightness=2", 0.88, half=0.005)]
    to_sibling = [diff("accuracy", 0.0, half=0.002), diff("certified_accuracy.brightness=2", 0.0, half=0.002)]
    fp32 = measured(CAND, *own, *to_sibling)
    found = {BASE: base_measured(*own), CAND: fp32, INT8: converted(*own, ratio, *to_sibling, to_sibling=to_sibling)}
    return found, study(BASE, CAND, INT8)


def test_a_proposal_bounds_the_conversion_where_a_study_has_precisions():
    found, index = proposed()
    rules = loads(init(index, found))
    of_sibling = {gate.id: (gate.against.value, gate.level) for gate in rules.gates if "conversion" in gate.id}
    assert of_sibling == {
        "conversion-accuracy": ("sibling", "error"), "conversion-certified": ("sibling", "error"),
        "conversion-latency": ("baseline", "warn"),
    }  # fmt: skip
    verdict = judged(rules, found[INT8], fp32=found[CAND], base=found[BASE].metrics.values())
    assert {gate.status for gate in verdict.gates} == {GateStatus.PASS}
    slow = proposed(slow=True)[0][INT8]
    late = judged(rules, slow, fp32=found[CAND], base=found[BASE].metrics.values())
    assert [(gate.id, gate.status) for gate in late.gates if gate.status is not GateStatus.PASS] == [
        ("conversion-latency", GateStatus.FAIL)
    ]
    without = {name: one for name, one in found.items() if name != INT8}  # the control
    assert not [gate.id for gate in loads(init(index, without)).gates if "conversion" in gate.id]


def test_power_is_told_of_the_difference_to_the_sibling_and_of_converted_files_alone():
    found, _ = proposed()
    lines = check(policy("accuracy max_drop='1.0pp'", SIBLING), found)
    assert [line.split(":")[0] for line in lines] == [f"ok g0 [{CAND}]", f"ok g0 [{INT8}]", f"ok g1 [{INT8}]"]
