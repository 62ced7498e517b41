"""A worker whose driver was gone before it had started."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path


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
