"""What compress prints at its end."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from edgesafe.commands import printing
from edgesafe.study.study import read as open_study


def test_a_temperature_that_hurts_is_said(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = open_study(study)
    printing.print_study(read)
    plain = capsys.readouterr().out
    for name in read:
        metrics = read[name].measurements.metrics
        hurts = metrics["ece_em10_top1.calibrated"].estimate > metrics["ece_em10_top1"].estimate
        assert printing._temperature_hurts(read[name].measurements) is hurts
        assert name in plain
    monkeypatch.setattr(printing, "_temperature_hurts", lambda measured: measured.variant == "baseline-s0")
    printing.print_study(read)
    said = " ".join(capsys.readouterr().out.split())
    assert "temperature made the ECE worse on baseline-s0" in said
    assert 'data.validation_from = "test"' in said


def test_a_test_set_that_lost_its_validation_images_is_said(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = open_study(study)
    printing.print_study(read)
    assert "do not compare" not in capsys.readouterr().out
    record = read.record.model_copy(update={"recipe": {"data": {"validation_from": "test"}}})
    printing.print_study(dataclasses.replace(read, record=record))
    assert "rest on the 80 test images that are left: do not compare" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("terminal", [False, True])
def test_however_long_a_name_is_every_number_is_shown(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """In a log a variant is a line of any length; on a terminal of 80 columns its name is folded."""
    read = open_study(study)
    monkeypatch.setattr(
        printing, "_console", lambda: Console(width=80, force_terminal=terminal, color_system=None, highlight=False)
    )
    printing.print_study(read)
    numbers = [line.split()[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("weight-r0.50")]
    long = "a_label_that_somebody_took_the_time_to_write_out_in_full"
    named = tuple(
        dataclasses.replace(v, entry=v.entry.model_copy(update={"id": f"{long}-{v.id}"})) for v in read.variants
    )
    printing.print_study(dataclasses.replace(read, variants=named))
    shown = capsys.readouterr().out
    assert "…" not in shown.split("study ")[0]
    assert all(number in shown for number in numbers[0])
    assert (f"{long}-weight-r0.50-s0" in shown) is not terminal
