"""variant.json: one variant, its files and where it came from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.deviation import DeviationRecord
from edgesafe.records.inputs import InputRecord
from edgesafe.records.names import Name
from edgesafe.records.precision import Conversion, Precision
from edgesafe.records.surgery import SurgeryRecord

__all__ = [
    "Artefact",
    "BaselineTraining",
    "FineTuning",
    "Lineage",
    "Parity",
    "Recovery",
    "Temperature",
    "TrainingMode",
    "VariantRecord",
]


class Artefact(Record):
    """A file of a variant: its name, hash and size in bytes."""

    file: Name
    sha256: str
    bytes: int
    transport_bytes: int | None = None  #: size when compressed for transport by `compressor`
    compressor: str = ""


class Parity(Record):
    """Agreement of an exported file with what it came from."""

    file: str
    reference: str  #: "torch" or a file name
    max_abs_logit: float
    argmax_agreement: float | None  #: fraction; None: the largest output is no answer (keypoints)
    n: int
    bit_equal: bool = False


class Temperature(Record):
    """Temperature scaling (Guo et al. 2017), fitted on validation images only."""

    value: float
    nll_before: float
    nll_after: float
    n: int
    data_sha256: str


class TrainingMode(Record):
    """How a training used the machine. Weights depend on it by rounding."""

    device: str  #: "cpu", or the name of the GPU
    precision: str  #: of forward and backward passes: "fp32" or "bf16"
    channels_last: bool  #: activations as NHWC in memory
    compiled: bool  #: kernels by torch.compile
    torch: str  #: its version


class BaselineTraining(Record):
    """How a baseline was trained: images and mean losses of the epochs, and how the machine was used."""

    images: int  #: of an epoch
    losses: tuple[float, ...]  #: mean of each epoch, nats
    terms: dict[str, tuple[float, ...]] = Field(
        default_factory=dict
    )  #: likewise, of what was added to the loss, unweighted
    slim_l1: float  #: weight of the L1 penalty on BatchNorm scales
    mode: TrainingMode


class FineTuning(Record):
    """What a fine-tuning did. Accuracies are of the validation images, as fractions."""

    epochs: int
    images: int  #: training images of an epoch
    lr: float
    milestones: tuple[int, ...] = ()
    loss: float  #: mean of the last epoch, nats
    terms: dict[str, float] = Field(default_factory=dict)  #: likewise, of what was added to the loss, unweighted
    accuracy_before: float
    kept_epoch: int | None = None  #: the best one, 0: none was better than none; None: the last is kept
    mode: TrainingMode


class Recovery(Record):
    """What followed pruning: BatchNorm re-estimation, then fine-tuning, judged on the validation images."""

    bn_images: int = 0  #: training images that BatchNorm statistics were re-estimated from
    validation_images: int
    accuracy_pruned: float  #: before any of it
    accuracy_after: float
    fine_tuning: FineTuning | None = None


class Lineage(Record):
    """Hashes of everything that a variant came from."""

    recipe_sha256: str
    baseline_sha256: str  #: model.safetensors of the baseline of the same seed
    data_sha256: str
    seed: int


class VariantRecord(Record):
    """The content of variant.json: a variant, how it was made, and the files that hold it."""

    schema_: Literal["edgesafe.variant/2"] = Field(default="edgesafe.variant/2", alias="schema")
    id: Name
    method: str  #: "baseline" or a method of the recipe
    ratio: float
    seed: int
    arch: str
    num_classes: int
    input_shape: tuple[int, int, int]  #: (H, W, C)
    model_args: dict[str, Any] = Field(default_factory=dict)
    precision: Precision = Precision.FP32
    conversion: Conversion | None = None  #: from the fp32 sibling, whose record says what was removed; None: it is fp32
    surgery: SurgeryRecord | None = None
    artefacts: tuple[Artefact, ...] = ()
    parity: tuple[Parity, ...] = ()
    temperature: Temperature | None = None  #: of model.calibrated.onnx
    calibrated: Temperature | None = Field(default=None, exclude_if=lambda t: t is None)  #: inside model.onnx
    opset: int | None = None
    params: int | None  #: None: cannot be told (weights packed or computed in a file that edgesafe did not make)
    macs: int | None  #: per image; None: not known (a file that edgesafe did not make)
    sparsity: float | None  #: None: as of params
    input: InputRecord | None = None  #: what a file that edgesafe did not make expects; None: edgesafe's own
    training: BaselineTraining | None = None  #: of a baseline that was trained here
    recovery: Recovery | None = None  #: None: there was none
    #: of studies that rank channels by lighting; None, and not stored: of others, and of what was converted
    deviation: DeviationRecord | None = Field(default=None, exclude_if=lambda found: found is None)
    lineage: Lineage

    def artefact(self, file: str) -> Artefact | None:
        """The artefact of that name, or None."""
        return next((a for a in self.artefacts if a.file == file), None)
