"""The frozen records that travel between stages and into the study directory.

Rules: rates are fractions in [0, 1]; latencies are milliseconds; NLL is in nats; a hash is "sha256:<64 hex digits>";
no NaN and no infinity is ever held. Everything here is JSON, except `Evidence` and `ImageSet`, which hold arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Artefact",
    "Cell",
    "Comparison",
    "DataBundle",
    "DataIdentity",
    "Evidence",
    "GateResult",
    "GateStatus",
    "Host",
    "ImageSet",
    "LayerRecord",
    "Lineage",
    "Measurement",
    "Measurements",
    "Parity",
    "Proof",
    "Record",
    "StudyRecord",
    "SurgeryRecord",
    "Temperature",
    "Unit",
    "VariantEntry",
    "VariantRecord",
    "Verdict",
]

STUDY_SCHEMA = "edgesafe.study/1"
VARIANT_SCHEMA = "edgesafe.variant/1"
MEASUREMENTS_SCHEMA = "edgesafe.measurements/1"
VERDICT_SCHEMA = "edgesafe.verdict/1"


class Record(BaseModel):
    """Base of all records: frozen, no unknown keys, no non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


# ---------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: uint8 (N, H, W, C), C = 3 (RGB) or 1; C-contiguous.
        labels: int64 (N,), 0 <= label < number of classes.
        sha256: hash of images and labels (see `data.identity`).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataBundle:
    """A data set, split. `validation` overlaps neither `train` nor `test`; `test` is touched by measuring only."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]  #: per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    licence: str = ""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)


class DataIdentity(Record):
    """What was measured on."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  #: (H, W, C)
    train_n: int
    validation_n: int
    test_n: int
    train_sha256: str
    validation_sha256: str
    test_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


# ------------------------------------------------------------------------------------------------------- surgery


class LayerRecord(Record):
    """One convolution or linear layer before and after. For `weight`, the channels stay and `sparsity` changes."""

    name: str  #: module path, for example "layer1.0.conv1"
    kind: str  #: "Conv2d", "Linear", …
    out_before: int
    out_after: int
    in_before: int
    in_after: int
    params_before: int  #: weight (and bias) elements
    params_after: int
    sparsity: float = 0.0  #: share of weights that are exactly zero, after
    criterion: dict[str, float] = Field(default_factory=dict)  #: min, median, max, threshold of the scores
    note: str = ""  #: for a layer left alone: why


class Proof(Record):
    """What was proven about a surgery. `equivalence` compares with the original net, removed channels zeroed."""

    method: str  #: "mask-equivalence", "masked-weights" (unstructured), or "none" with a reason
    equivalence: float | None = None  #: max relative difference of the logits
    tolerance: float = 1e-5
    reason: str = ""  #: why equivalence does not apply (for example LayerNorm over channels)
    batch_sizes: tuple[int, ...] = ()
    classifier_intact: bool
    min_channels: int | None = None


class SurgeryRecord(Record):
    """What pruning did."""

    method: str
    ratio: float
    criterion: str
    scope: str
    round_to: int = 1
    rewrites: tuple[str, ...] = ()  #: module paths whose shortcut was rewritten
    layers: tuple[LayerRecord, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    nonzero_params: int
    sparsity: float  #: share of convolution weights that are exactly zero
    proof: Proof
    notes: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------------- files


class Artefact(Record):
    """A file of a variant."""

    file: str
    sha256: str
    bytes: int
    transport_bytes: int | None = None  #: size when compressed for transport by `compressor`
    compressor: str = ""


class Parity(Record):
    """Agreement of an exported file with what it came from."""

    file: str
    reference: str  #: "torch" or a file name
    max_abs_logit: float
    argmax_agreement: float  #: fraction
    n: int
    bit_equal: bool = False


class Temperature(Record):
    """Temperature scaling (Guo et al. 2017), fitted on validation images only."""

    value: float
    nll_before: float
    nll_after: float
    n: int
    data_sha256: str


class Lineage(Record):
    """Hashes of everything that a variant came from."""

    recipe_sha256: str
    baseline_sha256: str  #: model.safetensors of the baseline of the same seed
    data_sha256: str
    seed: int


class VariantRecord(Record):
    """variant.json."""

    schema_: Literal["edgesafe.variant/1"] = Field(default="edgesafe.variant/1", alias="schema")
    id: str
    method: str  #: "baseline" or a method of the recipe
    ratio: float
    seed: int
    arch: str
    num_classes: int
    input_shape: tuple[int, int, int]  #: (H, W, C)
    model_args: dict[str, Any] = Field(default_factory=dict)
    surgery: SurgeryRecord | None = None
    artefacts: tuple[Artefact, ...] = ()
    parity: tuple[Parity, ...] = ()
    temperature: Temperature | None = None
    opset: int | None = None
    params: int
    macs: int | None  #: per image; None: not known (a file that edgesafe did not make)
    sparsity: float
    recovery: dict[str, float | int | str] = Field(default_factory=dict)
    lineage: Lineage

    def artefact(self, file: str) -> Artefact | None:
        """The artefact of that name, or None."""
        return next((a for a in self.artefacts if a.file == file), None)


# ----------------------------------------------------------------------------------------------------- measuring


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


@dataclass(frozen=True)
class Cell:
    """One (corruption, severity), or clean = ("", 0). All arrays have n rows."""

    corruption: str
    severity: int
    index: NDArray[np.int64]  #: position in the test set
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]  #: top-1, of the float64 softmax
    nll: NDArray[np.float64]  #: of the label, nats
    margin: NDArray[np.float64]  #: logit of the label minus the best other


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of one ONNX file: enough to recompute every metric without inference.

    Attributes:
        clean: the cell of the untouched test images.
        logits: float32 (n, K), of `clean`.
        cells: the corrupted cells, keyed by (corruption, severity).
        meta: generator, profile, seed, data hash, file hash (strings and numbers only).
    """

    clean: Cell
    logits: NDArray[np.float32]
    cells: Mapping[tuple[str, int], Cell] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


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


# ----------------------------------------------------------------------------------------------------- the study


class Host(Record):
    """Where it ran."""

    cpu: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


class VariantEntry(Record):
    """A line of the study's list of variants."""

    id: str
    method: str
    ratio: float
    seed: int
    status: Literal["pending", "done", "refused"]
    reason: str = ""  #: refused: the error message
    digest: str = ""  #: hash over the variant's reproducible files
    records: dict[str, str] = Field(default_factory=dict)  #: hashes of variant.json and measurements.json, once done


class StudyRecord(Record):
    """study.json."""

    schema_: Literal["edgesafe.study/1"] = Field(default="edgesafe.study/1", alias="schema")
    name: str
    edgesafe: str  #: version
    recipe: dict[str, Any]  #: resolved: every default filled in
    recipe_sha256: str
    inputs: dict[str, str] = Field(default_factory=dict)  #: hashes of the files it started from (weights, model file)
    data: DataIdentity
    host: Host
    variants: tuple[VariantEntry, ...]
    digest: str = ""  #: over all variants' digests, once all are done


# ------------------------------------------------------------------------------------------------------ deciding


class GateStatus(StrEnum):
    """What became of one gate."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    MISSING = "missing"  #: no such metric, or no baseline: never a pass
    REFUSED = "refused"  #: a decision would be invalid: too few samples, or a limit below the noise floor


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
