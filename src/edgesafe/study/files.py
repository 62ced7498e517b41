"""Writing and hashing files so that a name never points at half a file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesafe.errors import StoreError

__all__ = ["atomic_write", "digest", "sha256_bytes", "sha256_file", "stage_key", "trouble"]


def sha256_bytes(data: bytes) -> str:
    """'sha256:<hex>' of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """'sha256:<hex>' of a file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(path), fix="check the path") from None


def digest(hashes: Mapping[str, str]) -> str:
    """One hash over named hashes, in the order of the names."""
    return sha256_bytes("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode())


def stage_key(**inputs: Any) -> str:
    """Identity of a stage's inputs: plain JSON values only."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that its name never points at half of it.

    Raises:
        StoreError: the disk is full, read-only, or the directory cannot be used.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        _discard(scratch)
        raise trouble(path, error) from None


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # on a read-only disk there is nothing to discard


def trouble(path: Path, error: OSError) -> StoreError:
    """The error that says what an OSError means for somebody who wants to write there."""
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again: it continues"),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again: it continues"),
        errno.EROFS: ("the file system is read-only", "choose another directory with --out"),
        errno.EACCES: ("no permission to write", "choose another directory with --out"),
        errno.EPERM: ("no permission to write", "choose another directory with --out"),
        errno.ENOTDIR: ("a part of the path is a file", "choose another directory with --out"),
        errno.EEXIST: ("a file is in the way", "choose another directory with --out"),
    }
    what, fix = reasons.get(
        error.errno or 0, (f"cannot write ({error.strerror or error})", "choose another directory with --out")
    )
    return StoreError(what, where=str(path), fix=fix)
