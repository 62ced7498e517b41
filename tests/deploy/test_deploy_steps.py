"""The steps of channels of a target: timed once, kept, and taken as they stand where the target gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesafe.deploy import steps
from edgesafe.errors import RecipeError
from edgesafe.recipe import parsing
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import Host, Steps
from edgesafe.stages.steps import cache_file, steps_of

HOST = Host(cpu="c", cores=1, system="s", python="3", versions={"onnxruntime": "1"})
MEASURED = TargetSection(round_to="measure", int8_step="measure")
FOUND = Steps(round_to=4, int8_step=32, fp32_ms={"4": 1.0}, int8_ms={"32": 1.0})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, str]]:
    """Nothing is timed; how often it would have been, and with what."""
    calls: list[tuple[int, str]] = []

    def measure(threads: int, provider: str) -> Steps:
        calls.append((threads, provider))
        return FOUND

    monkeypatch.setattr(steps, "measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return calls


def test_a_host_is_timed_once(timed: list[tuple[int, str]]) -> None:
    first, second = (steps_of(MEASURED, HOST) for _ in range(2))
    assert first == second == FOUND.model_copy(update={"host": first.host})
    assert timed == [(1, "CPUExecutionProvider")]
    assert "c, 1 thread(s)" in first.host


def test_another_processor_threads_or_runtime_is_timed_anew(timed: list[tuple[int, str]]) -> None:
    steps_of(MEASURED, HOST)
    steps_of(MEASURED, HOST.model_copy(update={"cpu": "d"}))
    steps_of(MEASURED, HOST.model_copy(update={"versions": {"onnxruntime": "2"}}))
    steps_of(MEASURED.model_copy(update={"threads": 2}), HOST)
    assert len(timed) == 4


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"round_to": -1, "int8_step": 2}'])
def test_a_damaged_file_is_replaced(timed: list[tuple[int, str]], content: bytes) -> None:
    path = cache_file(MEASURED, HOST)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert steps_of(MEASURED, HOST).round_to == 4
    assert Steps.model_validate_json(path.read_bytes()).int8_step == 32


def test_what_the_target_says_is_not_timed(timed: list[tuple[int, str]]) -> None:
    assert steps_of(TargetSection(round_to=16), HOST) == Steps(round_to=16, int8_step=16)
    assert not timed
    half = steps_of(MEASURED.model_copy(update={"round_to": 8}), HOST)
    assert (half.round_to, half.int8_step) == (8, 32)


def test_a_cache_that_cannot_be_written_costs_time_only(timed: list[tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "edgesafe").write_text("a file in the place of the folder")
    assert steps_of(MEASURED, HOST).round_to == 4


def test_targets_say_measure_or_a_number() -> None:
    assert parsing.load(None, ["target.name=host-measured"]).target.round_to == "measure"
    assert parsing.load(None).target.round_to == 8
    with pytest.raises(RecipeError, match="round_to"):
        parsing.load(None, ["target.round_to=fast"])
    with pytest.raises(RecipeError, match="times this host, not the device"):
        parsing.load(None, ["target.round_to=measure", "target.ssh={host='board.local'}"])


@pytest.mark.slow
def test_a_real_host_has_steps() -> None:
    found = steps.measure(1, "CPUExecutionProvider")
    assert found.round_to in steps.STEPS
    assert found.int8_step in steps.STEPS
    assert set(found.fp32_ms) == set(found.int8_ms) == {str(step) for step in steps.STEPS}
    assert found.fp32_ms[str(found.round_to)] <= 1.021 * min(found.fp32_ms.values())
