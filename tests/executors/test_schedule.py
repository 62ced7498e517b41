"""Tasks in their order: a model that runs nothing, and worker processes that are killed."""

import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import EdgesafeError, IntegrityError, RefusedError, UsageError, WorkerError
from edgesafe.executors import crew, schedule
from edgesafe.executors.processes import FileBlob, Processes
from edgesafe.executors.sequential import Sequential
from edgesafe.executors.tasks import Done, Event, Failed, Lost, Sent, Task


class Keeper:
    """A driver that writes down what happens."""

    def __init__(self, orders: dict[str, Any] | None = None) -> None:
        self.orders = orders or {}
        self.log: list[tuple[str, str]] = []
        self.got: dict[str, list[Any]] = {}
        self.errors: dict[str, Exception] = {}
        self.running: set[str] = set()

    def order(self, task: Task) -> Any:
        self.log.append(("start", task.id))
        self.running.add(task.id)
        return self.orders.get(task.id)

    def here(self, task: Task) -> None:
        assert not self.running, f"{task.id} beside {self.running}"
        self.log.append(("here", task.id))

    def take(self, task: Task, message: Any) -> None:
        self.got.setdefault(task.id, []).append(message)

    def done(self, task: Task) -> None:
        self.running.discard(task.id)
        self.log.append(("done", task.id))

    def lost(self, task: Task, reason: str) -> None:  # noqa: ARG002
        self.log.append(("lost", task.id))

    def failed(self, task: Task, error: Exception) -> None:
        self.running.discard(task.id)
        self.errors[task.id] = error


class Oracle:
    """An executor whose tasks end as a script says: "done", "failed", or so many losses before they end."""

    def __init__(self, slots: int, ends: dict[str, tuple[int, bool]], pick: list[int]) -> None:
        self.slots, self._ends, self._pick = slots, dict(ends), deque(pick)
        self.queue: list[Task] = []
        self.most = 0

    def submit(self, task: Task, order: Any) -> None:  # noqa: ARG002
        self.queue.append(task)
        self.most = max(self.most, len(self.queue))

    def wait(self) -> Event:
        position = self._pick.popleft() % len(self.queue) if self._pick else 0
        task = self.queue.pop(position)
        losses, good = self._ends[task.id]
        if losses:
            self._ends[task.id] = losses - 1, good
            return Lost(task.id, "killed")
        return Done(task.id) if good else Failed(task.id, ZeroDivisionError(task.id))

    def close(self) -> None:
        pass


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Task], dict[str, tuple[int, bool]]]:
    n = draw(st.integers(1, 12))
    tasks = [
        Task(str(k), tuple(str(j) for j in draw(st.sets(st.integers(0, k - 1), max_size=3))) if k else (),
             alone=draw(st.booleans()))
        for k in range(n)
    ]  # fmt: skip
    ends = {task.id: (draw(st.sampled_from([0, 0, 0, 1, 2, 3])), draw(st.integers(0, 5)) > 0) for task in tasks}
    return draw(st.permutations(tasks)), ends


@given(graphs(), st.integers(1, 5), st.lists(st.integers(0, 11), max_size=40))
def test_every_task_is_done_once_or_told_once(
    graph: tuple[list[Task], dict[str, tuple[int, bool]]], slots: int, pick: list[int]
) -> None:
    """Oracle: a task can be done if it ends well within three attempts and all that it waits for can."""
    tasks, ends = graph
    by_id = {task.id: task for task in tasks}

    def possible(name: str) -> bool:
        losses, good = ends[name]
        own = by_id[name].alone or (losses < schedule.ATTEMPTS and good)
        return own and all(possible(other) for other in by_id[name].after)

    driver, executor = Keeper(), Oracle(slots, ends, pick)
    schedule.run(tasks, executor, driver)
    done = [name for what, name in driver.log if what == "done"]
    assert sorted(done) == sorted(name for name in by_id if possible(name))
    for name in done:
        assert all(done.index(other) < done.index(name) for other in by_id[name].after)
    told = set(driver.errors)
    assert told == {name for name in by_id if not possible(name) and all(possible(o) for o in by_id[name].after)}
    assert executor.most <= slots


def test_a_circle_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(ValueError, match="never comes"):
        schedule.run([Task("a", ("b",)), Task("b", ("a",))], Oracle(1, {}, []), Keeper())


def test_one_after_the_other_in_this_process() -> None:
    driver = Keeper()
    tasks = [Task("a"), Task("b", ("a",)), Task("c")]
    schedule.run(tasks, Sequential(lambda task: driver.take(task, "here")), driver)
    assert [name for what, name in driver.log if what == "done"] == ["a", "b", "c"]
    assert driver.got == {name: ["here"] for name in "abc"}


@pytest.fixture
def workers() -> Any:
    made = Processes("executor_jobs:work", 2)
    yield made
    made.close()
    assert not made.pids


def test_processes_do_what_they_are_told_and_tell_what_goes_wrong(workers: Processes, tmp_path: Path) -> None:
    blob = workers.share(b"x" * 1000)
    assert workers.share(b"x" * 1000) is blob
    driver = Keeper({
        "two": ("square", 2), "read": ("read", blob), "no": ("refuse",), "bug": ("break",), "poison": ("die",),
        "once": ("die once", str(tmp_path / "mark")), "three": ("square", 3),
    })  # fmt: skip
    tasks = [Task(name) for name in driver.orders] + [Task("after no", ("no",)), Task("last", ("once",), alone=True)]
    schedule.run(tasks, workers, driver)
    assert driver.got == {"two": [4], "three": [9], "read": [1000], "once": ["begun", "begun", "survived"]}
    assert isinstance(driver.errors["no"], RefusedError)
    assert str(driver.errors["no"]) == "a layer: it cannot be; do otherwise"
    assert isinstance(driver.errors["bug"], WorkerError)
    assert "ZeroDivisionError: once" in str(driver.errors["bug"])
    assert "3 workers were lost with it, the last one: killed by signal 9" in str(driver.errors["poison"])
    assert set(driver.errors) == {"no", "bug", "poison"}
    assert driver.log.count(("lost", "poison")) == 2
    assert ("here", "last") in driver.log


def test_a_worker_that_is_killed_from_outside_is_replaced(workers: Processes) -> None:
    workers.submit(Task("long"), ("sleep", 60))
    time.sleep(0.1)
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    assert workers.wait() == Lost("long", "killed by signal 9")
    workers.submit(Task("short"), ("sleep", 0))
    event = workers.wait()
    assert isinstance(event, Sent)
    assert event.message != pid
    assert workers.wait() == Done("short")


def test_a_blob_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"other")
    with pytest.raises(IntegrityError, match="damaged"):
        FileBlob(str(path), "sha256:" + "0" * 64).read()


def test_errors_travel_between_processes() -> None:
    import pickle

    def kinds(kind: type[EdgesafeError]) -> list[type[EdgesafeError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in kinds(sub))]

    for kind in kinds(EdgesafeError):
        error = pickle.loads(pickle.dumps(kind("what", where="where", fix="fix")))  # noqa: S301 - our own
        assert type(error) is kind
        assert (error.what, error.where, error.fix) == ("what", "where", "fix")


def test_ray_that_is_not_installed_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"ray is not installed; pip install 'edgesafe\[ray\]'"):
        crew.Crew(2, crew.Kind.RAY)
