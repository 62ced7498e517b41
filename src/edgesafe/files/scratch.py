"""A temporary directory of a process that may be killed without a word: the next one on the machine clears it away."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["scratch"]

_LOCK = ".lock"


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """An empty directory below the system's temporary one, removed in the end.

    While it is used, its file `.lock` is locked (`flock`); the system unlocks what a process that is gone had locked.
    So directories of that prefix that nobody has locked were left by killed processes; they are removed first.

    Args:
        prefix: of the directory's name; belongs to this kind of directory alone.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _clear(left)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
        (Path(folder) / _LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(folder)


def _clear(folder: Path) -> None:
    """Remove a directory unless it is in use, was not locked yet, or belongs to somebody else."""
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
