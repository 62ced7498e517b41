"""The stand-alone script of `export/` on a device: how it is reached and run, and what it says."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgesafe.deploy.device.connection import Connection
from edgesafe.errors import DeviceDropped, DeviceError
from edgesafe.files import is_file, sha256_bytes
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import DeviceAddress, Record

__all__ = ["ScriptOutputs", "address", "connected", "npy", "parsed", "run_script"]

_R = TypeVar("_R", bound=Record)

_SECONDS = 3600.0  # that the script may take on a slow device
_FIXES = {
    "package": "pip install numpy onnxruntime there, or name another ssh.python",
    "provider": "name a provider that it has in the target, or install an onnxruntime that has it",
    "model": "check that its onnxruntime is not older than the file's opset",
    "memory": "use a smaller network, or a device with more memory",
    "disk": "free some space there; what was copied is kept",
    "file": "look at what it says",
}


class ScriptOutputs(Record):
    """Outputs as the script gives them: float32 (n, K), little-endian, in base 64, with their hash."""

    sha256: str
    shape: tuple[int, int]
    float32: str

    def values(self) -> NDArray[np.float32]:
        """The outputs, float32 (n, K).

        Raises:
            DeviceError: they came back damaged.
        """
        try:
            content = base64.b64decode(self.float32, validate=True)
        except ValueError:
            content = b""
        if len(content) != 4 * self.shape[0] * self.shape[1] or sha256_bytes(content) != self.sha256:
            raise DeviceError("outputs came back damaged", where="the device", fix="run it again")
        return np.frombuffer(content, "<f4").reshape(self.shape)


def address(target: TargetSection) -> DeviceAddress:
    """How the target's device is reached.

    Raises:
        DeviceError: the target has no [ssh].
    """
    if target.ssh is None:
        raise DeviceError("is reached by no [ssh]", where=target.name, fix="add [ssh] host = … to the target")
    return target.ssh


def connected(ssh: DeviceAddress) -> Connection:
    """A connection to the device.

    Raises:
        DeviceError: the private key that is named is not there.
    """
    if ssh.identity is not None and not is_file(Path(ssh.identity).expanduser()):
        raise DeviceError("no such key", where=f"ssh.identity, {ssh.identity}", fix="name the file of a private key")
    return Connection(ssh)


def parsed(said: bytes, kind: type[_R], what: str, where: str) -> _R:
    """What the script said, as a record.

    Args:
        said: by `run_script`.
        kind: of record.
        what: it should be, for the message: "results".
        where: the device.

    Raises:
        DeviceError: it is something else.
    """
    try:
        return kind.model_validate_json(said)
    except ValidationError:
        shown = " ".join(said.decode("utf-8", "replace").split())[-200:]
        fix = "check that nothing else writes to its standard output (a profile that prints?)"
        raise DeviceError(f"answers something else than {what}: {shown}", where=where, fix=fix) from None


def npy(images: NDArray[Any]) -> bytes:
    """An array as the bytes of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(images), allow_pickle=False)
    return stream.getvalue()


def run_script(connection: Connection, folder: str, words: Sequence[str], key: str) -> bytes:
    """What the stand-alone script says, in the folder that it lies in; its own errors are put in words.

    Args:
        connection: to the device.
        folder: on the device.
        words: the command line.
        key: names the file of its errors, for as long as it runs.

    Raises:
        DeviceError: it cannot be run, or ends with an error.
        DeviceDropped: the connection broke.
    """
    command = f"cd {shlex.quote(folder)} && {shlex.join(words)}"
    # The script's errors come back on standard output, too, where no banner of ssh stands before them.
    wrapped = f"{{ {command} 2>{key}.error || {{ code=$?; cat {key}.error; exit $((code == 1 ? 0 : code)); }}; }}"
    said = connection.shell(wrapped, timeout_s=_SECONDS)
    lines = said.strip().splitlines()
    if not lines:
        raise DeviceDropped("the script said nothing", where=connection.where, fix="run it again: it continues")
    try:
        problem = json.loads(lines[-1])
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict) and "error" in problem:
        kind = str(problem["error"])
        text = " ".join(str(problem.get("text", "")).split())[:300]
        raise DeviceError(text, where=connection.where, fix=_FIXES.get(kind, "look at what it says"))
    return said
