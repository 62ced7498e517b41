"""What compress prints at its end."""

from pathlib import Path

import pytest

from edgesafe import store, terminal


def test_a_temperature_that_hurts_is_said(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.StudyReader(study)
    terminal.print_study(read)
    plain = capsys.readouterr().out
    for name in read.done():
        metrics = read.measurements(name).metrics
        hurts = metrics["ece_em10_top1.calibrated"].estimate > metrics["ece_em10_top1"].estimate
        assert terminal._temperature_hurts(read, name) is hurts
        assert name in plain
    monkeypatch.setattr(terminal, "_temperature_hurts", lambda _, name: name == "baseline-s0")
    terminal.print_study(read)
    assert "temperature made the ECE worse on baseline-s0" in " ".join(capsys.readouterr().out.split())
