"""Peak memory of a process of its own that opens and runs one file here, as the script measures it on a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgesafe.errors import RefusedError
from edgesafe.recipe.shipped import device_script

__all__ = ["peak_bytes"]


def peak_bytes(model: Path, threads: int, provider: str) -> int | None:
    """VmHWM of Linux after some runs, in bytes; None where the system does not tell it.

    Raises:
        RefusedError: the file does not run.
    """
    command = [sys.executable, "-I", str(device_script()), "--only-memory", str(model)]
    command += ["--threads", str(threads), "--provider", provider]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603 - no shell
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:]
        raise RefusedError(f"does not run by itself: {said}", where=str(model), fix="look at what it says")
    peak = json.loads(done.stdout)["peak"]
    return None if peak is None else int(peak)
