"""Hashes of the files that a study starts from."""

from __future__ import annotations

from pathlib import Path

from edgesafe.errors import PolicyError, WeightsError
from edgesafe.files import is_file, sha256_file

__all__ = ["input_hashes"]


def input_hashes(*, weights: str | None, arch: str, policy: Path | None = None) -> dict[str, str]:
    """Hashes of the files that a study starts from: weights, the model's source if it is a user's file, the policy.

    Raises:
        WeightsError, PolicyError: a file is not there.
    """
    found: dict[str, str] = {}
    if weights is not None:
        if not is_file(Path(weights)):
            raise WeightsError(
                "no such file", where=weights, fix="check model.weights; the path is relative to where you run"
            )
        found["weights"] = sha256_file(Path(weights))
    if policy is not None:
        if not is_file(policy):
            fix = "check evaluate.policy, or `edgesafe policy init` one"
            raise PolicyError("no such file", where=str(policy), fix=fix)
        found["policy"] = sha256_file(policy)
    source = Path(arch.rpartition(":")[0])
    if source.suffix == ".py" and is_file(source):
        found["model source"] = sha256_file(source)
    return found
