"""Batch-1 latency of a variant beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.inference import latency as latencies
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.records import (
    Measurement,
)

__all__ = ["Timing", "latencies_of", "latency"]


@dataclass(frozen=True)
class Timing:
    """How latency is measured: batch 1, on so many threads of one provider."""

    threads: int
    provider: str
    runs: int
    specs: Mapping[str, InputSpec] = field(
        default_factory=dict
    )  #: of "candidate" and "baseline", if not edgesafe's own


def latency(
    candidate: Path,
    baseline: Path | None,
    image: NDArray[np.uint8],
    timing: Timing,
    *,
    sibling: Path | None = None,
) -> dict[str, Measurement]:
    """Batch-1 latency of a file, beside its baseline and its fp32 sibling if they are given.

    Args:
        candidate: the file.
        baseline: what to compare with; None: the ratio is not given.
        image: uint8 (H, W, C).
        timing: threads, provider, runs.
        sibling: the fp32 file with the same weights; None: the ratio to it is not given.
    """
    others = {"baseline": baseline, "sibling": sibling}
    samples = _interleaved(candidate, {k: v for k, v in others.items() if v is not None}, image, timing)
    own = latencies.summarise(samples["candidate"], samples.get("baseline"))
    if "sibling" in samples:
        ratio = latencies.summarise(samples["candidate"], samples["sibling"])["latency.ratio"]
        metric = "latency.ratio.sibling"
        own[metric] = ratio.model_copy(update={"metric": metric})
    return own


def latencies_of(
    candidate: Path, baseline: Path | None, image: NDArray[np.uint8], timing: Timing
) -> tuple[dict[str, Measurement], ...]:
    """Latency of each file from the same interleaved sessions: the candidate with its ratio, then the baseline."""
    samples = _interleaved(candidate, {} if baseline is None else {"baseline": baseline}, image, timing)
    own = latencies.summarise(samples["candidate"], samples.get("baseline"))
    return (own,) if baseline is None else (own, latencies.summarise(samples["baseline"]))


def _interleaved(
    candidate: Path, others: Mapping[str, Path], image: NDArray[np.uint8], timing: Timing
) -> dict[str, latencies.LatencySamples]:
    """Timed runs of the candidate and of the others, in turn. The same file under two names is timed once."""
    paths = list(dict.fromkeys(others.values()))
    files = {"candidate": candidate, **{next(k for k, v in others.items() if v == path): path for path in paths}}
    samples = latencies.interleaved(
        files,
        image=image,
        threads=timing.threads,
        provider=timing.provider,
        runs=timing.runs,
        specs=timing.specs,
    )
    first = {path: name for name, path in reversed(files.items())}
    return {"candidate": samples["candidate"]} | {name: samples[first[path]] for name, path in others.items()}
