"""Workers on a Ray cluster: tasks with stated CPUs, GPUs and memory, whose results stream back while they work.

Blobs lie in Ray's object store, which brings each to a machine once. Ray itself retries nothing: a task whose process
or machine is gone is told as lost, and the schedule decides.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions

from edgesafe.errors import UsageError
from edgesafe.executors.served import load_job, tellable
from edgesafe.executors.tasks import Blob, Done, Event, Failed, Lost, Need, Sent, Task, checked
from edgesafe.files import sha256_bytes

__all__ = ["RayBlob", "RayCluster"]

_KNOCK_S = 5.0
_GONE = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.ObjectLostError,
         exceptions.OutOfMemoryError, exceptions.OwnerDiedError, exceptions.RaySystemError)  # fmt: skip


@dataclass(frozen=True)
class RayBlob:
    """Bytes in Ray's object store.

    Attributes:
        sha256: of the bytes.
        reference: Ray's name of them.
    """

    sha256: str
    reference: Any = field(compare=False)

    def read(self) -> bytes:
        """The bytes, compared with their hash; see `tasks.Blob`."""
        return checked(ray.get(self.reference), self.sha256)


class RayCluster:
    """An executor on a Ray cluster.

    Args:
        job: "module:function", see `tasks.Job`; every machine must have it installed.
        workers: tasks at once; None: as many as the cluster has CPUs, which may change.
        address: of a cluster ("auto", "ray://host:10001"); None: one is started on this machine, and stopped.
        cores: CPUs of a cluster that is started; None: `workers`.

    Raises:
        UsageError: the cluster cannot be reached.
    """

    def __init__(self, job: str, workers: int | None, address: str | None, cores: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked for telling
        os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster started here; Ray's own is 15: starved
        self._job, self._workers = job, workers
        self._ours = not ray.is_initialized()
        self._blobs: dict[str, RayBlob] = {}
        self._running: dict[Any, Task] = {}
        self._fitting: set[Need] = set()
        if self._ours:
            self._begin(address, workers or cores)
        self._run: Any = ray.remote(num_returns="streaming", max_retries=0)(_streamed)

    @property
    def slots(self) -> int:
        """How many tasks may be under way; see `tasks.Executor`."""
        return self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def share(self, content: bytes) -> Blob:
        """Put the bytes into the object store once; see `tasks.Workers`."""
        sha256 = sha256_bytes(content)
        if sha256 not in self._blobs:
            self._blobs[sha256] = RayBlob(sha256, ray.put(content))
        return self._blobs[sha256]

    def submit(self, task: Task, order: Any) -> None:
        """Hand the task to Ray, which finds a machine for it.

        Raises:
            UsageError: no machine of the cluster is large enough.
        """
        need = task.need
        self._fits(need)
        stated = {"num_cpus": need.cpus, "num_gpus": need.gpus}
        if need.memory_bytes:
            stated["memory"] = need.memory_bytes
        self._running[self._run.options(**stated).remote(self._job, order)] = task

    def wait(self) -> Event:
        """The next message, end or loss; see `tasks.Executor`."""
        (stream,), _ = ray.wait(list(self._running), num_returns=1)
        name = self._running[stream].id
        try:
            kind, content = ray.get(next(stream))
        except StopIteration:  # the end was sent and is gone, or never came
            return self._ended(stream, Lost(name, "its results ended early"))
        except _GONE as error:
            return self._ended(stream, Lost(name, str(error).strip().splitlines()[0]))
        if kind == "sent":
            return Sent(name, content)
        return self._ended(stream, Done(name) if kind == "done" else Failed(name, content))

    def close(self) -> None:
        """Cancel what runs; stop the cluster if it was started here, or leave it."""
        for stream in self._running:
            ray.cancel(stream, force=True)
        self._running.clear()
        self._blobs.clear()
        if self._ours:
            ray.shutdown()

    def _begin(self, address: str | None, cores: int) -> None:
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": cores}
        if address is None:
            where |= {"include_dashboard": False, "runtime_env": path}
        if address is not None:
            _knock(address)
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **where)
        except Exception as error:  # noqa: BLE001 - Ray raises plain ones
            raise _unreachable(address, str(error).strip().splitlines()[0]) from None

    def _fits(self, need: Need) -> None:
        if need in self._fitting:
            return
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(m.get("CPU", 0) >= need.cpus and m.get("GPU", 0) >= need.gpus for m in machines):
            largest = max((m.get("CPU", 0) for m in machines), default=0)
            what = f"no machine has {need.cpus:g} CPUs and {need.gpus:g} GPUs (the largest has {largest:g} CPUs)"
            raise UsageError(
                what, where="--executor ray", fix="set threads (and device) of the recipe to what there is"
            )
        self._fitting.add(need)

    def _ended(self, stream: Any, event: Event) -> Event:
        del self._running[stream]
        return event


def _knock(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself tries for minutes.

    Raises:
        UsageError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", "local": Ray knows at once
    try:
        socket.create_connection((host, int(port)), _KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str | None, why: str) -> UsageError:
    if address is None:
        fix = "try again when this machine has less to do, or use --workers N without Ray"
        return UsageError(f"Ray cannot be started here: {why}", where="--executor ray", fix=fix)
    fix = "see `ray status`, or leave --address out to start one here"
    return UsageError(f"no Ray cluster can be reached: {why}", where=f"--address {address}", fix=fix)


def _streamed(job: str, order: Any) -> Iterator[tuple[str, Any]]:
    """Do a job in a thread and give what it sends as it comes; ("done", None) or ("failed", error) is the last."""
    box: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            load_job(job)(order, lambda message: box.put(("sent", message)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver is told
            box.put(("failed", tellable(error)))
        else:
            box.put(("done", None))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = box.get()
        yield item
        if item[0] != "sent":
            return
