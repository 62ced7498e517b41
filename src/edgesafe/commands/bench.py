"""`edgesafe bench`: batch-1 latency of an ONNX file, or of two interleaved, here or on a target's device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgesafe.measure.inference import foreign
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.recipe import parsing
from edgesafe.records import DeviceReport, Measurement, Task
from edgesafe.stages import timing
from edgesafe.stages.timing import PARITY_IMAGES, Timing

__all__ = ["bench"]


def bench(
    model: Path, against: Path | None, target: str, runs: int
) -> tuple[dict[str, Mapping[str, Measurement]], DeviceReport | None]:
    """Batch-1 latency of a file, or of two interleaved, keyed by file name; and what the target's device said.

    Raises:
        UsageError: a file is not an image classifier, or the target is unknown.
        DeviceError: the target's device cannot be used.
    """
    section = parsing.target(target)
    specs = {"candidate": foreign.plain_spec(foreign.read(model), str(model))}
    if against is not None:
        specs["baseline"] = foreign.plain_spec(foreign.read(against), str(against))
    provider = section.provider if section.ssh is None else "CPUExecutionProvider"
    opened = OnnxClassifier(model, provider=provider, input_spec=specs["candidate"])
    shape = opened.input_shape or (32, 32, 3)
    images = np.random.default_rng(0).integers(0, 256, (PARITY_IMAGES, *shape), dtype=np.uint8)
    found = timing.timed(model, against, images, Timing(section, runs, Task(), specs))
    timed: dict[str, Mapping[str, Measurement]] = {str(model): found.candidate}
    if against is not None and found.baseline is not None:
        timed[str(against)] = found.baseline
    return timed, found.device
