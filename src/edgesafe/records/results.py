"""What a command's `--json` prints: one record per kind of result, schema edgesafe.result/1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.device import DeviceReport
from edgesafe.records.measurements import Measurement
from edgesafe.records.precision import Precision
from edgesafe.records.search import SearchRecord
from edgesafe.records.study import VariantStatus
from edgesafe.records.verdict import Verdict

__all__ = [
    "BenchResult",
    "CommandResult",
    "DoctorResult",
    "Estimate",
    "Fact",
    "FilesResult",
    "InitResult",
    "LinesResult",
    "ModelsResult",
    "SensitivityRow",
    "StudyResult",
    "StudyRow",
]


class CommandResult(Record):
    """The fields that the result of every command begins with: its schema, the command, and its exit code."""

    schema_: Literal["edgesafe.result/1"] = Field(default="edgesafe.result/1", alias="schema")
    command: str
    exit_code: int = 0


class StudyRow(Record):
    """A variant of a study, and every metric that was measured for it."""

    id: str
    method: str
    ratio: float
    seed: int
    precision: Precision = Precision.FP32
    status: VariantStatus
    reason: str = ""
    metrics: dict[str, Measurement] = Field(default_factory=dict)


class StudyResult(CommandResult):
    """compress, evaluate: the variants of the study with their metrics, and the verdict if a policy was given."""

    study: str  #: its directory
    digest: str
    variants: tuple[StudyRow, ...]
    verdict: Verdict | None = None  #: evaluate --policy


class SearchResult(StudyResult):
    """search: the variants that were made, and what was tried, what passed and what it cost."""

    search: SearchRecord | None


class FilesResult(CommandResult):
    """report, corrupt, fetch: what was written, or was there already."""

    files: tuple[str, ...]


class LinesResult(CommandResult):
    """compress --show-recipe, policy init, check and pin: a text, line by line, and the file it went to."""

    lines: tuple[str, ...]
    file: str | None = None


class BenchResult(CommandResult):
    """bench: metrics by file, in the order of the command line."""

    files: dict[str, dict[str, Measurement]]
    device: DeviceReport | None = None  #: where they were timed; None: here


class SensitivityRow(Record):
    """What narrowing one layer alone costs."""

    layer: str
    layers: tuple[str, ...]  #: narrowed with it
    ratio: float
    accuracy: float
    drop: float
    macs_saved: float


class ModelsResult(CommandResult):
    """models: architectures by name with a summary; or each layer's sensitivity."""

    architectures: dict[str, str] = Field(default_factory=dict)
    params: int | None = None  #: of the one that was asked for
    macs: int | None = None
    sensitivity: tuple[SensitivityRow, ...] = ()


class Estimate(Record):
    """What a study will take on this machine, from a short measurement: a rough figure, not a promise."""

    train_s: float  #: training baselines, and sparsity training
    recover_s: float  #: BatchNorm re-estimation and fine-tuning
    export_s: float  #: exporting files, proving them, timing them
    measure_s: float  #: corrupting images and running the files on them
    certify_s: float = 0.0  #: running every image of the sets, as if none ended early; 0 also for engine "line"
    certify_images: int = 0  #: that one file is run on for that, at most
    disk_bytes: int
    images: int  #: that one file is measured on
    variants: int  #: that are left to make, baselines included

    @property
    def seconds(self) -> float:
        """Training, recovery, export, measuring and certifying together."""
        return self.train_s + self.recover_s + self.export_s + self.measure_s + self.certify_s


class InitResult(CommandResult):
    """init: the recipe that was written, what the network and the data are, and what a study of them will take."""

    file: str
    params: int
    macs: int
    classes: int
    noun: str = "classes"  #: what they are: "classes" or "keypoints"
    shape: tuple[int, int, int]
    train_images: int
    validation_images: int
    test_images: int
    narrowed: int  #: layers that the method narrows
    estimate: Estimate | None = None  #: None: the network could not be timed


class Fact(Record):
    """One line that `doctor` prints: what was looked at, what is there, and what to do."""

    topic: Literal["system", "package", "processor", "runtime", "data", "disk"]
    name: str
    value: str
    advice: str = ""  #: what is missing or slow, why, and what to do; empty: nothing


class DoctorResult(CommandResult):
    """doctor: what was looked at on this machine, and what to do where something is missing or slow."""

    facts: tuple[Fact, ...]
