"""measurements.json: every metric of a variant, and its paired differences to a baseline."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.device import DeviceReport
from edgesafe.records.names import Name
from edgesafe.records.provenance import CorruptionIdentity, Sample, Target
from edgesafe.records.study import Host

__all__ = ["Comparison", "IntervalMethod", "Measurement", "Measurements", "Population", "PopulationKind", "Unit"]


class Unit(StrEnum):
    """What a metric's numbers are in, as they are stored."""

    FRACTION = "fraction"  #: a rate or a calibration error, in [0, 1]
    NATS = "nats"
    SCORE = "score"  #: Brier, AURC
    MS = "ms"
    RATIO = "ratio"
    BYTES = "bytes"
    COUNT = "count"
    LOGIT = "logit"
    PIXELS = "px"


class IntervalMethod(StrEnum):
    """How a number's interval was got."""

    EXACT = "exact"  #: counted: there is no interval
    WILSON = "wilson"
    WILSON_KEPT = "wilson, threshold taken as given"  #: of the images that a confidence threshold keeps
    NORMAL = "normal"
    PAIRED_NORMAL = "paired-normal"
    PAIRED_ADJUSTED = "paired-adjusted"  #: Bonett & Price 2012
    CLUSTER_IMAGE = "cluster-image"  #: over cells that share their images
    CLUSTER_CELL = "cluster-cell"  #: over cells that drew their own images
    PAIRED_CLUSTER_IMAGE = "paired-cluster-image"
    PAIRED_CLUSTER_CELL = "paired-cluster-cell"
    BOOTSTRAP = "bootstrap"
    PAIRED_BOOTSTRAP = "paired-bootstrap"
    SESSIONS = "sessions-t"  #: of latencies: Student's t over sessions of the file
    JACKKNIFE_LOG = "jackknife-log"
    MARGIN_STRATA = "margin-strata"
    PAIRED_MARGIN_STRATA = "paired-margin-strata"
    LARGEST_BIN = "largest bin, no interval"

    @property
    def is_paired(self) -> bool:
        """Whether it is of differences on the same images."""
        return self.value.startswith("paired-")

    @property
    def paired(self) -> IntervalMethod:
        """The same method, of differences on the same images.

        Raises:
            ValueError: there is none.
        """
        return IntervalMethod(f"paired-{self.value}")


class PopulationKind(StrEnum):
    """What an interval makes a statement about."""

    IMAGES = "images"  #: new images like those measured
    BENCHMARK = "benchmark"  #: what measuring the whole fixed benchmark would give
    FILE = "file"  #: this very file: nothing was drawn
    HOST = "host"  #: this machine


class Population(Record):
    """What an interval makes a statement about, and in words which images, file or machine."""

    kind: PopulationKind
    description: str


class _Stated(Record):
    """A number with its interval, and how both were got."""

    metric: str
    estimate: float
    low: float | None = None  #: two-sided interval at `interval_level`; None where the number is exact (sizes, MACs)
    high: float | None = None
    se: float | None = None  #: standard error
    interval_level: float = 0.95
    n: int  #: images (or runs) it rests on
    method: IntervalMethod
    unit: Unit


class Measurement(_Stated):
    """One number: its estimate, its interval, and how both were got."""

    population: Population | None = None  #: what the interval is about; None: not stated
    noise_floor: float | None = None  #: ECE: the 95th percentile that a perfectly calibrated net would show at this n
    details: dict[str, float] = Field(default_factory=dict)


class Comparison(_Stated):
    """A paired difference, candidate minus baseline, on the same images and the same corrupted pixels."""

    candidate: float  #: the two values compared
    baseline: float
    population: Population | None = None  #: what the interval is about; None: not stated
    details: dict[str, float] = Field(default_factory=dict)


class Measurements(Record):
    """The content of measurements.json: the metrics of a variant, their paired differences, and what they rest on."""

    schema_: Literal["edgesafe.measurements/2"] = Field(default="edgesafe.measurements/2", alias="schema")
    variant: Name
    baseline: Name | None = None  #: id of the baseline the differences are against
    onnx_sha256: str
    evidence_sha256: str
    certificates_sha256: str | None = None  #: None: nothing was certified
    test_sha256: str
    corruptions: CorruptionIdentity | None = None  #: None: clean images only
    sample: Sample | None = None  #: None: no image was drawn at random
    target: Target
    host: Host
    device: DeviceReport | None = None  #: where it was timed, if not on `host`
    metrics: dict[str, Measurement]
    differences: dict[str, Comparison] = Field(default_factory=dict)
    sibling: Name | None = None  #: not fp32: id of the fp32 variant with the same weights
    sibling_differences: dict[str, Comparison] = Field(default_factory=dict)  #: candidate minus sibling

    @property
    def timed_on(self) -> Host:
        """The machine that latency was measured on."""
        return self.device.host if self.device is not None else self.host
