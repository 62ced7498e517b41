"""Files on a device, named by their hash: what is there is not copied again, what was cut off is gone on with."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable

from edgesafe.deploy.device.connection import Connection, persist
from edgesafe.errors import DeviceError

__all__ = ["name_of", "put"]

_RATE = 20_000  # bytes a second that a slow line has at least


def name_of(content: bytes, suffix: str) -> str:
    """The name of a file on the device: its SHA-256 and a suffix."""
    return hashlib.sha256(content).hexdigest() + suffix


def put(connection: Connection, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Copy files to a folder of the device, which is made.

    A file is written under a name ending in ".part", compared with its hash there, and then given its own name, which
    is that hash: whoever finds the name finds the whole file.

    Raises:
        DeviceError: the device is not reached, is full, or stores something else than was sent.
    """
    for name, content in files:
        persist(connection, lambda name=name, content=content: _put(connection, folder, name, content))  # type: ignore[misc]


def _put(connection: Connection, folder: str, name: str, content: bytes) -> None:
    place, digest = shlex.quote(folder), name[:64]
    # One look: whole (its hash), begun (its bytes so far), or nothing; and the folder, made.
    look = (
        f"mkdir -p {place} && cd {place} && if [ -f {name} ]; then sha256sum {name}; "
        f"elif [ -f {name}.part ]; then wc -c < {name}.part; else echo 0; fi"
    )
    said = connection.shell(look).decode("ascii", "replace").split()
    if said and said[0] == digest:
        return
    begun = int(said[0]) if said and said[0].isdigit() and len(said[0]) < 20 else 0
    if begun > len(content):
        begun = 0
    write = f"cd {place} && cat {'>>' if begun else '>'} {name}.part"
    connection.shell(write, content[begun:], timeout_s=60.0 + (len(content) - begun) / _RATE)
    # Written by another process at the same time, or damaged: away with it, so that the next attempt starts over.
    finish = (
        f'cd {place} && if [ "$(sha256sum < {name}.part | cut -c 1-64)" = {digest} ]; then mv {name}.part {name}; '
        f"echo stored; else rm -f {name}.part; echo differs; fi"
    )
    if connection.shell(finish).strip() != b"stored":
        raise DeviceError(
            "stored something else than was sent", where=connection.where, fix="run it again; check its disk"
        )
