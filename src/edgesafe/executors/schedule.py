"""Tasks in their order on an executor: what is lost is tried again, what fails is told once, and the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from edgesafe.errors import WorkerError
from edgesafe.executors.tasks import Done, Event, Executor, Failed, Lost, Sent, Task

__all__ = ["ATTEMPTS", "Driver", "run"]

ATTEMPTS = 3  # a machine may be lost twice by bad luck; what kills three workers would kill a fourth


class Driver(Protocol):
    """The one process that knows what tasks mean and keeps what they made."""

    def order(self, task: Task) -> Any:
        """What a worker is sent to do the task; called when the task starts, and again when it is tried again."""

    def here(self, task: Task) -> None:
        """Do the task in this process."""

    def take(self, task: Task, message: Any) -> None:
        """Keep what a task sent. A task that is tried again may send the same once more."""

    def done(self, task: Task) -> None:
        """The task is done."""

    def lost(self, task: Task, reason: str) -> None:
        """The task's worker is gone; the task is tried again."""

    def failed(self, task: Task, error: Exception) -> None:
        """The task cannot be done, nor can those that come after it. Raising ends the run."""


def run(tasks: Sequence[Task], executor: Executor, driver: Driver) -> None:
    """Run all tasks.

    Args:
        tasks: in the order of their importance: of those that could start, the first does.
        executor: runs them.
        driver: see `Driver`.

    Raises:
        ValueError: tasks wait for one another, or for a task that is not there.
    """
    _Run(tasks, executor, driver).to_the_end()


class _Run:
    """The state of a run: which tasks wait, which run and for how many times, which are done."""

    def __init__(self, tasks: Sequence[Task], executor: Executor, driver: Driver) -> None:
        self._all = {task.id: task for task in tasks}
        self._waiting = dict(self._all)
        self._attempts: dict[str, int] = {}
        self._running: set[str] = set()
        self._done: set[str] = set()
        self._executor, self._driver = executor, driver

    def to_the_end(self) -> None:
        """Start what can start and take what comes, until nothing waits and nothing runs."""
        while self._waiting or self._running:
            self._start()
            if self._running:
                self._handle(self._executor.wait())

    def _start(self) -> None:
        while True:
            ready = [task for task in self._waiting.values() if self._done.issuperset(task.after)]
            if not ready and not self._running and self._waiting:
                raise ValueError(f"tasks wait for what never comes: {', '.join(self._waiting)}")
            if not ready or not ready[0].alone or self._running:
                break
            self._alone(ready[0])
        for task in [task for task in ready if not task.alone][: max(0, self._executor.slots - len(self._running))]:
            self._submit(task)

    def _alone(self, task: Task) -> None:
        del self._waiting[task.id]
        try:
            self._driver.here(task)
        except Exception as error:  # noqa: BLE001 - the driver decides what an error of a task means
            self._drop(task, error)
        else:
            self._finish(task)

    def _submit(self, task: Task) -> None:
        self._waiting.pop(task.id, None)
        self._attempts[task.id] = self._attempts.get(task.id, 0) + 1
        self._running.add(task.id)
        self._executor.submit(task, self._driver.order(task))

    def _handle(self, event: Event) -> None:
        task = self._all[event.task]
        match event:
            case Sent(message=message):
                self._driver.take(task, message)
                return
            case Done():
                self._running.remove(task.id)
                self._finish(task)
            case Failed(error=error):
                self._running.remove(task.id)
                self._drop(task, error)
            case Lost(reason=reason) if self._attempts[task.id] < ATTEMPTS:
                self._running.remove(task.id)
                self._driver.lost(task, reason)
                self._submit(task)
            case Lost(reason=reason):
                self._running.remove(task.id)
                what = f"{ATTEMPTS} workers were lost with it, the last one: {reason}"
                fix = "see whether it needs more memory than there is; the same command tries it again"
                self._drop(task, WorkerError(what, where=task.id, fix=fix))

    def _finish(self, task: Task) -> None:
        self._done.add(task.id)
        self._driver.done(task)

    def _drop(self, task: Task, error: Exception) -> None:
        """Give up a task and all that comes after it; only the first is told."""
        self._driver.failed(task, error)
        gone = {task.id}
        while more := {other.id for other in self._waiting.values() if gone & set(other.after)} - gone:
            gone |= more
        for name in gone:
            self._waiting.pop(name, None)
