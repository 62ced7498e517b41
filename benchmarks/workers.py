"""What a second worker brings: a study by one process and by N workers, in turn, and how long each task took.

    python benchmarks/workers.py RECIPE [--set KEY=VALUE]… [--workers 2] [--executor local|ray] [--times FILE]

One process means `edgesafe compress` without --workers, on one core: nothing is started or sent. The time of N workers
includes starting N interpreters, sending them the data, and stopping them. The digests of both have to be equal. The control
says what the machine itself gives: bare training loops without edgesafe, one alone and N at once. --times keeps how long the
tasks of the last run took, for `benchmarks/cluster_schedule.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgesafe.commands import compress, distribution
from edgesafe.executors.crew import Crew, Kind
from edgesafe.executors.tasks import Blob, Done, Event, Executor, Failed, Lost, Task
from edgesafe.progress import Silent
from edgesafe.recipe import parsing

CLOCKED: list[Clocked] = []
LOOP = """
import time, torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()) for _ in range(12)])
x = torch.randn(64, 16, 32, 32)
def step():
    model(x).square().mean().backward()
for _ in range(5): step()
print("ready", flush=True); input()
start, n = time.perf_counter(), 0
while time.perf_counter() - start < 8: step(); n += 1
print(n / (time.perf_counter() - start))
"""


def loops(count: int) -> list[float]:
    """Steps a second of so many bare training loops at once."""
    command = [sys.executable, "-c", LOOP]
    made = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for one in made:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    return [float(one.communicate("\n")[0]) for one in _told(made)]


def _told(made: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Tell all to begin before any is waited for."""
    for one in made:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return made


class Clocked:
    """An executor that notes how long its tasks take, from being handed over to their end, in seconds."""

    def __init__(self, executor: Executor, times: dict[str, float]) -> None:
        self._executor, self._times, self._begun = executor, times, dict[str, float]()
        CLOCKED.append(self)
        self.first = self.last = 0.0

    @property
    def slots(self) -> int:
        return self._executor.slots

    def share(self, content: bytes) -> Blob:
        return self._executor.share(content)

    def submit(self, task: Task, order: Any) -> None:
        self._begun[task.id] = time.perf_counter()
        self.first = self.first or self._begun[task.id]
        self._executor.submit(task, order)

    def wait(self) -> Event:
        event = self._executor.wait()
        if isinstance(event, Done | Failed | Lost):
            self.last = time.perf_counter()
            self._times[event.task] = self.last - self._begun[event.task]
        return event

    def close(self) -> None:
        self._executor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--only-workers", action="store_true", help="no run by one process")
    parser.add_argument("--times", type=Path)
    parser.add_argument("--control", action="store_true", help="bare loops at once, too")
    args = parser.parse_args()
    if args.control:
        (alone,), together = loops(1), loops(args.workers)
        share = sum(together) / alone / args.workers
        print(
            f"control: {args.workers} bare training loops at once: each at {share:.2f} of its speed alone", flush=True
        )
    recipe = parsing.load(args.recipe, args.set)
    times: dict[str, float] = {}
    executor_of = distribution._executor
    distribution._executor = lambda crew: Clocked(executor_of(crew), times)  # type: ignore[assignment, return-value]
    took, digests, usable = [], set(), os.sched_getaffinity(0)
    many = Crew(args.workers, Kind(args.executor))
    with tempfile.TemporaryDirectory() as folder:
        for number, crew in enumerate([many] if args.only_workers else [Crew(), many]):
            os.sched_setaffinity(0, {min(usable)} if crew.is_alone else usable)
            start = time.perf_counter()
            digests.add(compress.compress(recipe, Path(folder) / str(number), Silent(), crew).record.digest)
            end = time.perf_counter()
            took.append(end - start)
            name = "one process" if crew.is_alone else f"{args.workers} workers ({args.executor})"
            print(f"{name}: {took[-1]:.1f} s, digest {digests}", flush=True)
    if len(digests) != 1:
        raise SystemExit(f"digests differ: {digests}")
    if len(took) == 2:
        print(f"{took[0] / took[1]:.2f} times as fast; efficiency {took[0] / took[1] / args.workers:.2f}")
    run = CLOCKED[-1]
    busy = sum(times.values()) / (run.last - run.first) / args.workers
    print(
        f"before the first task {run.first - start:.1f} s, tasks {run.last - run.first:.1f} s (workers busy for {busy:.2f} "
        f"of it), after the last {end - run.last:.1f} s"
    )
    print(f"{len(times)} tasks, {sum(times.values()):.1f} s; of each step, in s:")
    for step in dict.fromkeys(name.split()[0] for name in times):
        print(f"  {step}: {', '.join(f'{t:.2f}' for name, t in times.items() if name.split()[0] == step)}")
    if args.times is not None:
        args.times.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
