"""Short timings of what measuring does: making corrupted images, and running a file. Free of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.stages.beside import mapped
from edgesafe.stages.observe import Bench

__all__ = ["REPEATED", "TIMED", "corrupting", "inferring", "least_seconds"]

REPEATED = 3  #: times that something is timed, after a first time that is not
TIMED = 32  #: images of the batch that is timed
_CORRUPTED = 4  # images of each corruption that are timed


def least_seconds(run: Callable[[], object]) -> float:
    """The least time of some runs, in seconds, after a first one that is not counted."""
    run()
    times = []
    for _ in range(REPEATED):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def corrupting(bench: Bench) -> float:
    """Seconds an image to corrupt images on all threads: mean over the corruptions, at severity 3 or the nearest."""
    if bench.source is None or not bench.cells:
        return 0.0
    source, indices = bench.source, np.arange(min(_CORRUPTED, len(bench.test)), dtype=np.int64)
    severity = sorted({s for _, s in bench.cells}, key=lambda s: abs(s - 3))[0]
    names = dict.fromkeys(name for name, s in bench.cells if s == severity)
    times = [least_seconds(partial(source.cell, name, severity, indices)) for name in names]
    return sum(times) / len(times) / len(indices) / bench.at_once


def inferring(classifier: OnnxClassifier, bench: Bench) -> float:
    """Seconds to run a file on one image, on the cores that measuring takes."""
    images = bench.test.images[:TIMED]

    def run(_: int) -> object:
        return classifier.scores(images, bench.section.batch_size)

    together = range(bench.at_once)
    return least_seconds(lambda: list(mapped(run, together, bench.at_once))) / len(images) / len(together)
