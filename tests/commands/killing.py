"""Commands in processes of their own that are killed without a word, and what they had written by then."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "kept", "killed", "state"]


def command(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `edgesafe WORDS…`, what it says into a log."""
    with log.open("ab") as stream:
        line = [sys.executable, "-c", "from edgesafe.cli import main; main()", *words]
        return subprocess.Popen(line, stdout=stream, stderr=stream)


def state(root: Path) -> dict[str, int]:
    """When the files of the study were last written, in ns."""
    found = {}
    for path in root.rglob("*"):
        try:
            if path.is_file() and not path.name.startswith("."):
                found[path.relative_to(root).as_posix()] = path.stat().st_mtime_ns
        except OSError:  # removed in between
            continue
    return found


def kept(files: dict[str, int]) -> dict[str, int]:
    """Finished parts of what is measured."""
    return {name: at for name, at in files.items() if "/evidence-" in name or "/certificates-" in name}


def killed(process: subprocess.Popen[bytes], root: Path, changes: int, pause_s: float) -> bool:
    """Kill a command after so many changes of its study; False: it came to its end before."""
    seen = state(root)
    while changes:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
        now = state(root)
        changes, seen = changes - (now != seen), now
    time.sleep(pause_s)
    process.kill()
    return process.wait() != 0
