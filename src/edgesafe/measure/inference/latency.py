"""Latency at batch 1: files timed in turn in one process, over several sessions of each.

Protocol (DESIGN section 6): all graph optimisations, at least 1,024 timed runs of each file, spread over eight sessions
with 30 warm-up runs each; median, 90th percentile (MLPerf's single-stream number), minimum, and the ratio of medians.
Two sessions of one file differ by more than the noise of their runs (where the weights lie in memory, what the
allocator hands out), so the intervals come from what differs between sessions: a file against itself covers 1. The
numbers name the host they were taken on; an x86 host is never called by a board's name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NothingEvaluated, UsageError
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import z_value
from edgesafe.metrics import get
from edgesafe.records import IntervalMethod, Measurement, Population, PopulationKind

__all__ = ["SESSIONS", "WARMUP", "LatencySamples", "interleaved", "summarise"]

SESSIONS = 8  # of each file; Student's t with 7 degrees of freedom costs 20 % of width against the normal quantile
WARMUP = 30  # rounds of each session that are not timed: DESIGN section 6
_LEAST_RUNS = 64  # timed runs in all; EvaluateSection.latency_runs has the same floor
_LEAST_IN_A_SESSION = 16  # fewer sessions where there are few runs: a median of less says little


@dataclass(frozen=True)
class LatencySamples:
    """Timed runs of one file.

    Attributes:
        milliseconds: float64 (sessions, runs), wall time of each run, in order; run i of session s of all files of one
            call is one round.
        threads: intra-op threads.
        provider: execution provider.
        batch: images of each run: 1, or what the file fixes.
        host: where it was timed, in words.
    """

    milliseconds: NDArray[np.float64]
    threads: int
    provider: str
    batch: int = 1
    host: str = "this host"


def interleaved(
    models: Mapping[str, Path],
    *,
    image: NDArray[np.uint8],
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    runs: int = 1024,
    progress: Callable[[int, int], None] | None = None,
    specs: Mapping[str, InputSpec] | None = None,
) -> dict[str, LatencySamples]:
    """Times all files in turn, one run each per round, the order rotating from round to round.

    For each session every file is opened anew, in an order that rotates too, so that no file always gets the memory
    that another has just given back.

    Args:
        models: files by name.
        image: uint8 (H, W, C).
        threads: intra-op threads.
        provider: execution provider.
        runs: timed rounds over all sessions, >= 64, rounded up to whole sessions; 1,024 for a published number.
        progress: called with (rounds done, all rounds) after each session.
        specs: what a file expects, by name; a file that is not named is one of edgesafe's own.

    Raises:
        UsageError: fewer runs than that, a file that does not open, or files that fix different batch sizes.
        NothingEvaluated: no files.
        DataError: an image that a file does not take.
    """
    if not models:
        raise NothingEvaluated("no files", where="latency", fix="name at least one ONNX file")
    if runs < _LEAST_RUNS:
        raise UsageError(f"{runs} runs", where="latency", fix=f"give at least {_LEAST_RUNS}")
    if image.ndim != 3 or image.dtype != np.uint8:
        raise DataError(f"image is {image.dtype} {image.shape}", where="latency", fix="give uint8 (H, W, C)")
    batch = np.ascontiguousarray(image[None])
    names = list(models)
    sessions = min(SESSIONS, runs // _LEAST_IN_A_SESSION)
    each = -(-runs // sessions)
    times = np.empty((len(names), sessions, each), np.float64)

    batches: dict[str, int] = {}

    def opened(name: str) -> Callable[[], object]:
        spec = None if specs is None else specs.get(name)
        classifier = OnnxClassifier(models[name], threads=threads, provider=provider, input_spec=spec)
        classifier.scores(batch, 1)  # refuses a wrong size and non-finite output before any timing
        batches[name] = classifier.batch or 1
        if len(set(batches.values())) > 1:
            text = ", ".join(f"{file} {size}" for file, size in batches.items())
            raise UsageError(f"batch sizes differ: {text}", where="latency", fix="export both with an open batch size")
        return classifier.runner(batch)

    for session in range(sessions):
        order = [(session + j) % len(names) for j in range(len(names))]
        calls = {k: opened(names[k]) for k in order}
        _time(calls, times[:, session])
        if progress is not None:
            progress((session + 1) * each, sessions * each)
    return {name: LatencySamples(times[k], threads, provider, batches[name]) for k, name in enumerate(names)}


def _time(calls: Mapping[int, Callable[[], object]], into: NDArray[np.float64]) -> None:
    """Time one session of each file, in ms, into float64 (files, runs)."""
    clock = time.perf_counter_ns
    for i in range(-WARMUP, into.shape[1]):
        for j in range(len(calls)):
            k = (i + j) % len(calls)
            begin = clock()
            calls[k]()
            end = clock()
            if i >= 0:
                into[k, i] = (end - begin) / 1e6


def _checked(samples: LatencySamples) -> NDArray[np.float64]:
    t = samples.milliseconds
    if t.ndim != 2 or t.size < _LEAST_RUNS or len(t) < 2:
        raise NothingEvaluated(f"{t.shape} timed runs", where="latency", fix=f"time at least {_LEAST_RUNS}")
    if not np.isfinite(t).all() or float(t.min()) <= 0.0:
        raise DataError("a time that is not positive and finite", where="latency", fix="time again")
    return t


def summarise(
    samples: LatencySamples, baseline_samples: LatencySamples | None = None, *, interval_level: float = 0.95
) -> dict[str, Measurement]:
    """Median, 90th percentile, minimum, and the ratio to the baseline.

    Estimates are geometric means over sessions of each session's median (or 90th percentile); intervals are Student's t
    on their logarithms. `latency.ratio` is candidate over baseline, below 1 is faster: its logarithm is taken session
    by session, so that what disturbs both files at once cancels.

    Args:
        samples: of the candidate.
        baseline_samples: of the same `interleaved` call, or None.
        interval_level: of the intervals, two-sided.

    Returns:
        `latency.p50_ms`, `latency.p90_ms`, `latency.min_ms`, and with a baseline `latency.ratio`.

    Raises:
        NothingEvaluated: too few runs.
        DataError: times that are not positive, or a baseline with another number of rounds.
    """
    t = _checked(samples)
    where = f"{samples.host}, {samples.provider}, {samples.threads} thread(s), batch {samples.batch}"
    population = Population(kind=PopulationKind.HOST, description=where)
    out: dict[str, Measurement] = {}

    def add(metric: str, logs: NDArray[np.float64], details: dict[str, float]) -> None:
        centre, se = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
        half = _half_width(interval_level, len(logs) - 1) * se
        out[metric] = Measurement(
            metric=metric, estimate=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half),
            se=math.exp(centre) * se, interval_level=interval_level, n=t.size, method=IntervalMethod.SESSIONS,
            unit=get(metric).unit, population=population, details={"sessions": float(len(logs)), **details},
        )  # fmt: skip

    medians = np.log(np.median(t, axis=1))
    add("latency.p50_ms", medians, {"mean": float(t.mean())})
    add("latency.p90_ms", np.log(np.percentile(t, 90, axis=1)), {})
    out["latency.min_ms"] = Measurement(
        metric="latency.min_ms",
        estimate=float(t.min()),
        n=t.size,
        method=IntervalMethod.EXACT,
        unit=get("latency.min_ms").unit,
        population=population,
    )
    if baseline_samples is not None:
        b = _checked(baseline_samples)
        if b.shape != t.shape:
            raise DataError(
                f"{t.shape} and {b.shape} rounds", where="latency.ratio", fix="time both in one interleaved call"
            )
        logs = medians - np.log(np.median(b, axis=1))
        add("latency.ratio", logs, {"speed_up": math.exp(-float(logs.mean()))})
    return out


def _half_width(interval_level: float, degrees: int) -> float:
    """Half width in standard errors: Student's, and wide enough for a gate.

    A gate turns the stored interval into one-sided bounds at 99 % with normal quantiles. Student's tails are heavier,
    so the interval is made as wide as that bound needs: 7 % more than Student's 95 % at 7 degrees of freedom.
    """
    normal = NormalDist()
    at_the_gate = student_quantile(0.99, degrees) * z_value(interval_level) / normal.inv_cdf(0.99)
    return max(student_quantile(0.5 + interval_level / 2.0, degrees), at_the_gate)


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t distribution (numpy has none), by bisection on its distribution function.

    Args:
        p: in (0.5, 1).
        degrees: of freedom, >= 1.

    Example:
        >>> round(student_quantile(0.975, 7), 4)
        2.3646
    """
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _student_cdf(middle, degrees) < p else (low, middle)
    return 0.5 * (low + high)


def _student_cdf(x: float, degrees: int) -> float:
    """Distribution function at x >= 0 (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    theta = math.atan(x / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    if degrees % 2:
        term, total = cosine, 0.0 if degrees == 1 else cosine
        for k in range(3, degrees, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        return 0.5 + (theta + sine * total) / math.pi
    term = total = 1.0
    for k in range(2, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 0.5 + 0.5 * sine * total
