"""measurements.json: every metric of a variant, and its paired differences to a baseline."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from edgesafe.records.base import Record

__all__ = ["Comparison", "Measurement", "Measurements", "Unit"]


MEASUREMENTS_SCHEMA = "edgesafe.measurements/1"


class Unit(StrEnum):
    """Units of metrics."""

    FRACTION = "fraction"  #: a rate or a calibration error, in [0, 1]
    NATS = "nats"
    SCORE = "score"  #: Brier, AURC
    MS = "ms"
    RATIO = "ratio"
    BYTES = "bytes"
    COUNT = "count"
    LOGIT = "logit"


class Measurement(Record):
    """One number: its estimate, its interval, and how both were got."""

    metric: str
    estimate: float
    low: float | None = None  #: two-sided interval at `confidence`; None where the number is exact (sizes, MACs)
    high: float | None = None
    se: float | None = None  #: standard error
    confidence: float = 0.95
    n: int  #: images (or runs) it rests on
    method: str  #: "wilson", "bootstrap", "paired-normal", "stratified", "exact", …
    unit: Unit
    population: str = ""  #: what the interval is about
    noise_floor: float | None = None  #: ECE: the 95th percentile that a perfectly calibrated net would show at this n
    details: dict[str, float] = Field(default_factory=dict)


class Comparison(Record):
    """A paired difference, candidate minus baseline, on the same images and the same corrupted pixels."""

    metric: str
    estimate: float
    low: float | None = None
    high: float | None = None
    se: float | None = None
    confidence: float = 0.95
    n: int
    method: str
    unit: Unit
    candidate: float  #: the two values compared
    baseline: float
    population: str = ""  #: what the interval is about
    details: dict[str, float] = Field(default_factory=dict)


class Measurements(Record):
    """measurements.json."""

    schema_: Literal["edgesafe.measurements/1"] = Field(default="edgesafe.measurements/1", alias="schema")
    variant: str
    baseline: str | None = None  #: id of the baseline the differences are against
    onnx_sha256: str
    evidence_sha256: str
    test_sha256: str
    metrics: dict[str, Measurement]
    differences: dict[str, Comparison] = Field(default_factory=dict)
    meta: dict[str, Any] = Field(default_factory=dict)  #: corruption generator, provider, threads, host CPU
