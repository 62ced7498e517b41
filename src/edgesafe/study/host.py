"""What the pipeline writes down beside the results: hashes of inputs, the host, and the keepers of finished parts."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from edgesafe.errors import PolicyError, WeightsError
from edgesafe.records import Artefact, Host
from edgesafe.study.files import sha256_bytes, sha256_file, stage_key
from edgesafe.study.writer import StudyWriter

__all__ = ["Files", "Kept", "host", "input_hashes"]

_PACKAGES = ("edgesafe", "torch", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


class Kept:
    """The state of one stage of one owner in the study directory; it is found again only if the key is the same.

    Serves both as training checkpoints (`load`, `save`) and as keeper of parts (`get`, `put`).
    """

    def __init__(self, study: StudyWriter, owner: str, name: str, key: str) -> None:
        self._study, self._owner, self._name, self._key = study, owner, name, key

    def load(self) -> bytes | None:
        """The state after the last finished epoch."""
        return self._study.stage(self._owner, self._name, self._key)

    def save(self, state: bytes) -> None:
        """Keep the state."""
        self._study.put_stage(self._owner, self._name, self._key, state)

    def get(self, name: str) -> bytes | None:
        """A finished part."""
        return self._study.stage(self._owner, f"{self._name}-{name}", stage_key(part=name, of=self._key))

    def put(self, name: str, data: bytes) -> None:
        """Keep a part."""
        self._study.put_stage(self._owner, f"{self._name}-{name}", stage_key(part=name, of=self._key), data)


class Files:
    """Writes the files of one variant and remembers what was written."""

    def __init__(self, study: StudyWriter, variant: str) -> None:
        self._study, self._variant = study, variant
        self.artefacts: list[Artefact] = []

    def __call__(self, name: str, data: bytes, *, compressed: tuple[int, str] | None = None) -> None:
        """Write a file; `compressed` is its size for transport and the name of the compressor."""
        artefact = self._study.put_file(self._variant, name, data)
        if compressed is not None:
            artefact = artefact.model_copy(update={"transport_bytes": compressed[0], "compressor": compressed[1]})
        self.artefacts.append(artefact)


def host() -> Host:
    """This machine: CPU name, usable cores, system, Python, versions of what computes."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Host(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def input_hashes(*, weights: str | None, arch: str, policy: str | None = None) -> dict[str, str]:
    """Hashes of the files that a study starts from: weights, the model's source if it is a user's file, the policy.

    Raises:
        WeightsError, PolicyError: a file is not there.
    """
    found: dict[str, str] = {}
    if weights is not None:
        if not Path(weights).is_file():
            raise WeightsError(
                "no such file", where=weights, fix="check model.weights; the path is relative to where you run"
            )
        found["weights"] = sha256_file(Path(weights))
    if policy is not None:
        if not Path(policy).is_file():
            raise PolicyError("no such file", where=policy, fix="check evaluate.policy, or `edgesafe policy init` one")
        found["policy"] = sha256_file(Path(policy))
    source = Path(arch.rpartition(":")[0])
    if source.suffix == ".py" and source.is_file():
        found["model source"] = sha256_bytes(source.read_bytes())
    return found
