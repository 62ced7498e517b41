"""How busy 8 nodes are: the tasks of studies, really scheduled on a Ray cluster of 8 nodes, each task sleeping its time.

    python benchmarks/cluster_schedule.py TIMES.json [--study paper|reference] [--nodes 8] [--seconds 100]

The nodes are Ray's own (`ray.cluster_utils`), processes of this machine with one logical CPU each; tasks, priorities,
retries and messages are those of `edgesafe compress --executor ray`, one driver for each recipe, as six commands on one
cluster would be. Only what a task does is replaced, by sleeping, which needs no CPU.

TIMES.json is what `benchmarks/workers.py --times` recorded of a study of ResNet-20. A task of the reference study sleeps
the median time of its step and method (and part); one of the paper's, the recorded time for each image that it trains or
runs, times the multiply-adds of its network over ResNet-20's. Everything is then divided by one factor, so that perfect
scheduling would take --seconds. Timing is left out: `evaluate.latency = false` on a cluster. Worker processes are started
before the clock is.

efficiency = (sum of the tasks' times) / (nodes x time from the first task's start to the last one's end)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe import models
from edgesafe.commands.division import Parts, Work, works
from edgesafe.commands.worker import Step
from edgesafe.corruptions import NAMES
from edgesafe.executors import schedule
from edgesafe.executors.tasks import Send, Task
from edgesafe.models import count
from edgesafe.recipe import parsing, recipe
from edgesafe.recipe.recipe import Recipe
from edgesafe.records import ImageSet
from edgesafe.stages import certify

CONFIGS = Path(__file__).parent.parent / "configs" / "paper"
PAPER = (
    "vgg16-filter",
    "vgg19-channel",
    "vgg19-weight",
    "resnet110-filter",
    "preresnet110-weight",
    "preresnet164-channel",
)
STUDIES = {"paper": PAPER, "reference": ("small/resnet20", "small/resnet20-channel")}
TRAIN, TEST, SHAPE = 45_000, 10_000, (32, 32, 3)


def sleep(order: float, send: Send) -> None:
    """A worker's task."""
    time.sleep(order)
    send("slept")


class Sleepers:
    """The driver of one study: gives each task its time, and checks that all are done."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.spans = seconds, dict[str, list[float]]()

    def order(self, task: Task) -> float:
        self.spans[task.id] = [time.perf_counter()]
        return self.seconds[task.id]

    def here(self, task: Task) -> None:
        raise AssertionError(f"{task.id}: nothing runs alone")

    def take(self, task: Task, message: Any) -> None:  # noqa: ARG002
        assert message == "slept"

    def done(self, task: Task) -> None:
        self.spans[task.id].append(time.perf_counter())

    def lost(self, task: Task, reason: str) -> None:
        raise AssertionError(f"{task.id}: {reason}")

    def failed(self, task: Task, error: Exception) -> None:  # noqa: ARG002
        raise error


def tasks_of(wanted: Recipe) -> list[Work]:
    test = ImageSet(np.zeros((TEST, *SHAPE), np.uint8), np.zeros(TEST, np.int64), "none")
    return works(wanted, Parts(NAMES, certify.shards(wanted.certify, test)), recipe.variants(wanted))


def fine_tuned(times: dict[str, float]) -> list[float]:
    """How long pruning, fine-tuning and exporting a variant took."""
    return [t for name, t in times.items() if name.startswith("ship ") and not name.startswith("ship baseline")]


def recorded(times: dict[str, float]) -> Callable[[Work], float]:
    """The median time of a task's step, method and part."""

    def key(step: str, variant: str, part: str) -> tuple[str, str, str]:
        return step, variant.partition("-")[0] if step == "ship" else "", part

    found: dict[tuple[str, str, str], list[float]] = {}
    for name, seconds in times.items():
        step, variant, *rest = name.split(" ", 2)
        found.setdefault(key(step, variant, "".join(rest)), []).append(seconds)

    pruned = statistics.median(fine_tuned(times))

    def seconds(work: Work) -> float:
        times_of = found.get(key(work.step.value, work.plan.id, work.part))
        return pruned if times_of is None else statistics.median(times_of)  # a method that was not recorded

    return seconds


