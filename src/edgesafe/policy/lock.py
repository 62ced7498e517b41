"""The baseline lock: which baseline file, test set and corruption generator the gate may compare with.

A gate that compares with "the last green build" lets a model erode by a little each time. `edgesafe.lock`, kept under
version control beside the policy, pins the root that every candidate is compared with: changing it is a commit that
somebody reviews.

    schema = "edgesafe.lock/1"
    [baseline."baseline-s0"]
    onnx_sha256 = "sha256:…"
    test_sha256 = "sha256:…"
    corruption_sha256 = "sha256:…"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgesafe.errors import IntegrityError, PolicyError
from edgesafe.files import parse_toml, read_toml
from edgesafe.policy.policy import Policy
from edgesafe.records import CorruptionIdentity, Measurements, Name

__all__ = ["Lock", "Pin", "corruption_sha256", "for_policy", "load", "loads", "pin", "verify"]

SCHEMA = "edgesafe.lock/1"
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Pin(BaseModel):
    """Hashes that a pinned baseline must have: of its ONNX file, its test set and its corruption generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    onnx_sha256: Sha256
    test_sha256: Sha256
    corruption_sha256: Sha256


class Lock(BaseModel):
    """The content of edgesafe.lock: the pinned baselines by variant id, at least one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    schema_: Literal["edgesafe.lock/1"] = Field(default="edgesafe.lock/1", alias="schema")
    baseline: dict[Name, Pin] = Field(min_length=1)


def corruption_sha256(corruptions: CorruptionIdentity | None) -> str:
    """Hash of what corrupted pixels depend on; None: clean images only."""
    content = corruptions.model_dump(mode="json") if corruptions is not None else None
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def pin(baselines: Mapping[str, Measurements]) -> str:
    """The text of a lock file that pins these baselines, in the order of their ids.

    Raises:
        PolicyError: there is none, or an id or a hash cannot be written to a lock.
    """
    if not baselines:
        raise PolicyError("no baseline to pin", fix="name a study that holds a measured baseline")
    pins = {name: _pin_of(baselines[name]) for name in sorted(baselines)}
    lines = ["# The baseline that `edgesafe gate` compares with. Change it only on purpose.", f'schema = "{SCHEMA}"']
    for name, values in pins.items():
        lines += ["", f'[baseline."{name}"]', *(f'{key} = "{value}"' for key, value in values.items())]
    text = "\n".join(lines) + "\n"
    loads(text, source="edgesafe.lock")
    return text


def load(path: Path) -> Lock:
    """Reads and checks a lock file.

    Raises:
        PolicyError: it is missing, damaged, empty or of another schema.
    """
    return _checked(read_toml(path, "a lock that `edgesafe policy pin` wrote", PolicyError)[0], path.name)


def loads(text: str, *, source: str) -> Lock:
    """Reads and checks the text of a lock.

    Args:
        text: TOML.
        source: name of the text in messages.

    Raises:
        PolicyError: it is damaged, empty or of another schema.
    """
    return _checked(parse_toml(text, source, PolicyError), source)


def _checked(tables: Mapping[str, Any], source: str) -> Lock:
    try:
        return Lock.model_validate(tables)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PolicyError(
            f"{where}: {first['msg']}", where=source, fix="write it again with `edgesafe policy pin`"
        ) from error


def for_policy(policy: Policy, policy_path: Path) -> Lock | None:
    """The lock that a policy names, from the policy's own folder; None if it names none."""
    return load(policy_path.parent / policy.data.lock) if policy.data.lock is not None else None


def verify(lock: Lock, baseline: str | None, measured: Measurements | None) -> None:
    """Refuses a baseline that is not the pinned one.

    Args:
        lock: the pins.
        baseline: id of what the candidate is compared with; None: nothing, which is no pinned baseline either.
        measured: of that baseline; None: it has no measurements.

    Raises:
        IntegrityError: the baseline is not there or not pinned, or its file, test set or corruptions differ.
    """
    if baseline is None or measured is None:
        raise IntegrityError(
            f"the baseline that the lock pins was not measured ({baseline or 'none'})",
            where="edgesafe.lock",
            fix="measure the baseline, or ask for absolute gates only",
        )
    expected = lock.baseline.get(baseline)
    if expected is None:
        pinned = ", ".join(sorted(lock.baseline))
        raise IntegrityError(
            f"baseline '{baseline}' is not pinned", where="edgesafe.lock", fix=f"compare with one of: {pinned}"
        )
    for key, actual in _pin_of(measured).items():
        wanted = getattr(expected, key)
        if actual != wanted:
            raise IntegrityError(
                f"{key} of '{baseline}' is {actual[:19]}…, pinned is {wanted[:19]}…",
                where="edgesafe.lock",
                fix="compare with the pinned baseline, or pin the new one on purpose with `edgesafe policy pin`",
            )


def _pin_of(measured: Measurements) -> dict[str, str]:
    return {
        "onnx_sha256": measured.onnx_sha256,
        "test_sha256": measured.test_sha256,
        "corruption_sha256": corruption_sha256(measured.corruptions),
    }
