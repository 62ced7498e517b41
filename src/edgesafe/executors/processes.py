"""Workers as processes of this machine.

Each is a fresh interpreter (`python -m edgesafe.executors.served`) with a pipe: nothing is inherited, so that threads
and libraries of this process cannot be in a state that a copy would not survive, and no script is run a second time. A
worker whose process ends, for whatever reason, is lost with its task and replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from edgesafe.errors import WorkerError
from edgesafe.executors.tasks import Blob, Done, Event, Failed, Lost, Sent, Task, checked
from edgesafe.files import sha256_bytes
from edgesafe.files.scratch import scratch

__all__ = ["FileBlob", "Processes"]


@dataclass(frozen=True)
class FileBlob:
    """Bytes in a file that all processes of this machine can read.

    Attributes:
        path: the file.
        sha256: of its bytes.
    """

    path: str
    sha256: str

    def read(self) -> bytes:
        """The bytes, compared with their hash; see `tasks.Blob`."""
        return checked(Path(self.path).read_bytes(), self.sha256)


@dataclass
class _Worker:
    """A worker's process, this end of its pipe, and the task that it is at."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    task: Task | None = None


class Processes:
    """An executor of worker processes on this machine.

    Args:
        job: "module:function", see `tasks.Job`.
        workers: how many processes.
    """

    def __init__(self, job: str, workers: int) -> None:
        self.slots = workers
        self._job = job
        self._place = ExitStack()
        self._folder = self._place.enter_context(scratch("edgesafe-crew-"))
        self._blobs: dict[str, FileBlob] = {}
        self._workers: list[_Worker] = []
        self._events: deque[Event] = deque()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are alive."""
        return tuple(worker.process.pid for worker in self._workers)

    def share(self, content: bytes) -> Blob:
        """Write the bytes into a file once; see `tasks.Workers`."""
        sha256 = sha256_bytes(content)
        if sha256 not in self._blobs:
            path = self._folder / sha256.removeprefix("sha256:")
            path.write_bytes(content)
            self._blobs[sha256] = FileBlob(str(path), sha256)
        return self._blobs[sha256]

    def submit(self, task: Task, order: Any) -> None:
        """Send the task to a worker that is free."""
        worker = next((worker for worker in self._workers if worker.task is None), None) or self._begin()
        worker.task = task
        try:
            worker.pipe.send(order)
        except OSError:
            self._bury(worker)

    def wait(self) -> Event:
        """The next message, end or loss; see `tasks.Executor`."""
        while not self._events:
            busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            for pipe in wait(list(busy)):
                self._hear(busy[pipe])  # type: ignore[index]  # only pipes were given
        return self._events.popleft()

    def close(self) -> None:
        """Kill all workers and remove what was shared."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.pipe.close()
        self._workers.clear()
        self._place.close()

    def _begin(self) -> _Worker:
        ours, theirs = Pipe()
        try:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [
                    sys.executable, "-m", "edgesafe.executors.served",
                    self._job, str(theirs.fileno()), str(self._folder), str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints must not get between the results on standard output
                start_new_session=True,  # an interruption at the keyboard is for the process that schedules
            )  # fmt: skip
        finally:
            theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        if worker.task is None:
            return
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        name = worker.task.id
        match kind:
            case "sent":
                self._events.append(Sent(name, content))
            case "done":
                worker.task = None
                self._events.append(Done(name))
            case "failed":
                worker.task = None
                self._events.append(Failed(name, content))
            case _:
                raise WorkerError(f"a worker sent '{kind}'", where=name)

    def _bury(self, worker: _Worker) -> None:
        """A worker that is gone, and with it its task."""
        worker.process.kill()
        code = worker.process.wait()
        worker.pipe.close()
        self._workers.remove(worker)
        if worker.task is not None:
            reason = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self._events.append(Lost(worker.task.id, reason))
