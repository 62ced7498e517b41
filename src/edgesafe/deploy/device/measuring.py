"""ONNX files timed on a device: the stand-alone script of `export/` is copied there with them, and run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgesafe.deploy.device.connection import Connection, persist
from edgesafe.deploy.device.outputs import agreement
from edgesafe.deploy.device.script import ScriptOutputs, address, connected, npy, parsed, run_script
from edgesafe.deploy.device.transfer import name_of, put
from edgesafe.errors import DeviceError
from edgesafe.files import sha256_bytes
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import TargetSection
from edgesafe.recipe.shipped import device_script
from edgesafe.records import DeviceFile, DeviceParity, DeviceReport, Host, Record, Task

__all__ = ["DeviceOrder", "DeviceTimes", "measure_on_device"]


@dataclass(frozen=True)
class DeviceOrder:
    """What is measured on a device.

    Attributes:
        target: with its [ssh] table; threads and provider.
        models: the files, the first being what the others are compared with.
        runs: timed runs of each, over all sessions.
        images: for each model the images whose outputs are compared, as that file takes them; empty: none are.
        outputs: for each model what the host got on them, float32 (n, K).
        task: what they are answers to.
    """

    target: TargetSection
    models: tuple[bytes, ...]
    runs: int
    images: tuple[NDArray[Any], ...] = ()
    outputs: tuple[NDArray[np.float32], ...] = ()
    task: Task = field(default_factory=Task)


@dataclass(frozen=True)
class DeviceTimes:
    """What came back: the report, and ms of every run of each file, float64 (sessions, runs); outputs by file."""

    report: DeviceReport
    milliseconds: tuple[NDArray[np.float64], ...]
    outputs: tuple[NDArray[np.float32], ...]


class _Result(Record):
    file: str
    sha256: str
    p50_ms: float
    p90_ms: float
    min_ms: float
    ratio_to_first: float
    open_ms: float
    peak_bytes: int | None
    before_bytes: int | None
    ms: tuple[tuple[float, ...], ...]
    outputs: ScriptOutputs | None = None


class _Machine(Host):
    machine: str


class _Answer(Record):
    host: _Machine
    setting: dict[str, Any]
    results: tuple[_Result, ...] = Field(min_length=1)


def measure_on_device(order: DeviceOrder, connection: Connection | None = None) -> DeviceTimes:
    """Copy what is not there yet, run the protocol of DESIGN section 6, bring back what it found.

    A broken connection is taken up again: files that are there are not copied again, sessions that were finished are
    not run again, and a run that goes on without its connection is waited for.

    Args:
        order: what is measured.
        connection: of the target's [ssh]; None: it is made.

    Raises:
        DeviceError: the device is not reached, drops out for good, is full, lacks Python, a package or the provider, or
            what it answers cannot be used.
    """
    ssh = address(order.target)
    connection, folder = connection or connected(ssh), ssh.workdir
    script = device_script().read_bytes()
    packed = [npy(images) for images in order.images]
    names = [name_of(model, ".onnx") for model in order.models]
    image_names = [name_of(content, ".npy") for content in packed]
    program = name_of(script, ".py")
    files = [(program, script), *zip(names, order.models, strict=True), *zip(image_names, packed, strict=True)]
    put(connection, folder, dict(files).items())
    words = [ssh.python, program, *names, "--samples", "--runs", str(order.runs)]
    words += ["--threads", str(order.target.threads), "--provider", order.target.provider]
    key = sha256_bytes(json.dumps([*words, *image_names]).encode())[7:31]
    words += ["--state", f"{key}.jsonl", *(["--images", *image_names] if image_names else [])]
    said = persist(connection, lambda: run_script(connection, folder, words, key))
    answer = _parsed(said, connection, order)
    leftovers = [f"{folder}/{key}.{ending}" for ending in ("jsonl", "error")]
    persist(connection, lambda: connection.run(["rm", "-f", *leftovers]))  # the next measurement is a new one
    return _times(answer, order)


def _parsed(said: bytes, connection: Connection, order: DeviceOrder) -> _Answer:
    answer = parsed(said, _Answer, "results", connection.where)
    found = [result.sha256 for result in answer.results]
    if found != [sha256_bytes(model) for model in order.models]:
        raise DeviceError("timed other files than were sent", where=connection.where, fix="run it again")
    if order.images and any(result.outputs is None for result in answer.results):
        raise DeviceError("gives no outputs", where=connection.where, fix="run it again")
    lengths = [{len(session) for session in result.ms} for result in answer.results]
    if any(len(one) != 1 or 0 in one for one in lengths):
        raise DeviceError("gives no times, or sessions of different length", where=connection.where, fix="run it again")
    return answer


def _times(answer: _Answer, order: DeviceOrder) -> DeviceTimes:
    outputs = tuple(result.outputs.values() for result in answer.results if result.outputs is not None)
    compared = zip(order.outputs, outputs, strict=True) if order.outputs else ()
    found = [_parity(ours, theirs, order.task) for ours, theirs in compared]
    parities: list[DeviceParity | None] = [*found] if found else [None] * len(order.models)
    files = tuple(
        DeviceFile(
            sha256=result.sha256, open_ms=result.open_ms, peak_bytes=result.peak_bytes,
            before_bytes=result.before_bytes, parity=parity,
        )
        for result, parity in zip(answer.results, parities, strict=True)
    )  # fmt: skip
    report = DeviceReport(
        target=order.target.name,
        host=Host.model_validate(answer.host.model_dump(exclude={"machine"})),
        threads=order.target.threads,
        provider=order.target.provider,
        files=files,
    )
    return DeviceTimes(report, tuple(np.array(result.ms, np.float64) for result in answer.results), outputs)


def _parity(ours: NDArray[np.float32], theirs: NDArray[np.float32], task: Task) -> DeviceParity:
    """How far the device's outputs are from the host's.

    Raises:
        DeviceError: they are of another shape, or not finite.
    """
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        raise DeviceError(f"puts out {theirs.shape}, or NaN", where="the device", fix="check its onnxruntime")
    return DeviceParity(
        images=len(ours),
        answers_equal=int(rules_of(task).alike(ours, theirs).sum()),
        **dict(agreement(ours, theirs)),
    )
