"""What the model of a bundle puts out on the packed images: computed when it is made, compared when it is verified."""

from __future__ import annotations

import math
import platform
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgesafe.deploy.bundle.layout import IMAGES, OUTPUTS
from edgesafe.deploy.ort_format import Platform, runs_here
from edgesafe.errors import IntegrityError
from edgesafe.files import sha256_bytes
from edgesafe.measure.inference.session import open_session
from edgesafe.records import BundleFacts, BundleOrt, BundleTensors, TaskKind

__all__ = ["answers_sha256", "compare", "compare_ort", "outputs_of", "outputs_sha256", "runtime"]


def runtime() -> str:
    """What computes here: "onnxruntime 1.31.1, Linux x86_64"."""
    return f"onnxruntime {onnxruntime.__version__}, {platform.system()} {platform.machine()}"


def outputs_of(model: bytes, packed: NDArray[Any], facts: BundleFacts, where: str = "") -> NDArray[np.float32]:
    """The outputs on packed images, run as the examples run them.

    Args:
        model: the file.
        packed: uint8 or float32 (n, …), as the model takes them; n is a multiple of the batch.
        facts: names of the tensors, images of a run, threads and provider.
        where: the file, for messages; empty: the model.

    Returns:
        float32 (n, K), little-endian.

    Raises:
        UsageError, RefusedError: the model does not open.
    """
    batch, tensors = facts.samples.batch, facts.tensors
    session = open_session(
        model, threads=facts.target.threads, provider=facts.target.provider, where=where or facts.model
    )
    runs = [
        session.run([tensors.output], {tensors.input: packed[start : start + batch]})[0]
        for start in range(0, len(packed), batch)
    ]
    return np.concatenate(runs).astype("<f4")


def outputs_sha256(outputs: NDArray[np.float32]) -> str:
    """Hash of the outputs, float32 little-endian, image after image."""
    return sha256_bytes(outputs.astype("<f4").tobytes())


def answers_sha256(outputs: NDArray[np.float32], tensors: BundleTensors) -> str | None:
    """Hash of the classes answered, int32 little-endian; None: keypoints, whose outputs are the answer."""
    if tensors.task is TaskKind.KEYPOINTS:
        return None
    return sha256_bytes(outputs.argmax(axis=1).astype("<i4").tobytes())


def unpacked(content: bytes, tensors: BundleTensors, count: int) -> NDArray[np.uint8] | NDArray[np.float32]:
    """The packed images.

    Raises:
        IntegrityError: not so many bytes as that many images have.
    """
    h, w, c = tensors.image
    shape = (count, h, w, c) if tensors.layout == "NHWC" else (count, c, h, w)
    kind = np.dtype("u1" if tensors.dtype == "uint8" else "<f4")
    if len(content) != math.prod(shape) * kind.itemsize:
        raise IntegrityError(f"{len(content):,} bytes are not {count} images of {shape[1:]}", where=IMAGES, fix=_FIX)
    return np.frombuffer(content, kind).reshape(shape)


def compare_ort(
    content: bytes, found: BundleOrt, packed: NDArray[Any], wanted: NDArray[np.float32], facts: BundleFacts
) -> str:
    """Run a file in onnxruntime's format on the packed images, if this is a machine of its kind.

    Raises:
        IntegrityError: it puts out something else than the model.
        UsageError, RefusedError: it does not open.
    """
    if not runs_here(Platform(found.platform)):
        return f"{found.file} is for {found.platform}: not run here"
    apart = float(np.abs(outputs_of(content, packed, facts, found.file) - wanted).max())
    if not apart <= facts.samples.tolerance:  # not: NaN is no agreement
        raise IntegrityError(f"outputs differ from the model's by up to {apart:.2g}", where=found.file, fix=_FIX)
    return f"{found.file}: to {apart:.1e}"


def compare(model: bytes, images: bytes, packed_outputs: bytes, facts: BundleFacts) -> str:
    """Run the model on the packed images; gives in words how far the outputs are from the expected ones.

    Raises:
        IntegrityError: the packed outputs are not those of the manifest, or the model puts out others.
        UsageError, RefusedError: the model does not open.
    """
    samples, tensors = facts.samples, facts.tensors
    size = 4 * len(samples.index) * tensors.columns
    if sha256_bytes(packed_outputs) != samples.sha256 or len(packed_outputs) != size:
        raise IntegrityError("not the outputs that the manifest names", where=OUTPUTS, fix=_FIX)
    wanted = np.frombuffer(packed_outputs, "<f4").reshape(len(samples.index), tensors.columns)
    if answers_sha256(wanted, tensors) != samples.answers_sha256:
        raise IntegrityError("answers are not those that the manifest names", where=OUTPUTS, fix=_FIX)
    found = outputs_of(model, unpacked(images, tensors, len(samples.index)), facts)
    if found.shape != wanted.shape:
        raise IntegrityError(f"puts out {found.shape}, not {wanted.shape}", where=facts.model, fix=_FIX)
    if outputs_sha256(found) == samples.sha256:
        return f"equal to the expected {samples.sha256}, bit for bit"
    apart = float(np.abs(found - wanted).max())
    if (
        not apart <= samples.tolerance or answers_sha256(found, tensors) != samples.answers_sha256
    ):  # not: NaN is no agreement
        raise IntegrityError(f"outputs differ from the expected ones by up to {apart:.2g}", where=facts.model, fix=_FIX)
    return f"the same answers; outputs differ by at most {apart:.2g} ({runtime()}; expected: {samples.runtime})"


_FIX = "get the bundle again from who made it"
