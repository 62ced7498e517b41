"""Hashes of the files that a study starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgesafe.errors import PolicyError, WeightsError
from edgesafe.files import is_file, sha256_file

__all__ = ["input_hashes"]


def input_hashes(*, weights: Mapping[str, str], arch: str, policy: Path | None = None) -> dict[str, str]:
    """Hashes of the files that a study starts from: weights, the model's source if it is a user's file, the policy.

    Args:
        weights: weights files by name.
        arch: of the recipe.
        policy: a file.

    Raises:
        WeightsError, PolicyError: a file is not there.
    """
    hashes: dict[str, str] = {}
    for name, said in weights.items():
        path = said if is_file(Path(said)) else said.partition("#")[0]  # FILE#KEY: the key stands in the recipe
        if not is_file(Path(path)):
            raise WeightsError(
                "no such file", where=path, fix="check model.weights; the path is relative to where you run"
            )
        hashes[name] = sha256_file(Path(path))
    if policy is not None:
        if not is_file(policy):
            fix = "check evaluate.policy, or `edgesafe policy init` one"
            raise PolicyError("no such file", where=str(policy), fix=fix)
        hashes["policy"] = sha256_file(policy)
    source = Path(arch.rpartition(":")[0])
    if source.suffix == ".py" and is_file(source):
        hashes["model source"] = sha256_file(source)
    return hashes
