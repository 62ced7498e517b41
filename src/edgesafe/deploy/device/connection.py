"""Commands on a device through the system's own ssh, which knows keys, agents, jump hosts and hardware tokens.

Nothing is passed through a local shell; what the device's shell sees is quoted. Failures of ssh are told apart by what
it says (OpenSSH 9), so that the message says what to do.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgesafe.errors import DeviceDropped, DeviceError
from edgesafe.records import DeviceAddress

__all__ = ["Connection", "persist"]

_T = TypeVar("_T")
_LOST = 255  # exit code of ssh itself
_NO_COMMAND = 127
#: What ssh or the device's shell says -> what it means, and what to do; the first that fits.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the known one: another machine answers, or it was installed anew",
        "find out which; then `ssh-keygen -R HOST` and accept the new key",
    ),
    (
        "Host key verification failed",
        "its host key is not known",
        "connect once by hand, compare the key, and accept it; or name ssh.known_hosts",
    ),
    ("Permission denied", "does not accept the key", "check ssh.user and ssh.identity, and its authorized_keys"),
    ("Identity file", "the key's file cannot be read", "check ssh.identity"),
    ("Could not resolve hostname", "no such host", "check ssh.host"),
    ("Connection refused", "nothing listens there", "check ssh.host and ssh.port, and that sshd runs"),
    ("No route to host", "cannot be reached", "check the network"),
    ("Network is unreachable", "cannot be reached", "check the network"),
    ("Connection timed out", "does not answer", "check that it is on, and ssh.host"),
    ("Operation timed out", "does not answer", "check that it is on, and ssh.host"),
    ("No space left on device", "its disk is full", "free some space there; what was copied is kept"),
    ("Disk quota exceeded", "its disk quota is used up", "free some space there; what was copied is kept"),
    ("Read-only file system", "its file system is read-only", "name another ssh.workdir"),
)
_DROPPED = (
    "Connection closed", "Connection reset", "Broken pipe", "not responding", "closed by remote host", "kex_exchange",
    "Connection to", "client_loop",
)  # fmt: skip


@dataclass(frozen=True)
class Connection:
    """How a device is reached.

    Attributes:
        ssh: host, port, user, key.
        attempts: how often a step is tried when the connection drops.
        pause_s: before the second attempt; doubled before each further one.
    """

    ssh: DeviceAddress
    attempts: int = 5
    pause_s: float = 1.0

    @property
    def where(self) -> str:
        """For messages: "pi@board.local:22"."""
        user = f"{self.ssh.user}@" if self.ssh.user else ""
        return f"{user}{self.ssh.host}:{self.ssh.port}"

    def command(self, remote: str) -> list[str]:
        """The local command line that runs a remote one, word by word."""
        ssh = self.ssh
        options = [
            "BatchMode=yes",  # never ask for a password
            f"ConnectTimeout={ssh.timeout_s}",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
            "StrictHostKeyChecking=yes",
        ]
        if ssh.known_hosts is not None:
            options += [f"UserKnownHostsFile={ssh.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
        if ssh.identity is not None:
            options.append("IdentitiesOnly=yes")
        words = ["ssh", "-T", "-p", str(ssh.port)]
        for option in options:
            words += ["-o", option]
        if ssh.identity is not None:
            words += ["-i", ssh.identity]
        if ssh.user is not None:
            words += ["-l", ssh.user]
        return [*words, "--", ssh.host, remote]

    def run(self, words: Sequence[str], *, timeout_s: float = 60.0) -> bytes:
        """Run a command on the device, its words quoted; gives its standard output.

        Raises:
            DeviceError: ssh is not installed, the device is not reached, or the command fails there.
            DeviceDropped: the connection broke, which a second attempt may mend.
        """
        return self.shell(shlex.join(words), timeout_s=timeout_s)

    def shell(self, script: str, content: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        """Run a script in the device's shell, with `content` on its standard input; gives its standard output.

        Raises:
            DeviceError, DeviceDropped: see `run`.
        """
        if shutil.which("ssh") is None:
            raise DeviceError("ssh is not installed here", where=self.where, fix="install OpenSSH's client")
        try:
            done = subprocess.run(  # noqa: S603 - validated fields, no local shell
                self.command(script), input=content, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeviceDropped(f"no answer within {timeout_s:g} s", where=self.where, fix=_CONTINUE) from None
        if done.returncode:
            raise self._failure(done.returncode, done.stderr.decode("utf-8", "replace"))
        return done.stdout

    def _failure(self, code: int, said: str) -> DeviceError:
        """What a failure means."""
        for words, what, fix in _MEANINGS:
            if words in said:
                return DeviceError(what, where=self.where, fix=fix)
        last = " ".join(said.split())[-300:] or "without a word"
        if code == _LOST and (not said.strip() or any(words in said for words in _DROPPED)):
            return DeviceDropped(f"the connection broke ({last})", where=self.where, fix=_CONTINUE)
        if code == _NO_COMMAND:
            return DeviceError(
                f"a command is not there ({last})", where=self.where, fix="install it, or set ssh.python"
            )
        return DeviceError(f"ended with {code}: {last}", where=self.where, fix="look at what it says")


_CONTINUE = "run the same command again: it continues"


def persist(connection: Connection, step: Callable[[], _T]) -> _T:
    """Do a step, again after each drop of the connection; steps go on where they were.

    Raises:
        DeviceError: the step failed, or the connection broke in every attempt.
    """
    pause = connection.pause_s
    for attempt in range(1, connection.attempts + 1):
        try:
            return step()
        except DeviceDropped:
            if attempt == connection.attempts:
                raise
            time.sleep(pause)
            pause *= 2.0
    raise AssertionError("there is at least one attempt")
