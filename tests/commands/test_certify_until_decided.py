"""In quick mode images are drawn until the gates on them are decided, none is run twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgesafe import cli
from edgesafe.certificates import archive, certification
from edgesafe.certificates.enumeration import Images
from edgesafe.commands import evaluate, gate
from edgesafe.records import Certificates, GateStatus
from edgesafe.stages.sequential import looks
from edgesafe.study.study import Study, read

GATES = """
schema = "edgesafe.policy/1"
[stats]
confidence = 0.95
[data]
min_samples = 10
"""
FAR = '[[gate]]\nid = "far"\nmetric = "falsified.brightness=2"\nmax = "90%"\n'
DROP = '[[gate]]\nid = "drop"\nmetric = "certified_accuracy.*"\nmax_drop = "2pp"\n'
ELSE = '[[gate]]\nid = "accuracy"\nmetric = "accuracy"\nmin = "20%"\n'

Audit = Callable[[str, str], Study]


@pytest.fixture
def audit(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Audits a variant beside its baseline until a policy is decided: looks at 20, 40 and 80 of 80 images."""
    monkeypatch.setattr(looks, "FIRST", 20)

    def run(gates: str, name: str) -> Study:
        policy = tmp_path / f"{name}.toml"
        policy.write_text(GATES + gates)
        request = evaluate.AuditRequest(
            study / "weight-r0.80-s0" / "model.onnx", study / "baseline-s0" / "model.onnx", "digits", policy=policy,
            overrides=("data.test_images=80", "data.train_images=400", "evaluate.latency=false",
                       "evaluate.corruptions=none", 'certify.sets=["brightness=2"]', "certify.workers=1"),
        )  # fmt: skip
        return evaluate.evaluate(request, tmp_path / name)

    return run


def certificates(study: Study, variant: str = "candidate-s0") -> Certificates:
    data = study[variant].certificates_bytes()
    assert data is not None
    return archive.from_bytes(data)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of the images that were enumerated, in the order in which they were."""
    seen: list[int] = []
    real = certification.enumerate_chunk

    def enumerate_chunk(classifier, images: Images, plan):
        seen.extend(images.index.tolist())
        return real(classifier, images, plan)

    monkeypatch.setattr(certification, "enumerate_chunk", enumerate_chunk)
    return seen


def test_the_first_look_is_enough_where_the_limit_is_far(audit: Audit, counted: list[int], tmp_path: Path) -> None:
    done = audit(FAR, "far")
    part = certificates(done).sets[0]
    assert len(part) == 20
    assert counted[80:] == part.index.tolist()  # the baseline's 80 before
    assert part.index.tolist() != list(range(20))  # drawn at random, not the first
    assert len(certificates(done, "baseline-s0").sets[0]) == 80
    measured = done["candidate-s0"].measurements
    assert measured.sample is not None
    assert (measured.sample.look, measured.sample.looks) == (1, 3)
    number = measured.metrics["falsified.brightness=2"]
    assert number.n == 20
    assert "20 drawn at random" in number.population.description
    assert measured.differences["certified_accuracy.brightness=2"].n == 20
    verdict = gate.judge(done, gate.GateRequest(tmp_path / "far.toml"))
    assert [r.status for r in verdict.gates] == [GateStatus.PASS]
    assert verdict.gates[0].confidence == pytest.approx(1 - 0.05 / 3)  # each of three looks


def test_what_stays_open_takes_all_images_none_twice_and_ends_with_the_certificates_of_all(
    audit: Audit, counted: list[int]
) -> None:
    grown = audit(DROP, "grown")
    assert sorted(counted[80:]) == list(range(80))
    counted.clear()
    whole = audit(ELSE, "whole")  # no gate on certificates: all are made
    assert len(counted) == 160
    assert archive.to_bytes(certificates(grown)) == archive.to_bytes(certificates(whole))
    first = certificates(audit(FAR, "far")).sets[0]
    everything = certificates(whole).sets[0]
    assert (first.standing == everything.standing[first.index]).all()
    assert (first.margin == everything.margin[first.index]).all()
    assert (first.agrees == everything.agrees[first.index]).all()


def test_an_interruption_at_a_later_look_loses_no_image(
    audit: Audit, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = certificates(audit(DROP, "whole"))
    counted.clear()
    real = certification.enumerate_chunk
    monkeypatch.setattr(
        certification, "enumerate_chunk", lambda *given: tired() if len(counted) >= 120 else real(*given)
    )

    def tired() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(DROP, "cut")
    assert sorted(counted[:80]) == list(range(80))
    assert len(counted) == 120  # the baseline's 80, and two looks
    monkeypatch.setattr(certification, "enumerate_chunk", real)
    again = audit(DROP, "cut")
    assert len(counted) == 160
    assert archive.to_bytes(certificates(again)) == archive.to_bytes(whole)


def test_the_command_says_how_many_were_certified(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(looks, "FIRST", 20)
    policy = tmp_path / "p.toml"
    policy.write_text(GATES + FAR)
    out = tmp_path / "o"
    arguments = [
        "evaluate", str(study / "weight-r0.80-s0" / "model.onnx"), "--data", "digits", "--policy", str(policy),
        "--out", str(out), "--set", "data.test_images=80", "--set", "evaluate.latency=false",
        "--set", "evaluate.corruptions=none", "--set", 'certify.sets=["brightness=2"]',
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    assert "20 certified or not" in capsys.readouterr().err
    assert cli.run(["gate", str(out), "--policy", str(policy)]) == 0
    assert len(certificates(read(out)).sets[0]) == 20
