"""evaluate.hours in a study: chosen by one timing, written down, and kept when the study is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgesafe.commands import compress as compressing
from edgesafe.commands import estimate, evaluate
from edgesafe.errors import UsageError
from edgesafe.executors.crew import Crew
from edgesafe.measure import evidence as evidence_files
from edgesafe.recipe import parsing
from edgesafe.recipe.recipe import Recipe
from edgesafe.stages import measure, rates, sizing
from edgesafe.study.study import Study, read

AUDIT = (
    "evaluate.corruptions=['brightness', 'contrast', 'pixelate']",
    "evaluate.latency=false",
    "data.test_images=200",
)
HOURS = 25 / 3600  # by the rates below two files take 16 s for their least, 88 s for every image


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_LEAST", 0.02)  # 660 images by itself, 195 compared
    monkeypatch.setattr(rates, "inferring", lambda *_: 0.01)
    monkeypatch.setattr(rates, "corrupting", lambda *_: 0.004)


def audit(study: Path, out: Path, hours: float = HOURS) -> Study:
    files = [study / name / "model.onnx" for name in ("weight-r0.50-s0", "baseline-s0")]
    return evaluate.evaluate(evaluate.AuditRequest(*files, "digits", hours=hours, overrides=AUDIT), out)


def cells(study: Study, variant: str) -> list[int]:
    return [len(cell.index) for cell in evidence_files.from_bytes(study[variant].evidence_bytes()).cells.values()]


@pytest.mark.usefixtures("slow_machine")
def test_an_audit_keeps_its_choice(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = audit(study, tmp_path / "whole")
    size = whole.record.sample_size
    assert size is not None and size.seconds <= 25 and size.inference_s == 0.01
    assert set(cells(whole, "baseline-s0")) == {size.images_per_cell}
    assert sum(cells(whole, "candidate-s0")) == size.budget

    real = measure.measure
    monkeypatch.setattr(measure, "measure", lambda order, *rest: real(order, *rest) if order.is_reference else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit(study, tmp_path / "killed")
    monkeypatch.setattr(measure, "measure", real)
    monkeypatch.setattr(rates, "inferring", lambda *_: 0.012)  # the machine became slower
    again = audit(study, tmp_path / "killed")
    assert again.record.sample_size == size and again.record.digest == whole.record.digest
    other = audit(study, tmp_path / "other")  # the control: chosen on that machine, it is another sample
    assert other.record.sample_size != size and other.record.digest != whole.record.digest


@pytest.mark.usefixtures("slow_machine")
def test_a_baseline_that_was_measured_before_costs_nothing(study: Path, tmp_path: Path) -> None:
    whole = audit(study, tmp_path / "whole")
    request = evaluate.AuditRequest(
        study / "weight-r0.50-s0" / "model.onnx", tmp_path / "whole", "digits", hours=HOURS, overrides=AUDIT
    )
    size = evaluate.evaluate(request, tmp_path / "again").record.sample_size
    before = whole.record.sample_size
    assert size is not None and before is not None
    assert size.images_per_cell is None and (size.budget or 0) > (before.budget or 0)


@pytest.mark.usefixtures("slow_machine")
def test_too_little_is_one_line_before_any_work(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluate\.hours: 0\.001 h do not hold .* give at least 0\.01"):
        audit(study, tmp_path / "none", 0.001)
    assert not list((tmp_path / "none").glob("*/*.npz"))


def small(*more: str) -> Recipe:
    recipe = parsing.load(
        None,
        [*AUDIT, "train.epochs=1", "recover.epochs=0", "export.precisions=['fp32']", "certify.sets=[]", *more],
    )
    return recipe.model_copy(update={"compress": recipe.compress[:1]})


@pytest.mark.usefixtures("slow_machine")
def test_certificates_are_in_the_hours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(estimate, "_speed", lambda *_: estimate._Speed({}, 0.01, 0.004))
    with pytest.raises(UsageError, match=r"evaluate\.hours: 0\.015 h do not hold"):
        compressing.compress(small("evaluate.hours=0.015", "certify.sets=['brightness=3']"), tmp_path / "s")


@pytest.mark.slow
@pytest.mark.usefixtures("slow_machine")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_has_its_choice_from_one_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(estimate, "_speed", lambda *_: estimate._Speed({}, 0.01, 0.004))
    monkeypatch.setattr(estimate, "announce", lambda *_: None)
    study = compressing.compress(small("evaluate.hours=0.02"), tmp_path / "s", crew=Crew(workers))
    size = study.record.sample_size
    assert size is not None and size.images_per_cell is not None
    told = json.loads((tmp_path / "s" / "study.json").read_text())
    assert told["sample_size"]["budget"] == size.budget and told["recipe"]["evaluate"]["hours"] == 0.02
    assert set(cells(study, "baseline-s0")) == {size.images_per_cell}
    assert read(tmp_path / "s").record.digest == study.record.digest
