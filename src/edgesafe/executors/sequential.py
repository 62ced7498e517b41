"""One task after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgesafe.executors.tasks import Done, Event, Failed, Task

__all__ = ["Sequential"]


class Sequential:
    """An executor that does a task when it is waited for, by the function that it is given.

    Args:
        here: does a task in this process; see `schedule.Driver.here`.
    """

    slots = 1

    def __init__(self, here: Callable[[Task], None]) -> None:
        self._here = here
        self._next: Task | None = None

    def submit(self, task: Task, order: Any) -> None:  # noqa: ARG002 - nothing is sent within a process
        """Remember the task: one at a time."""
        self._next = task

    def wait(self) -> Event:
        """Do the task that was submitted."""
        task, self._next = self._next, None
        if task is None:
            raise ValueError("no task was submitted")
        try:
            self._here(task)
        except Exception as error:  # noqa: BLE001 - the driver decides what an error of a task means
            return Failed(task.id, error)
        return Done(task.id)

    def close(self) -> None:
        """Nothing runs beside this process."""