def scaled(times: dict[str, float], wanted: Recipe, images: dict[str, float]) -> Callable[[Work], float]:
    """Recorded seconds for each image, times the images of a task, times its network's size over ResNet-20's."""
    network = models.build(wanted.model.arch, 10, wanted.model.args)
    size = count.macs(network, SHAPE) / count.macs(models.build("resnet20", 10), SHAPE)
    trained = statistics.median(fine_tuned(times)) / images["trained"]
    looks = [t for name, t in times.items() if name.startswith("look ") and not name.endswith(" ")]
    run = statistics.median(looks) / images["run"]

    def seconds(work: Work) -> float:
        if work.step is Step.SHIP:
            epochs = wanted.train.epochs if work.plan.section is None else wanted.recover.epochs
            return size * epochs * TRAIN * trained
        if work.step is Step.LOOK:
            return size * run * TEST * (5 if work.part else 1)
        return size * run * 2 * TEST  # measure: reading, bootstrap, certificates

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=Path)
    parser.add_argument("--study", choices=sorted(STUDIES), default="paper")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--trained", type=float, default=16_000, help="images that a recorded fine-tuning trained")
    parser.add_argument("--run", type=float, default=1_000, help="images that a recorded look ran")
    parser.add_argument(
        "--quiet", nargs="?", const="", help="a command before the clock starts, such as one that waits"
    )
    args = parser.parse_args()
    times = json.loads(args.times.read_text())
    graphs: list[tuple[list[Work], dict[str, float]]] = []
    for name in STUDIES[args.study]:
        wanted = parsing.load(CONFIGS / f"{name}.toml", ["evaluate.latency=false"])
        images = {"trained": args.trained, "run": args.run}
        seconds = recorded(times) if args.study == "reference" else scaled(times, wanted, images)
        works_ = tasks_of(wanted)
        graphs.append((works_, {work.task.id: seconds(work) for work in works_}))
    total = sum(sum(seconds.values()) for _, seconds in graphs)
    factor = args.seconds * args.nodes / total
    longest = max(_chain(tasks, seconds) for tasks, seconds in graphs)
    print(f"{args.study}: {sum(len(tasks) for tasks, _ in graphs):,} tasks, {total:,.0f} s, longest chain {longest:,.0f} s;"
          f" divided by {1 / factor:,.1f}", flush=True)  # fmt: skip
    drivers = [Sleepers({name: t * factor for name, t in seconds.items()}) for _, seconds in graphs]
    makespan = on_ray(args.nodes, [[work.task for work in tasks] for tasks, _ in graphs], drivers)
    slept = sum(sum(driver.seconds.values()) for driver in drivers)
    print(
        f"slept {slept:.1f} s on {args.nodes} nodes in {makespan:.1f} s: efficiency {slept / args.nodes / makespan:.3f}"
    )
    overhead = [span[1] - span[0] for driver in drivers for span in driver.spans.values()]
    print(f"bound by the longest chain: {min(1.0, total / args.nodes / longest):.3f}; tasks done: {len(overhead):,}")


def _chain(works_: list[Work], seconds: dict[str, float]) -> float:
    """The longest time from the start of a task to the end of one that waits for it, whatever the number of nodes."""
    by_name = {work.task.id: work.task for work in works_}
    ends: dict[str, float] = {}

    def end(name: str) -> float:
        if name not in ends:
            ends[name] = seconds[name] + max((end(other) for other in by_name[name].after), default=0.0)
        return ends[name]

    return max(end(name) for name in by_name)


def on_ray(nodes: int, graphs: list[list[Task]], drivers: list[Sleepers]) -> float:
    """Run each graph by a driver of its own, at once, on a cluster of so many nodes of one CPU; seconds."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_DISABLE_MEMORY_MONITOR": "1",
                   "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}  # fmt: skip
    import ray
    from ray.cluster_utils import Cluster

    from edgesafe.executors import ray_cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    warm = ray_cluster.RayCluster("cluster_schedule:sleep", None, None, nodes)
    schedule.run(
        [Task(f"warm {k}") for k in range(2 * nodes)],
        warm,
        Sleepers(dict.fromkeys((f"warm {k}" for k in range(2 * nodes)), 3.0)),
    )
    threads = [
        threading.Thread(target=schedule.run, args=(tasks, ray_cluster.RayCluster("cluster_schedule:sleep", None, None, nodes), driver))
        for tasks, driver in zip(graphs, drivers, strict=True)
    ]  # fmt: skip
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    for tasks, driver in zip(graphs, drivers, strict=True):
        assert len(driver.spans) == len(tasks)
        assert all(len(span) == 2 for span in driver.spans.values())
    ray.shutdown()
    made.shutdown()
    return took


if __name__ == "__main__":
    main()
