"""The decision of a policy on a study."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.measurements import Unit

__all__ = ["GateResult", "GateStatus", "Verdict"]


class GateStatus(StrEnum):
    """What a policy decided of one gate on one variant, or why it could not be decided."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    MISSING = "missing"  #: no such metric, or no baseline: never a pass
    REFUSED = "refused"  #: a decision would be invalid: too few samples, or a limit below the noise floor

    @property
    def passes(self) -> bool:
        """Whether it stands in nobody's way: a pass, or a waived failure."""
        return self in (GateStatus.PASS, GateStatus.WAIVED)


class GateResult(Record):
    """One gate's decision on one variant."""

    id: str
    variant: str
    metric: str
    level: Literal["error", "warn"]
    status: GateStatus
    rule: str  #: "max 6.0pp", "max_drop 1.0pp", …
    limit: float | None = None  #: in `unit`, as applied
    estimate: float | None = None
    low: float | None = None  #: the bounds the decision used
    high: float | None = None
    n: int | None = None
    method: str = ""
    unit: Unit | None = None
    message: str
    blocking: bool = False  #: this result alone makes the exit code non-zero
    baseline: str | None = None  #: what a relative rule compared with
    confidence: float | None = None  #: one-sided, of `low` and of `high` each
    p_value: float | None = None  #: of the fail alarm, after the correction for multiplicity
    noise_floor: float | None = None  #: of an ECE, in `unit`
    waiver: str = ""  #: who waived it, until when, and why


class Verdict(Record):
    """The gates of one study, and the exit code they mean."""

    schema_: Literal["edgesafe.verdict/1"] = Field(default="edgesafe.verdict/1", alias="schema")
    study: str
    policy_sha256: str
    profile: str = ""
    variants: tuple[str, ...]
    gates: tuple[GateResult, ...]
    overall: GateStatus
    exit_code: int
    notes: tuple[str, ...] = ()
    candidates: dict[str, str] = Field(default_factory=dict)  #: variant id -> hash of the ONNX file that was measured
