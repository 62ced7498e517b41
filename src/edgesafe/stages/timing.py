"""Batch-1 latency of a variant beside its baseline: here, or on the device that the target reaches over ssh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.deploy.device.measuring import DeviceOrder, DeviceTimes, measure_on_device
from edgesafe.deploy.device.memory import peak_bytes
from edgesafe.errors import ParityError, RefusedError
from edgesafe.files import read_bounded
from edgesafe.measure.inference import latency as latencies
from edgesafe.measure.inference.foreign import MAX_BYTES
from edgesafe.measure.inference.inputs import InputSpec, prepare, whole_batches
from edgesafe.measure.inference.latency import LatencySamples
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import DeviceReport, Measurement, Task
from edgesafe.stages.counts import exact

__all__ = ["PARITY_IMAGES", "Timed", "Timing", "timed"]

PARITY_IMAGES = 16  #: whose outputs are compared between device and host
_CANDIDATE, _BASELINE, _SIBLING = "candidate", "baseline", "sibling"


@dataclass(frozen=True)
class Timing:
    """How latency is measured: batch 1, on so many threads of one provider, here or on the target's device."""

    target: TargetSection
    runs: int
    task: Task  #: what the files' outputs are answers to: how near a device's have to be depends on it
    specs: Mapping[str, InputSpec] = field(
        default_factory=dict
    )  #: of "candidate" and "baseline", if not edgesafe's own


@dataclass(frozen=True)
class Timed:
    """What was timed.

    Attributes:
        candidate: its metrics, with the ratio to the baseline if there is one.
        baseline: the baseline's, from the same sessions; None: there is none.
        device: what the device said; None: it was timed here.
    """

    candidate: dict[str, Measurement]
    baseline: dict[str, Measurement] | None = None
    device: DeviceReport | None = None


def timed(
    candidate: Path, baseline: Path | None, images: NDArray[np.uint8], timing: Timing, *, sibling: Path | None = None
) -> Timed:
    """Batch-1 latency of a file, from sessions interleaved with its baseline's and its fp32 sibling's, if given.

    On a device, peak memory is measured, too, and outputs on the first images are compared with this host's; here, peak
    memory is measured if the target limits it.

    Args:
        candidate: the file.
        baseline: what to compare with; None: the ratio is not given.
        images: uint8 (n, H, W, C), n >= 1; latency does not depend on what they show.
        timing: target, runs, inputs.
        sibling: the fp32 file with the same weights; None: the ratio to it is not given.

    Raises:
        DeviceError: the device cannot be used.
        ParityError: the device puts out something else than this host.
        RefusedError: the file needs more memory than the target gives.
    """
    others = {name: path for name, path in ((_BASELINE, baseline), (_SIBLING, sibling)) if path is not None}
    first = {path: name for name, path in reversed(others.items())}
    files = {_CANDIDATE: candidate, **{name: path for path, name in first.items()}}  # one that is both is timed once
    same = {name: first[path] for name, path in others.items()}
    if timing.target.ssh is not None:
        return _on_device(files, same, images, timing)
    target = timing.target
    samples = latencies.interleaved(
        files, image=images[0], threads=target.threads, provider=target.provider, runs=timing.runs, specs=timing.specs
    )
    found = _summarised(samples, same)
    if target.memory_mb is None:
        return found
    memory = peak_bytes(candidate, target.threads, target.provider)
    return replace(found, candidate=found.candidate | _memory(memory, target, "this host"))


def _summarised(samples: Mapping[str, LatencySamples], same: Mapping[str, str]) -> Timed:
    """Metrics of the samples; `same` says under which name the baseline and the sibling were timed."""
    base = samples[same[_BASELINE]] if _BASELINE in same else None
    own = latencies.summarise(samples[_CANDIDATE], base)
    if _SIBLING in same:
        ratio = latencies.summarise(samples[_CANDIDATE], samples[same[_SIBLING]])["latency.ratio"]
        own["latency.ratio.sibling"] = ratio.model_copy(update={"metric": "latency.ratio.sibling"})
    return Timed(own, None if base is None else latencies.summarise(base))


def _memory(peak: int | None, target: TargetSection, where: str) -> dict[str, Measurement]:
    """The metric of peak memory; none where the system does not tell it.

    Raises:
        RefusedError: it is above the target's limit.
    """
    if peak is None:
        return {}
    if target.memory_mb is not None and peak > target.memory_mb * 1_000_000:
        raise RefusedError(
            f"a process that runs it has {peak / 1e6:.1f} MB at its peak, the target gives {target.memory_mb} MB",
            where=target.name, fix="use a smaller network, or another target",
        )  # fmt: skip
    about = f"{where}: a process of Python, numpy and onnxruntime that opens and runs the file"
    return {"memory.peak_bytes": exact("memory.peak_bytes", float(peak), about)}


def _on_device(files: Mapping[str, Path], same: Mapping[str, str], images: NDArray[np.uint8], timing: Timing) -> Timed:
    target = timing.target
    contents = {name: read_bounded(path, MAX_BYTES, "an ONNX file") for name, path in files.items()}
    opened = {
        name: OnnxClassifier(content, threads=1, input_spec=timing.specs.get(name))
        for name, content in contents.items()
    }
    few = {name: whole_batches(images[:PARITY_IMAGES], one.batch) for name, one in opened.items()}
    order = DeviceOrder(
        target=target,
        models=tuple(contents.values()),
        runs=timing.runs,
        images=tuple(prepare(few[name], one.input_spec) for name, one in opened.items()),
        outputs=tuple(one.scores(few[name], 1) for name, one in opened.items()),
        task=timing.task,
    )
    times = measure_on_device(order)
    _require_parity(times, opened, timing.task)
    host = times.report.host
    where = f"{target.name} ({host.cpu}, {host.system})"
    samples = {
        name: LatencySamples(ms, target.threads, target.provider, opened[name].batch or 1, where)
        for name, ms in zip(files, times.milliseconds, strict=True)
    }
    found = _summarised(samples, same)
    memory = _memory(times.report.files[0].peak_bytes, target, where)
    return replace(found, candidate=found.candidate | memory, device=times.report)


def _require_parity(times: DeviceTimes, opened: Mapping[str, OnnxClassifier], task: Task) -> None:
    """Refuse a device whose outputs differ from this host's by more than rounding."""
    rules = rules_of(task)
    for (name, classifier), file in zip(opened.items(), times.report.files, strict=True):
        most = rules.tolerance(quantised=classifier.quantised)
        if file.parity is not None and file.parity.max_abs > most:
            raise ParityError(
                f"outputs of the {name} differ by up to {file.parity.max_abs:.2g} from this host's, "
                f"more than {most:.2g}",
                where=times.report.target, fix="use the onnxruntime of this host there, too",
            )  # fmt: skip
