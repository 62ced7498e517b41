from __future__ import annotations

import pytest
from gate_fixtures import (
    BASE,
    CAND,
    CORRUPTIONS,
    OTHER_SEED,
    TODAY,
    base_measured,
    diff,
    measured,
    metric,
    policy,
    policy_text,
    sha,
    study,
)

from edgesafe.errors import IntegrityError, PolicyError, RefusedError
from edgesafe.files import MAX_TEXT
from edgesafe.policy import lock
from edgesafe.policy.decision import Options, decide

DROP = "accuracy max_drop='1.0pp'"


def run(base, pinned, *, rules=DROP, head="", candidate=None, **options):
    measurements = {CAND: candidate or measured(CAND, diff("accuracy", 0.0, se=0.001)), BASE: base}
    options = Options(lock=pinned, **options)
    return decide(policy(rules, head=head), study(), measurements, {}, baseline=None, today=TODAY, options=options)


def test_what_is_pinned_is_read_back():
    text = lock.pin({BASE: base_measured()})
    found = lock.loads(text, source="edgesafe.lock")
    pin = found.baseline[BASE]
    assert (pin.onnx_sha256, pin.test_sha256) == (sha("b"), sha("d"))
    assert pin.corruption_sha256 == lock.corruption_sha256(CORRUPTIONS)
    assert run(base_measured(), found).exit_code == 0


def test_pins_are_in_order_and_the_same_twice():
    one, two = base_measured(), base_measured().model_copy(update={"variant": "baseline-s1"})
    assert lock.pin({BASE: one, "baseline-s1": two}) == lock.pin({"baseline-s1": two, BASE: one})


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (base_measured(onnx="9"), "onnx_sha256"),
        (base_measured(test="9"), "test_sha256"),
        (base_measured(corruptions=OTHER_SEED), "corruption_sha256"),
    ],
)
def test_another_baseline_is_refused(other, key):
    pinned = lock.loads(lock.pin({BASE: other}), source="x")
    with pytest.raises(IntegrityError, match=f"{key} of '{BASE}' is .* pinned is"):
        run(base_measured(), pinned)


def test_an_unpinned_baseline_is_refused():
    pinned = lock.loads(lock.pin({"baseline-s7": base_measured()}), source="x")
    with pytest.raises(IntegrityError, match="not pinned; compare with one of: baseline-s7"):
        run(base_measured(), pinned)


def test_every_field_of_the_corruptions_is_in_their_hash():
    hashes = {lock.corruption_sha256(None), lock.corruption_sha256(CORRUPTIONS)}
    fields = [name for name in type(CORRUPTIONS).model_fields if name != "source"]
    for name in fields:
        value = {"seed": 1, "not_meaningful": ("fog",)}.get(name, "other")
        hashes.add(lock.corruption_sha256(CORRUPTIONS.model_copy(update={name: value})))
    assert len(hashes) == 2 + len(fields)
    assert lock.corruption_sha256(CORRUPTIONS.model_copy()) == lock.corruption_sha256(CORRUPTIONS)


def test_a_policy_that_names_a_lock_needs_it(tmp_path):
    head = '[data]\nlock = "edgesafe.lock"'
    with pytest.raises(RefusedError, match=r"pins its baseline in 'edgesafe\.lock'"):
        run(base_measured(), None, head=head)
    path = tmp_path / "policy.toml"
    path.write_text(policy_text(DROP, head=head), encoding="utf-8")
    with pytest.raises(PolicyError, match="edgesafe policy pin"):
        lock.for_policy(policy(DROP, head=head), path)
    (tmp_path / "edgesafe.lock").write_text(lock.pin({BASE: base_measured()}), encoding="utf-8")
    pinned = lock.for_policy(policy(DROP, head=head), path)
    assert pinned is not None
    assert run(base_measured(), pinned, head=head).exit_code == 0
    assert lock.for_policy(policy(DROP), path) is None


def test_without_a_baseline_on_purpose_the_lock_is_not_asked():
    pinned = lock.loads(lock.pin({BASE: base_measured(onnx="9")}), source="x")
    found = measured(CAND, metric("accuracy", 0.9, se=0.001))
    assert run(base_measured(), pinned, rules="accuracy min='10%'", candidate=found, no_baseline=True).exit_code == 0


def test_the_baseline_that_a_lock_pins_must_have_been_measured():
    """A relative gate whose baseline has no measurements cannot be checked against the lock: missing, not passed."""
    pinned = lock.loads(lock.pin({BASE: base_measured()}), source="x")
    measurements = {CAND: measured(CAND, diff("accuracy", 0.0, se=0.001))}
    with pytest.raises(IntegrityError, match="was not measured"):
        decide(policy(DROP), study(), measurements, {}, baseline=None, today=TODAY, options=Options(lock=pinned))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema = ",
        'schema = "edgesafe.lock/2"\n[baseline.a]\nonnx_sha256 = "x"',
        'schema = "edgesafe.lock/1"',
        'schema = "edgesafe.lock/1"\n[baseline]',
        'schema = "edgesafe.lock/1"\n[baseline.a]\nonnx_sha256 = "sha256:00"',
        "a = " + "[" * 100_000,
    ],
)
def test_damaged_locks(text, tmp_path):
    path = tmp_path / "edgesafe.lock"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError, match=r"edgesafe\.lock"):
        lock.load(path)


def test_locks_that_cannot_be_read(tmp_path):
    for data in (b"\xff\xfe", b"#" * (MAX_TEXT + 1)):
        (tmp_path / "l").write_bytes(data)
        with pytest.raises(PolicyError):
            lock.load(tmp_path / "l")
    with pytest.raises(PolicyError):
        lock.load(tmp_path / "none")


def test_nothing_to_pin():
    with pytest.raises(PolicyError, match="no baseline to pin"):
        lock.pin({})
    with pytest.raises(PolicyError):
        lock.pin({'a"b': base_measured()})
