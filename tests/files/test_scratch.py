"""Temporary directories of processes that are killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgesafe.files.scratch import scratch

HELD = """
import sys
from edgesafe.files.scratch import scratch
with scratch("edgesafe-test-") as folder:
    (folder / "weights").write_text("some")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    env = os.environ | {"TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_empty_and_goes(place: Path) -> None:
    with scratch("edgesafe-test-") as folder:
        assert folder.parent == place
        assert [path.name for path in folder.iterdir()] == [".lock"]
        (folder / "more").mkdir()
    assert not list(place.iterdir())


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(place: Path) -> None:
    process, theirs = holder(place)
    foreign = place / "edgesafe-test-foreign"  # nobody said that it is free
    foreign.mkdir()
    with process:
        with scratch("edgesafe-test-") as first, scratch("edgesafe-test-") as second:
            assert first != second
            assert first.exists()
        assert (theirs / "weights").read_text() == "some"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert theirs.exists()
        with scratch("edgesafe-other-"):
            assert theirs.exists()
        with scratch("edgesafe-test-"):
            assert not theirs.exists()
    assert list(place.iterdir()) == [foreign]
