"""manifest.json of a bundle: what it holds, what it was made from, and what its examples must put out."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgesafe.records.base import Record
from edgesafe.records.names import Name
from edgesafe.records.provenance import Target
from edgesafe.records.results import CommandResult
from edgesafe.records.task import TaskKind

__all__ = [
    "BundleCheck",
    "BundleFacts",
    "BundleFile",
    "BundleManifest",
    "BundleOrt",
    "BundleResult",
    "BundleSamples",
    "BundleTensors",
    "CheckLine",
    "VerifyResult",
]

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_PART = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
FilePath = Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$", max_length=400)]


class BundleFile(Record):
    """A file of a bundle: its path from the bundle's root with "/", its hash, and its size in bytes."""

    path: FilePath
    sha256: Sha256
    bytes: int = Field(ge=0)


class BundleTensors(Record):
    """What the model takes and gives. Pixels of the sample images are packed as the model takes them."""

    input: str
    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NCHW"]
    image: tuple[int, int, int]  #: (H, W, C) of an image
    pixels: str  #: what was done to them before, in one line
    output: str
    outputs: Literal[
        "logits", "probabilities", "fractions"
    ]  #: fractions: x1, y1, x2, … of the image's width and height
    task: TaskKind = TaskKind.CLASSIFICATION
    classes: tuple[str, ...]  #: names of the classes, or of the keypoints

    @property
    def columns(self) -> int:
        """How many numbers the model puts out for an image."""
        return len(self.classes) * (2 if self.task is TaskKind.KEYPOINTS else 1)

    @property
    def noun(self) -> str:
        """What `classes` are the names of, in the plural."""
        return self.task.noun


class BundleSamples(Record):
    """The packed images, and what the model must answer on them."""

    source: Literal["test", "generated"]  #: test images of the study, or seeded noise
    index: tuple[int, ...]  #: positions in the test set, or numbers of the generated images
    labels: tuple[int, ...]  #: empty for generated images, and for keypoints
    batch: int = Field(ge=1)  #: images of a run
    sha256: Sha256  #: of the outputs, float32 little-endian, image after image: equal on an equal processor and runtime
    #: of the classes answered, int32 little-endian: equal wherever rounding decides nothing; None: keypoints
    answers_sha256: Sha256 | None
    tolerance: float = Field(gt=0)  #: largest difference of an output on another processor or runtime
    runtime: str  #: that made them: "onnxruntime 1.31.1, Linux x86_64"


class BundleOrt(Record):
    """The model in onnxruntime's format for one kind of processor, made on request."""

    platform: Literal["amd64", "arm"]
    file: FilePath
    operators: FilePath  #: for a minimal build of onnxruntime: `--include_ops_by_config`
    max_abs: float  #: largest difference of its outputs from the model's on the packed images, where it was made


class BundleFacts(Record):
    """All that a bundle says beside its files; card, bill of materials and examples are functions of it."""

    name: Name
    edgesafe: str  #: version that made it
    study: Name
    study_sha256: Sha256  #: of study.json, which binds the evidence
    variant: Name
    baseline: Name | None
    model: FilePath  #: the file that was measured
    model_sha256: Sha256
    target: Target
    tensors: BundleTensors
    samples: BundleSamples
    ort: tuple[BundleOrt, ...] = ()
    licence: str = ""  #: of the model, as its owner states it; empty: not stated
    data_licence: str = ""  #: of the data set; empty: not known
    decided: datetime.date | None = None  #: the day of the verdict, if the policy has waivers


class BundleManifest(Record):
    """manifest.json: the facts, and every file but itself and its signature."""

    schema_: Literal["edgesafe.bundle/1"] = Field(default="edgesafe.bundle/1", alias="schema")
    facts: BundleFacts
    files: tuple[BundleFile, ...]

    @model_validator(mode="after")
    def _listed_once(self) -> Self:
        paths = [file.path for file in self.files]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"'{twice[0]}' is listed twice")
        return self


class BundleCheck(StrEnum):
    """What `edgesafe verify` looks at, in its order."""

    MANIFEST = "manifest"
    SIGNATURE = "signature"
    FILES = "files"  #: every listed file is there, and nothing else
    HASHES = "hashes"
    EVIDENCE = "evidence"  #: study.json binds the records, the records the model
    VERDICT = "verdict"  #: what the policy decides on that evidence
    CARD = "card"
    CONFIG = "config"  #: classes and preprocessing
    LICENCES = "licences"
    MATERIALS = "materials"  #: the bill of materials: its schema, and its components
    EXAMPLES = "examples"
    OUTPUTS = "outputs"  #: the model's own, on the sample images
    RUN = "run"  #: the Python example in a clean environment


class CheckLine(Record):
    """One thing that was looked at: whether it is as it should be, and what was found."""

    check: BundleCheck
    passed: bool
    text: str


class BundleResult(CommandResult):
    """bundle: where it lies, its files with their hashes, and the hash of the manifest that lists them."""

    bundle: str
    manifest_sha256: str
    signed: bool
    files: tuple[BundleFile, ...]


class VerifyResult(CommandResult):
    """verify: every check in order; a bundle is whole if all of them passed."""

    bundle: str
    variant: str | None = None  #: None: the manifest cannot be read
    checks: tuple[CheckLine, ...]
