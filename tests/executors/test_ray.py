"""The same tasks on Ray: a node that is lost, a study of equal digests. Skips where Ray is not installed."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_schedule import Keeper

from edgesafe.errors import RefusedError, UsageError, WorkerError
from edgesafe.executors import schedule
from edgesafe.executors.tasks import Need, Task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'edgesafe[ray]'"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of two CPUs each, beside a head that works on nothing."""
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def test_tasks_on_ray_and_a_node_lost_in_the_middle(cluster: Any, tmp_path: Path) -> None:
    from edgesafe.executors.ray_cluster import RayCluster

    made, nodes = cluster
    executor = RayCluster("executor_jobs:work", None, None, 2)
    assert executor.slots == 4
    blob = executor.share(b"x" * 1_000_000)
    assert executor.share(b"x" * 1_000_000) is blob

    class Driver(Keeper):
        def take(self, task: Task, message: Any) -> None:
            super().take(task, message)
            if message == "begun" and nodes:
                made.remove_node(nodes.pop(), allow_graceful=False)

    driver = Driver({
        "two": ("square", 2), "read": ("read", blob), "no": ("refuse",), "bug": ("break",), "poison": ("die",),
        "once": ("die once", str(tmp_path / "mark")),
    })  # fmt: skip
    driver.orders |= {f"long {k}": ("sleep", 4) for k in range(4)}
    tasks = [Task(name) for name in driver.orders] + [Task("last", ("once",), alone=True)]
    schedule.run(tasks, executor, driver)
    executor.close()
    assert (driver.got["two"], driver.got["read"]) == ([4], [1_000_000])
    assert driver.got["once"][-1] == "survived"
    assert all(driver.got[f"long {k}"] for k in range(4))
    assert isinstance(driver.errors["no"], RefusedError)
    assert isinstance(driver.errors["bug"], WorkerError)
    assert "3 workers were lost" in str(driver.errors["poison"])
    assert set(driver.errors) == {"no", "bug", "poison"}
    assert ("here", "last") in driver.log


def test_a_task_that_fits_no_machine_is_told_and_not_waited_for(cluster: Any) -> None:
    from edgesafe.executors.ray_cluster import RayCluster

    executor = RayCluster("executor_jobs:work", None, None, 2)
    with pytest.raises(UsageError, match="no machine has 64 CPUs"):
        executor.submit(Task("large", need=Need(cpus=64)), ("square", 2))


def test_no_cluster_at_an_address() -> None:
    from edgesafe.executors.ray_cluster import RayCluster

    with pytest.raises(UsageError, match="no Ray cluster can be reached"):
        RayCluster("executor_jobs:work", None, "127.0.0.1:1", 1)


def test_a_ray_that_does_not_start_here_is_told_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has too much to do: Ray gives up waiting for its own processes."""
    import ray

    from edgesafe.executors.ray_cluster import RayCluster

    def timed_out(**_: object) -> None:
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", timed_out)
    with pytest.raises(UsageError, match=r"^--executor ray: Ray cannot be started here: The current node timed out"):
        RayCluster("executor_jobs:work", None, None, 1)


TINY = [
    "name=tiny", "threads=1", "data.train_images=200", "data.test_images=60",
    "train.epochs=2", "train.milestones=[]",
    "recover.epochs=1", "recover.images=64", "recover.bn_images=64", "recover.milestones=[]",
    "evaluate.corruptions=['fog']", "evaluate.severities=[1]", "evaluate.images_per_cell=20",
    "evaluate.latency=false", "compress=[{method='weight', ratios=[0.5]}, {method='filter', ratios=[0.5]}]",
]  # fmt: skip


def test_a_node_lost_in_the_middle_of_a_study(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes when it has just been given a pruned network to train; the digest is one process's."""
    from edgesafe.commands import compress
    from edgesafe.executors.crew import Crew, Kind
    from edgesafe.executors.ray_cluster import RayCluster
    from edgesafe.progress import Silent
    from edgesafe.recipe import parsing

    made, nodes = cluster
    notes: list[str] = []
    take = RayCluster.wait

    def wait(self: RayCluster) -> Any:
        event = take(self)
        if len(nodes) == 2 and "filter" in event.task and (busy := [node for node in nodes if _is_busy(node)]):
            nodes.remove(busy[0])
            made.remove_node(busy[0], allow_graceful=False)
        return event

    class Heard(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(RayCluster, "wait", wait)
    wanted = parsing.load(None, TINY)
    study = compress.compress(wanted, tmp_path / "ray", Heard(), Crew(4, Kind.RAY))
    assert len(nodes) == 1
    assert study.record.digest == compress.compress(wanted, tmp_path / "one").record.digest
    assert any("its worker is gone" in note for note in notes)


@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "a worker killed"])
def test_a_study_on_a_cluster_that_is_started_and_stopped_has_the_digest_of_one_process(
    tmp_path: Path, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from edgesafe.commands import compress
    from edgesafe.executors.crew import Crew, Kind
    from edgesafe.executors.ray_cluster import RayCluster
    from edgesafe.progress import Silent
    from edgesafe.recipe import parsing

    wanted = parsing.load(None, TINY)
    killed: list[int] = []
    take = RayCluster.wait

    def wait(self: RayCluster) -> Any:
        event = take(self)
        if kill and not killed and "weight" in event.task:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and b"ray::_streamed" in _command(entry):
                    killed.append(int(entry.name))
                    os.kill(killed[-1], signal.SIGKILL)
        return event

    monkeypatch.setattr(RayCluster, "wait", wait)
    made = compress.compress(wanted, tmp_path / "ray", Silent(), Crew(2, Kind.RAY))
    assert not ray.is_initialized()
    assert bool(killed) == kill
    assert made.record.digest == compress.compress(wanted, tmp_path / "one").record.digest


def _is_busy(node: Any) -> bool:
    """Whether one of the node's workers is at a task."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    return any(b"ray::_streamed" in _command(Path("/proc") / child) for child in children)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
