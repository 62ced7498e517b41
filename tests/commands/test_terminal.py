"""What compress prints at its end."""

from pathlib import Path

import pytest

from edgesafe.commands import printing
from edgesafe.study.study import StudyReader


def test_a_temperature_that_hurts_is_said(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = StudyReader(study)
    printing.print_study(read)
    plain = capsys.readouterr().out
    for name in read.done():
        metrics = read.measurements(name).metrics
        hurts = metrics["ece_em10_top1.calibrated"].estimate > metrics["ece_em10_top1"].estimate
        assert printing._temperature_hurts(read, name) is hurts
        assert name in plain
    monkeypatch.setattr(printing, "_temperature_hurts", lambda _, name: name == "baseline-s0")
    printing.print_study(read)
    said = " ".join(capsys.readouterr().out.split())
    assert "temperature made the ECE worse on baseline-s0" in said
    assert 'data.validation_from = "test"' in said


def test_a_test_set_that_lost_its_validation_images_is_said(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = StudyReader(study)
    printing.print_study(read)
    assert "do not compare" not in capsys.readouterr().out
    monkeypatch.setattr(
        read, "record", read.record.model_copy(update={"recipe": {"data": {"validation_from": "test"}}})
    )
    printing.print_study(read)
    assert "rest on the 80 test images that are left: do not compare" in " ".join(capsys.readouterr().out.split())
