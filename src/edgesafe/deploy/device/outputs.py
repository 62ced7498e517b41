"""What a file puts out on a device: images go there with the stand-alone script, the outputs come back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.deploy.device.connection import Connection, persist
from edgesafe.deploy.device.script import ScriptOutputs, address, connected, npy, parsed, run_script
from edgesafe.deploy.device.transfer import name_of, put
from edgesafe.errors import DeviceError
from edgesafe.files import sha256_bytes
from edgesafe.recipe.sections import TargetSection
from edgesafe.recipe.shipped import device_script
from edgesafe.records import DeviceAgreement, Record

__all__ = ["agreement", "outputs_on_device"]


class _Result(Record):
    file: str
    sha256: str
    outputs: ScriptOutputs


class _Answer(Record):
    host: dict[str, Any]
    setting: dict[str, Any]
    results: tuple[_Result]


def outputs_on_device(
    target: TargetSection, model: bytes, images: NDArray[Any], connection: Connection | None = None
) -> NDArray[np.float32]:
    """The outputs of a file on images, computed by the device in batches of the size that the file fixes, else of 1.

    Args:
        target: with its [ssh] table; threads and provider.
        model: the file.
        images: as the file takes them, whole batches.
        connection: of the target's [ssh]; None: it is made.

    Returns:
        float32 (n, K), finite.

    Raises:
        DeviceError: the device is not reached, drops out for good, is full, lacks Python, a package or the provider, or
            what it answers cannot be used.
    """
    ssh = address(target)
    link = connection or connected(ssh)
    script, packed, folder = device_script().read_bytes(), npy(images), ssh.workdir
    program, file, pixels = name_of(script, ".py"), name_of(model, ".onnx"), name_of(packed, ".npy")
    put(link, folder, [(program, script), (file, model), (pixels, packed)])
    words = [ssh.python, program, file, "--only-outputs", "--images", pixels]
    words += ["--threads", str(target.threads), "--provider", target.provider]
    key = sha256_bytes("\n".join(words).encode())[7:31]
    said = persist(link, lambda: run_script(link, folder, words, key))
    persist(link, lambda: link.run(["rm", "-f", f"{folder}/{key}.error", f"{folder}/{pixels}"]))
    (result,) = parsed(said, _Answer, "outputs", link.where).results
    outputs = result.outputs.values()
    if result.sha256 != sha256_bytes(model) or len(outputs) != len(images) or not np.isfinite(outputs).all():
        raise DeviceError("outputs of another file, of other images, or NaN", where=link.where, fix="run it again")
    return outputs


def agreement(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> DeviceAgreement:
    """How far a device's outputs are from this host's on the same images: both float32 (n, K), n >= 0."""
    mine, other = ours.astype("<f4").tobytes(), theirs.astype("<f4").tobytes()
    return DeviceAgreement(
        bit_equal=mine == other,
        max_abs=float(np.abs(ours - theirs).max(initial=0.0)),
        host_sha256=sha256_bytes(mine),
        device_sha256=sha256_bytes(other),
    )
