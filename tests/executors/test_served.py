"""Workers whose driver is gone, what they leave, disks that are full, and more workers than a machine holds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from pathlib import Path

import pytest

from edgesafe.cli import process
from edgesafe.errors import ExitCode, StoreError, UsageError, WorkerError
from edgesafe.executors.crew import Crew
from edgesafe.executors.processes import Processes
from edgesafe.executors.served import tellable


def test_a_worker_ends_whose_driver_is_gone_before_it_began(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = tmp_path / "left"
    folder.mkdir()
    ours, theirs = Pipe()
    given = ["os:getcwd", str(theirs.fileno()), str(folder), str(gone.pid)]
    command = [sys.executable, "-m", "edgesafe.executors.served", *given]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
    try:
        assert worker.wait(timeout=60) == 1
    finally:
        worker.kill()
    assert not folder.exists()
    ours.close()
    theirs.close()


def test_a_full_disk_is_told_as_that_by_whatever_ran_into_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a worker, and in the command's own process; any other error of the system is not called one."""
    full = OSError(errno.ENOSPC, "No space left on device")
    told = tellable(full)
    assert isinstance(told, StoreError)
    assert "the disk is full" in str(told)
    assert "TMPDIR" in str(told)
    assert isinstance(tellable(OSError(errno.EIO, "broken")), WorkerError)

    def ends(_: object) -> int:
        raise full

    monkeypatch.setattr(process, "_call", ends)
    assert process.run([]) == ExitCode.USAGE
    assert "internal error" not in capsys.readouterr().err


def test_what_a_killed_driver_shared_is_cleared_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "edgesafe-crew-old").mkdir()
    (tmp_path / "edgesafe-crew-old" / ".lock").touch()
    first = Processes("executor_jobs:answer", 1)
    held = {path.name for path in tmp_path.iterdir()}
    assert "edgesafe-crew-old" not in held
    second = Processes("executor_jobs:answer", 1)
    assert held < {path.name for path in tmp_path.iterdir()}  # what is in use stays
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


def test_more_workers_than_a_machine_can_hold_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1,000,000 workers on \d+ cores: .*0\.8 GB.* at most"):
        Crew(1_000_000)
    assert Crew(8).workers == 8
