"""Text of others reaches a terminal, GitHub's runner, Markdown, XML and OpenMetrics as text and as nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe import cli, display, progress
from edgesafe.metrics import DECIMALS
from edgesafe.records import GateStatus, Unit

HOSTILE = (
    "a\n::error::owned", "::add-mask::x", "x##[command]y", "\x1b[2J\x1b[31mred", "\x9b31m", "\u202egnp.exe",
    "\u2028::x", "\r::stop-commands::t", "\x07bell", "\ud800", "%0A::warning::x", "a\u200bb",
)  # fmt: skip
ANY = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet=st.characters(), max_size=40))


def obeyed(line: str) -> bool:
    """Whether GitHub's runner would read a command: a line that begins with :: or holds ##[ (its ActionCommand)."""
    return line.strip().startswith("::") or "##[" in line


@given(ANY)
def test_a_line_for_the_terminal_is_one_printable_line(text: str) -> None:
    line = display.terminal(text)
    assert line.isprintable()
    assert not obeyed(line)
    line.encode("utf-8")


def test_plain_text_stays_as_it_is() -> None:
    plain = "  latency: 0.2 ms ±0.01, 100 % ≤ 5 of 'ä/b.onnx' [x] → ok: done…"
    assert display.terminal(plain) == plain


@given(ANY)
def test_workflow_commands_hold_no_second_command(text: str) -> None:
    line = f"::error title={display.workflow_property(text)}::{display.workflow_data(text)}"
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    head = line.removeprefix("::error title=").partition("::")[0]
    assert ":" not in head and "," not in head


@given(ANY)
def test_markdown_holds_no_mark_up(text: str) -> None:
    shown = display.markdown(text)
    assert "\n" not in shown and "://" not in shown
    assert not set("<>|`@") & set(shown)
    assert not set("`|\\\n") & set(display.markdown_code(text))


@given(ANY)
def test_xml_can_be_read_back(text: str) -> None:
    element = ElementTree.Element("a", {"name": display.xml(text)})
    ElementTree.fromstring(ElementTree.tostring(element))  # noqa: S314 - written here


@pytest.mark.parametrize("name", [h for h in HOSTILE if "\ud800" not in h])
@pytest.mark.parametrize("command", [["gate", "{}", "--policy", "{}"], ["report", "{}"], ["bench", "{}"]])
def test_names_of_files_in_errors_are_only_shown(
    name: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([part.format(tmp_path / name) for part in command]) in (3, 4, 5)
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable() and not obeyed(lines[0])


@pytest.mark.parametrize("name", HOSTILE)
def test_notes_of_progress_are_only_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    progress.Lines().note(f"  {name}")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable() and not obeyed(said)


def test_a_bar_shows_notes_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress.for_terminal().note("[red]x[/red] :smile: \x1b[31m")
    assert capsys.readouterr().err.rstrip() == "[red]x[/red] :smile:  [31m"


def test_a_stage_within_a_stage_is_shown_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    bars = progress.for_terminal()
    with bars.stage("outer", 4) as advance:
        with bars.stage("inner", 2) as inner:
            inner(2)
        advance(4)
    with bars.stage("later", 1) as advance:
        advance(1)
    said = capsys.readouterr().err
    assert all(title in said for title in ("outer", "inner", "later"))


def test_lines_say_the_share_that_is_done_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines(every_s=0.0).stage("certifying", 4) as advance:
        advance(1)
        advance(3)
    said = capsys.readouterr().err.splitlines()
    assert said == ["  certifying: 25 %, about 0 s left"]


def test_statuses_have_one_order_and_all_a_look() -> None:
    assert set(display.WORST_FIRST) == set(GateStatus)
    assert display.worst([GateStatus.PASS, GateStatus.FAIL, GateStatus.WAIVED]) is GateStatus.FAIL
    assert display.worst([]) is None
    assert str(display.STATUS[GateStatus.PASS]) == "✓ pass"


def test_no_bound_is_outside_of_what_the_metric_can_be() -> None:
    assert display.bounds(-0.004, 1.2, Unit.FRACTION) == (0.0, 1.0)
    assert display.bounds(-0.004, 0.01, Unit.FRACTION, difference=True) == (-0.004, 0.01)
    assert display.interval(-0.004, 0.012, Unit.FRACTION) == "0.00–1.20"  # noqa: RUF001
    assert display.interval(-0.004, 0.012, Unit.FRACTION, signed=True) == f"{display.MINUS}0.40 to +1.20"
    assert display.interval(None, None, Unit.COUNT) == "exact"


@pytest.mark.parametrize("unit", list(Unit))
def test_every_unit_can_be_shown(unit: Unit) -> None:
    assert unit in DECIMALS
    texts, suffix = display.show([0.5], unit)
    assert texts[0] and display.amount(0.5, unit)
    assert display.number(0.0, unit)
    assert suffix.strip() in ("", "%", "nats", "ms", "x", "kB", "px")


def test_numbers_of_narrow_tables_are_short() -> None:
    rate = Unit.FRACTION
    assert display.plus_minus(0.91734, 0.9117, 0.9225, rate, digits=2) == "91.73 ±0.54"
    assert display.plus_minus(0.91734, 0.9117, 0.9225, rate, digits=1) == "91.7 ±0.5"
    assert display.plus_minus(0.5, None, None, rate, digits=1) == "50.0"
    assert [display.share(value) for value in (0.0, 0.504, 1.0)] == ["0%", "50%", "100%"]
    assert [display.thousands(count) for count in (950, 271_117, 1_234_567)] == ["0.9 k", "271.1 k", "1.2 M"]
