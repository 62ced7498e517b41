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


def latency(candidate: Path, baseline: Path | None, image: NDArray[np.uint8], timing: Timing) -> dict[str, Measurement]:
    """Batch-1 latency of a file, beside its baseline if one is given.

    Args:
        candidate: the file.
        baseline: what to compare with; None: the ratio is not given.
        image: uint8 (H, W, C).
        timing: threads, provider, runs.
    """
    return next(iter(latencies_of(candidate, baseline, image, timing)))


def latencies_of(
    candidate: Path, baseline: Path | None, image: NDArray[np.uint8], timing: Timing
) -> tuple[dict[str, Measurement], ...]:
    """Latency of each file from the same interleaved sessions: the candidate with its ratio, then the baseline."""
    files = {"candidate": candidate} if baseline is None else {"candidate": candidate, "baseline": baseline}
    samples = latencies.interleaved(
        files,
        image=image,
        threads=timing.threads,
        provider=timing.provider,
        runs=timing.runs,
        specs=timing.specs,
    )
    own = latencies.summarise(samples["candidate"], samples.get("baseline"))
    return (own,) if baseline is None else (own, latencies.summarise(samples["baseline"]))
