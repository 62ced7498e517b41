"""Tasks, what becomes of them, and the protocol of what runs them.

A worker is given a task's order and sends messages back while it works: the bytes that it made, and notes. It writes
nothing that outlives it. What every worker needs (data, models) is shared once, as a blob that is known by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from edgesafe.errors import IntegrityError
from edgesafe.files import sha256_bytes

__all__ = [
    "Blob",
    "Done",
    "Event",
    "Executor",
    "Failed",
    "Job",
    "Lost",
    "Need",
    "Send",
    "Sent",
    "Task",
    "Workers",
    "checked",
]

Send = Callable[[Any], None]
Job = Callable[[Any, Send], None]
"""What a worker does with an order; its results are what it sends. Named as "module:function": no code travels."""


@dataclass(frozen=True)
class Need:
    """What a task occupies where it runs.

    Attributes:
        cpus: cores.
        gpus: GPUs; a part of one is allowed.
        memory_bytes: of main memory; 0: not stated.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        id: unique among the tasks of a run.
        after: ids of the tasks that must be done before it starts.
        alone: it runs in the process that schedules, and only while nothing else runs (timing).
        need: what it occupies.
    """

    id: str
    after: tuple[str, ...] = ()
    alone: bool = False
    need: Need = Need()


@dataclass(frozen=True)
class Sent:
    """A task that is at work sent a message."""

    task: str
    message: Any


@dataclass(frozen=True)
class Done:
    """A task came to its end; all its messages came before."""

    task: str


@dataclass(frozen=True)
class Lost:
    """The worker of a task is gone: killed, out of memory, its machine lost."""

    task: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """A task raised an error: trying it again would raise it again."""

    task: str
    error: Exception


Event = Sent | Done | Lost | Failed


class Blob(Hashable, Protocol):
    """Bytes that were shared with all workers. Equal contents are one blob, which reaches a machine once."""

    @property
    def sha256(self) -> str:
        """The hash of the bytes."""

    def read(self) -> bytes:
        """The bytes, compared with their hash.

        Raises:
            IntegrityError: they are not the bytes that were shared.
        """


class Executor(Protocol):
    """Runs tasks, so many at once, and tells what becomes of each; `schedule.run` decides their order."""

    @property
    def slots(self) -> int:
        """How many tasks may be under way at once; it may change while tasks run."""

    def submit(self, task: Task, order: Any) -> None:
        """Start a task, or have it wait for its turn."""

    def wait(self) -> Event:
        """The next event of a task that was submitted."""

    def close(self) -> None:
        """Stop all work; nothing of it stays behind."""


class Workers(Executor, Protocol):
    """An executor whose tasks run in other processes, which are given bytes that many tasks need once."""

    def share(self, content: bytes) -> Blob:
        """Make bytes readable for every worker."""


def checked(content: bytes, sha256: str) -> bytes:
    """The bytes, if they have that hash.

    Raises:
        IntegrityError: they have another.
    """
    if sha256_bytes(content) != sha256:
        raise IntegrityError("arrived damaged (its hash differs)", where=f"blob {sha256[:23]}", fix="run it again")
    return content
