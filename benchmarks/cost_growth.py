"""How time and memory of a study grow with its variants, images, cells and workers, and whether noise tables are built once.

    python benchmarks/cost_growth.py [--only variants images cells workers]

One study after another, each in a process of its own, in which one number changes and the others stay: the quickstart's digits and
network, one epoch, two variants of weight pruning, 75 cells of 100 images, one process unless said. Time is processor time of the study and its
workers, which other work on the machine moves less than wall time. Memory is the largest sum of the resident memory of
its processes, looked at 20 times a second: what workers share is counted once for each. A straight line (least squares) is fitted
through the points; the largest deviation from it is given in per cent of the point.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

STUDY = """
import sys
from pathlib import Path
from edgesafe.commands.compress import compress
from edgesafe.corruptions.noise import alias_table
from edgesafe.executors.crew import Crew
from edgesafe.recipe import parsing
out, workers, *sets = sys.argv[1:]
compress(parsing.load(None, sets), Path(out), None, Crew(int(workers)))
known = alias_table.cache_info()
print(known.misses, known.hits)
"""
FIXED = (
    "name=growth", "threads=1", "train.epochs=1", "train.milestones=[]", "recover.epochs=1", "recover.images=400",
    "recover.bn_images=200", "recover.milestones=[]", "evaluate.latency=false", "export.temperature=false",
)  # fmt: skip
BASE = {"variants": 2, "images": 100, "cells": 75, "workers": 1}
AXES = {
    "variants": (1, 2, 4, 6),
    "images": (50, 100, 200, 300),
    "cells": (15, 45, 75),
    "workers": (2, 3, 4),
}  #: workers begin at 2: with one, the command does the work itself


def resident(root: int) -> int:
    """Bytes of resident memory of a process and all that it started."""
    parents: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # gone
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
        pages[int(entry.name)] = int(fields[21])
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += pages.get(process, 0)
        waiting += parents.get(process, [])
    return total * os.sysconf("SC_PAGE_SIZE")


def point(variants: int, images: int, cells: int, workers: int) -> tuple[float, float, tuple[int, int]]:
    """Processor seconds, peak MiB, and (misses, hits) of the noise tables of one study."""
    ratios = [round(0.3 + 0.05 * k, 2) for k in range(variants)]
    sets = [
        *FIXED,
        f"compress=[{{method='weight', ratios={ratios}}}]",
        f"evaluate.images_per_cell={images}",
        f"evaluate.severities={list(range(1, cells // 15 + 1))}",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", STUDY, str(Path(folder) / "study"), str(workers), *sets]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak, over = 0, threading.Event()

        def look() -> None:
            nonlocal peak
            while not over.wait(0.05):
                peak = max(peak, resident(process.pid))

        looking = threading.Thread(target=look)
        looking.start()
        told, _ = process.communicate()
        over.set()
        looking.join()
    if process.returncode:
        raise SystemExit(f"the study ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    misses, hits = map(int, told.split()[-2:])
    return spent, peak / 2**20, (misses, hits)


def line(x: np.ndarray, y: np.ndarray, unit: str) -> str:
    """The straight line through the points, in words, and how far the farthest lies from it."""
    slope, start = np.polyfit(x, y, 1)
    fitted = start + slope * x
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - fitted) ** 2).sum()) / spread if spread else 1.0
    return f"{start:.1f} + {slope:.4g} x {unit}, R2 {r2:.3f}, farthest {np.abs((y - fitted) / y).max():.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(AXES), default=list(AXES))
    arguments = parser.parse_args()
    start, known = time.perf_counter(), dict[tuple[int, ...], tuple[float, float, tuple[int, int]]]()
    for axis in arguments.only:
        values, rows = AXES[axis], []
        for value in values:
            of = BASE | {axis: value}
            key = tuple(of.values())
            if key not in known:
                known[key] = point(**of)
            seconds, mib, (misses, hits) = known[key]
            rows.append((seconds, mib))
            tables = f", noise tables built {misses}, found {hits}" if of["workers"] == 1 else ""
            print(f"{axis} {value}: {seconds:.1f} s, {mib:.0f} MiB{tables}", flush=True)
        x, (spent, peaks) = np.array(values, float), np.array(rows).T
        print(f"  time:   {line(x, spent, 's')}\n  memory: {line(x, peaks, 'MiB')}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
