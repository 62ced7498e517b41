"""`edgesafe bench`: batch-1 latency of an ONNX file, or of two interleaved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgesafe.measure.inference import foreign
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.recipe import parsing
from edgesafe.records import (
    Measurement,
)
from edgesafe.stages import timing
from edgesafe.stages.timing import Timing

__all__ = ["bench"]


def bench(model: Path, against: Path | None, target: str, runs: int) -> dict[str, Mapping[str, Measurement]]:
    """Batch-1 latency of a file, or of two interleaved; keyed by file name.

    Raises:
        UsageError: a file is not an image classifier, or the target is unknown.
    """
    section = parsing.target(target)
    specs = {"candidate": foreign.plain_spec(foreign.read(model), str(model))}
    if against is not None:
        specs["baseline"] = foreign.plain_spec(foreign.read(against), str(against))
    protocol = Timing(section.threads, section.provider, runs, specs)
    opened = OnnxClassifier(model, provider=protocol.provider, input_spec=specs["candidate"])
    image = np.random.default_rng(0).integers(0, 256, opened.input_shape or (32, 32, 3), dtype=np.uint8)
    files = [model] if against is None else [model, against]
    return {
        str(file): own for file, own in zip(files, timing.latencies_of(model, against, image, protocol), strict=True)
    }
