"""Latency at batch 1: several files interleaved in one process, so that a disturbance meets all of them alike.

Protocol (DESIGN section 6): all graph optimisations, 30 warm-up runs, at least 1,024 timed runs of each file; median,
90th percentile (MLPerf's single-stream number), minimum, and the ratio of medians with an interval. The numbers name
the host they were taken on; an x86 host is never called by a board's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NothingEvaluated, UsageError
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.records import Measurement, Unit

__all__ = ["WARMUP", "LatencySamples", "interleaved", "no_speed_up", "summarise"]

WARMUP = 30  # rounds that are not timed: DESIGN section 6
_BLOCK = 16  # consecutive rounds resampled together: neighbours share the machine's mood; 64 blocks of 1,024
_REPLICATES = 2000
_NEVER_LESS = 64  # timed runs; EvaluateSection.latency_runs has the same floor


@dataclass(frozen=True)
class LatencySamples:
    """Timed runs of one file.

    Attributes:
        milliseconds: float64 (runs,), wall time of each run, in order; run i of all files of one call is one round.
        warmup: runs before them.
        threads: intra-op threads.
        provider: execution provider.
    """

    milliseconds: NDArray[np.float64]
    warmup: int
    threads: int
    provider: str


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

    Args:
        models: files by name.
        image: uint8 (H, W, C).
        threads: intra-op threads.
        provider: execution provider.
        runs: timed rounds after `WARMUP` others, >= 64; 1,024 for a number that is published.
        progress: called with (rounds done, all rounds) now and then, outside the timed part.
        specs: what a file expects, by name; a file that is not named is one of edgesafe's own.

    Raises:
        UsageError: fewer runs than that, or a file that does not open.
        NothingEvaluated: no files.
        DataError: an image that a file does not take.
    """
    if not models:
        raise NothingEvaluated("no files", where="latency", fix="name at least one ONNX file")
    if runs < _NEVER_LESS:
        raise UsageError(f"{runs} runs", where="latency", fix=f"give at least {_NEVER_LESS}")
    if image.ndim != 3 or image.dtype != np.uint8:
        raise DataError(f"image is {image.dtype} {image.shape}", where="latency", fix="give uint8 (H, W, C)")
    batch = np.ascontiguousarray(image[None])
    calls = []
    for name, path in models.items():
        spec = None if specs is None else specs.get(name)
        classifier = OnnxClassifier(path, threads=threads, provider=provider, input_spec=spec)
        classifier.scores(batch, 1)  # refuses a wrong size and non-finite output before any timing
        calls.append(classifier.runner(batch))
    times = np.empty((len(calls), runs), np.float64)
    clock = time.perf_counter_ns
    for i in range(-WARMUP, runs):
        for j in range(len(calls)):
            k = (i + j) % len(calls)
            begin = clock()
            calls[k]()
            end = clock()
            if i >= 0:
                times[k, i] = (end - begin) / 1e6
        if progress is not None and i % 64 == 0:
            progress(i + WARMUP, runs + WARMUP)
    return {name: LatencySamples(times[k], WARMUP, threads, provider) for k, name in enumerate(models)}


def _checked(samples: LatencySamples) -> NDArray[np.float64]:
    t = samples.milliseconds
    if t.ndim != 1 or len(t) < _NEVER_LESS:
        raise NothingEvaluated(f"{t.size} timed runs", where="latency", fix=f"time at least {_NEVER_LESS}")
    if not np.isfinite(t).all() or float(t.min()) <= 0.0:
        raise DataError("a time that is not positive and finite", where="latency", fix="time again")
    return t


def _rounds(n: int, seed: int) -> NDArray[np.int64]:
    """Indices (replicates, about n) of a circular block bootstrap (Politis & Romano 1992)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    starts = rng.integers(0, n, size=(_REPLICATES, -(-n // _BLOCK)))
    index: NDArray[np.int64] = ((starts[:, :, None] + np.arange(_BLOCK)) % n).reshape(_REPLICATES, -1)[:, :n]
    return index


def summarise(
    samples: LatencySamples, baseline_samples: LatencySamples | None = None, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Measurement]:
    """Median, 90th percentile, minimum, and the ratio to the baseline.

    `latency.ratio` is the candidate's median over the baseline's: below 1 is faster. Its interval resamples rounds
    (blocks of 16), so both files are resampled together.

    Args:
        samples: of the candidate.
        baseline_samples: of the same `interleaved` call, or None.
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        `latency.p50_ms`, `latency.p90_ms`, `latency.min_ms`, and with a baseline `latency.ratio`.

    Raises:
        NothingEvaluated: too few runs.
        DataError: times that are not positive, or a baseline with another number of rounds.
    """
    t = _checked(samples)
    rows = _rounds(len(t), seed)
    population = f"this host, {samples.provider}, {samples.threads} thread(s), batch 1"
    draws = t[rows]
    out: dict[str, Measurement] = {}
    tail = 50 * (1 - confidence)

    def add(
        metric: str, estimate: float, replicates: NDArray[np.float64], unit: Unit, details: dict[str, float]
    ) -> None:
        low, high = np.percentile(replicates, [tail, 100 - tail])
        out[metric] = Measurement(
            metric=metric, estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate),
            se=float(replicates.std(ddof=1)), confidence=confidence, n=len(t), method="block-bootstrap", unit=unit,
            population=population, details=details,
        )  # fmt: skip

    medians = np.median(draws, axis=1)
    add("latency.p50_ms", float(np.median(t)), medians, Unit.MS, {"mean": float(t.mean())})
    add("latency.p90_ms", float(np.percentile(t, 90)), np.percentile(draws, 90, axis=1), Unit.MS, {})
    out["latency.min_ms"] = Measurement(
        metric="latency.min_ms", estimate=float(t.min()), n=len(t), method="exact", unit=Unit.MS, population=population
    )
    if baseline_samples is not None:
        b = _checked(baseline_samples)
        if len(b) != len(t):
            raise DataError(
                f"{len(t)} and {len(b)} rounds", where="latency.ratio", fix="time both in one interleaved call"
            )
        ratio = float(np.median(t) / np.median(b))
        add("latency.ratio", ratio, medians / np.median(b[rows], axis=1), Unit.RATIO, {"speed_up": 1.0 / ratio})
    return out


def no_speed_up(ratio: Measurement) -> bool:
    """True where the interval of `latency.ratio` does not lie below 1: the text then says "no speed-up".

    Raises:
        DataError: not a `latency.ratio` with an interval.
    """
    if ratio.metric != "latency.ratio" or ratio.high is None:
        raise DataError(f"{ratio.metric} has no interval", where="latency", fix="give latency.ratio")
    return ratio.high >= 1.0
