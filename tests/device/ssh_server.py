"""A device for tests: OpenSSH's sshd on loopback, started and stopped here, limited to one core and 300 MB."""

from __future__ import annotations

import getpass
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MEMORY = 300_000_000  # bytes of address space that each of its processes gets


@dataclass
class Server:
    """Where it listens, and the folder of its keys and files."""

    folder: Path
    port: int
    daemon: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Server]:
        """Start one, wait until it answers, stop it at the end."""
        if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
            pytest.skip("OpenSSH's client is not installed (apt install openssh-client)")
        if _sshd() is None:
            pytest.skip("sshd is not installed (apt install openssh-server)")
        for name in ("host", "other_host", "user", "other_user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        server = cls(folder, _free_port())
        (folder / "known").write_text(f"[127.0.0.1]:{server.port} {(folder / 'host.pub').read_text()}")
        (folder / "changed").write_text(f"[127.0.0.1]:{server.port} {(folder / 'other_host.pub').read_text()}")
        (folder / "work").mkdir()
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def start(self) -> None:
        """Start the daemon."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its privileges
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\nMaxStartups 50\n"
        )
        command = [str(_sshd()), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        core = min(os.sched_getaffinity(0))

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.sched_setaffinity(0, {core})

        self.daemon = subprocess.Popen(command, preexec_fn=limit, stderr=subprocess.PIPE, start_new_session=True)  # noqa: PLW1509
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.daemon.poll() is not None:
                assert self.daemon.stderr is not None
                pytest.skip(f"sshd does not start here: {self.daemon.stderr.read().decode()[-200:]}")
            time.sleep(0.05)
        pytest.skip("sshd does not answer")

    def stop(self) -> None:
        """End the daemon and every connection that it serves."""
        if self.daemon is None:
            return
        self.drop()
        self.daemon.terminate()
        self.daemon.wait(10)
        if self.daemon.stderr is not None:
            self.daemon.stderr.close()
        self.daemon = None

    def drop(self) -> int:
        """Break every connection that is open, as a cable that is pulled does; gives how many there were."""
        assert self.daemon is not None
        children = _children(self.daemon.pid)
        for child in children:
            os.kill(child, 9)
        return len(children)

    def target(self, path: Path, *more: str, **ssh: object) -> Path:
        """A target file that reaches it; lines of the target, and keys of [ssh]."""
        table = {
            "host": "127.0.0.1", "port": self.port, "user": getpass.getuser(), "identity": str(self.folder / "user"),
            "known_hosts": str(self.folder / "known"), "workdir": str(self.folder / "work"), "python": sys.executable,
        } | ssh  # fmt: skip
        lines = ['schema = "edgesafe.target/1"', 'name = "board"', *(more or ("threads = 1",)), "[ssh]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        path.write_text("\n".join(lines) + "\n")
        return path


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found
