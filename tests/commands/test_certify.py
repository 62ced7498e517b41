"""Certifying in a study and by itself: bound by hash, paired, resumable; bad input is one line with the right code."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgesafe
from edgesafe import cli
from edgesafe.certificates import archive
from edgesafe.commands import certify, compress
from edgesafe.errors import IntegrityError
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.recipe import parsing, recipe
from edgesafe.recipe.sections import CertifySection
from edgesafe.records import CertificateEngine, GateStatus, Standing
from edgesafe.study import writer
from edgesafe.study.study import Study, read

DIGITS = ("data.test_images=80",)


def certificates(study: Study, variant: str) -> archive.Certificates:
    data = study[variant].certificates_bytes()
    assert data is not None
    return archive.from_bytes(data)


def test_a_study_certifies_every_variant_and_compares_it_with_the_baseline(study: Path) -> None:
    found = read(study)
    base = certificates(found, "baseline-s0").sets[0]
    assert base.complete
    for variant in found.finished():
        one = certificates(found, variant.id).sets[0]
        assert one.id == "brightness=2"
        assert len(one) == 80
        assert variant.metrics["certified_accuracy.brightness=2"].estimate == float(
            (one.standing == Standing.CERTIFIED).mean()
        )
        wrong = float((one.standing == Standing.WRONG).mean())
        assert wrong == pytest.approx(1.0 - variant.metrics["accuracy"].estimate)  # no ties here
        if variant.id != "baseline-s0":
            assert variant.differences["certified_agreement.brightness=2"].estimate == float((one.agrees == 1).mean())
            drop = variant.differences["certified_accuracy.brightness=2"]
            assert drop.estimate == pytest.approx(drop.candidate - drop.baseline)


def test_the_stored_verdicts_are_those_of_running_every_image_by_hand(study: Path, tiny: recipe.Recipe) -> None:
    from edgesafe.data import sets

    found = read(study)
    test = sets.load(tiny.data).test
    for variant in ("baseline-s0", "weight-r0.80-s0"):
        one = certificates(found, variant).sets[0]
        file = OnnxClassifier(found[variant].file_bytes("model.onnx"))
        right = [
            file.logits(np.clip(test.images.astype(int) + d, 0, 255).astype(np.uint8)).argmax(1) == test.labels
            for d in range(-2, 3)
        ]
        assert ((one.standing == Standing.CERTIFIED) == np.logical_and.reduce(right)).all()
        assert ((one.standing == Standing.WRONG) == ~right[2]).all()


def test_certificates_are_bound_by_hash_and_by_the_digest(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    path = copy / "filter-r0.50-s0" / "certificates.npz"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"certificates\.npz"):
        read(copy).verify()
    path.unlink()
    with pytest.raises(IntegrityError, match=r"certificates\.npz"):
        read(copy)["filter-r0.50-s0"].certificates_bytes()


def test_certifying_a_finished_study_adds_sets_and_keeps_what_was_there(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    before = read(copy)
    request = certify.CertifyRequest(
        copy, CertifySection(sets=("shift=1", "contrast=1%"), images=40), variants=("weight-r0.50-s0",)
    )
    after = certify.certify_study(request)
    after.verify()
    assert after.digest != before.digest
    for variant in ("baseline-s0", "weight-r0.50-s0"):
        assert [s.id for s in certificates(after, variant).sets] == ["brightness=2", "shift=1", "contrast=1%"]
        kept, added = before[variant].metrics, after[variant].metrics
        assert {k: v for k, v in added.items() if k in kept} == dict(kept)
        assert added["certified_accuracy.shift=1"].n == 40
    assert "certified_agreement.shift=1" in after["weight-r0.50-s0"].differences
    assert "certified_accuracy.shift=1" not in after["filter-r0.50-s0"].metrics
    again = edgesafe.certify(copy, "shift=1", "contrast=1%", images=40, variants=["weight-r0.50-s0"])
    assert again.digest == after.digest


class Killed(BaseException):
    """An end that nothing catches, as kill -9 is."""


@pytest.mark.parametrize("writes", [4, 5, 6, 7, 8])
def test_certifying_that_is_killed_loses_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Stop dead at the n-th write: what is there is refused or is the old study; the same command makes it whole."""
    copy, whole = tmp_path / "copy", tmp_path / "whole"
    shutil.copytree(study, copy)
    shutil.copytree(study, whole)
    request = certify.CertifyRequest(copy, CertifySection(sets=("brightness=1",)), variants=("baseline-s0",))
    real, count = writer.atomic_write, 0

    def write(path: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count == writes:
            raise Killed
        real(path, content)

    monkeypatch.setattr(writer, "atomic_write", write)
    with pytest.raises(Killed):
        certify.certify_study(request)
    monkeypatch.undo()
    try:
        assert set(read(copy)) == set(read(study))
    except IntegrityError:
        compress.compress(parsing.parse(read(study).record.recipe), copy)  # any writer puts the old files back
        assert read(copy)["baseline-s0"].measurements == read(study)["baseline-s0"].measurements
    certify.certify_study(request)
    certify.certify_study(dataclasses.replace(request, target=whole))
    assert read(copy).digest == read(whole).digest
    for variant in read(copy).finished():
        variant.verify()


def test_a_study_may_certify_nothing(tmp_path: Path) -> None:
    quick = parsing.load(
        None,
        ["name=none", "data.train_images=200", "data.test_images=80", "train.epochs=2", "train.milestones=[1]",
         "evaluate.corruptions=none", "evaluate.latency=false", "certify.sets=[]", "compress=[]"],
    )  # fmt: skip
    done = compress.compress(quick, tmp_path / "s")
    assert done["baseline-s0"].certificates_bytes() is None
    assert not [metric for metric in done["baseline-s0"].metrics if metric.startswith("certified")]


def test_a_file_is_certified_by_itself_and_beside_a_baseline(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, base = study / "filter-r0.50-s0" / "model.onnx", study / "baseline-s0" / "model.onnx"
    arguments = [
        "certify",
        str(model),
        "--set",
        "brightness=3",
        "--set",
        "dead-line",
        "--data",
        "digits",
        "--images",
        "30",
    ]
    assert cli.run([*arguments, "--baseline", str(base), "--out", str(tmp_path / "c")]) == 0
    assert "dead-line" in capsys.readouterr().out
    done = read(tmp_path / "c")["candidate-s0"]
    assert done.metrics["certified_accuracy.dead-line"].n == 30
    assert "certified_agreement.dead-line" in done.differences
    assert cli.run([*arguments, "--out", str(tmp_path / "d"), "--no-radius", "--workers", "1"]) == 0
    alone = read(tmp_path / "d")["candidate-s0"]
    for metric in ("certified_accuracy.dead-line", "falsified.brightness=3"):
        assert alone.metrics[metric].estimate == done.metrics[metric].estimate
    assert not alone.differences


def test_the_exact_line_is_followed_under_an_id_of_its_own(study: Path, tmp_path: Path) -> None:
    model, out = study / "filter-r0.50-s0" / "model.onnx", tmp_path / "line"
    arguments = ["certify", str(model), "--data", "digits", "--images", "5", "--out", str(out), "--set"]
    assert cli.run([*arguments, "brightness=2", "--line"]) == 0
    done = read(out)["candidate-s0"]
    part = certificates(read(out), "candidate-s0").sets[0]
    assert (part.id, part.engine) == ("line.brightness=2", CertificateEngine.LINE)
    assert done.metrics["certified_accuracy.line.brightness=2"].estimate == float(
        (part.standing == Standing.CERTIFIED).mean()
    )
    assert cli.run([*arguments, "shift=1", "--line"]) == 4  # no line of images


def test_a_policy_gates_certificates(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "p.toml"
    gates = [
        ("certified_accuracy.brightness=2", "min", "1%"),
        ("certified_accuracy.*", "max_drop", "99pp"),
        ("falsified.brightness=2", "max", "99%"),
        ("certified_agreement.brightness=2", "min", "1%"),
    ]
    text = 'schema = "edgesafe.policy/1"\n[data]\nmin_samples = 10\n'
    text += "".join(f'[[gate]]\nid = "g{k}"\nmetric = "{m}"\n{rule} = "{v}"\n' for k, (m, rule, v) in enumerate(gates))
    policy.write_text(text)
    assert cli.run(["gate", str(study), "--policy", str(policy), "--variant", "weight-r0.50-s0"]) == 0
    policy.write_text(text.replace("dead", "").replace("falsified.brightness=2", "falsified.dead-line"))
    assert cli.run(["gate", str(study), "--policy", str(policy), "--variant", "weight-r0.50-s0"]) != 0  # not measured
    capsys.readouterr()
    assert cli.run(["policy", "init", str(study)]) == 0
    proposed = capsys.readouterr().out
    assert 'metric = "certified_accuracy.*"' in proposed
    policy.write_text(proposed)
    assert cli.run(["policy", "check", str(policy), str(study)]) == 0


def test_a_gate_against_another_variant_compares_the_stored_certificates(study: Path, tmp_path: Path) -> None:
    found, policy = read(study), tmp_path / "p.toml"
    ours, theirs = (certificates(found, v).sets[0].standing for v in ("filter-r0.50-s0", "weight-r0.50-s0"))
    drop = float((theirs == Standing.CERTIFIED).mean() - (ours == Standing.CERTIFIED).mean())
    policy.write_text(
        'schema = "edgesafe.policy/1"\n[data]\nmin_samples = 10\n'
        '[[gate]]\nid = "drop"\nmetric = "certified_accuracy.brightness=2"\nmax_drop = "100pp"\n'
        '[[gate]]\nid = "alike"\nmetric = "certified_agreement.brightness=2"\nmin = "1%"\n'
    )
    verdict = edgesafe.gate(study, policy, "filter-r0.50-s0", baseline="weight-r0.50-s0")
    by_gate = {result.id: result for result in verdict.gates}
    assert by_gate["drop"].estimate == pytest.approx(drop)
    assert by_gate["alike"].status is GateStatus.MISSING  # the answers of that pair were not compared
    assert verdict.exit_code not in {0, 1}
