"""The sections of a recipe as frozen records. A stage receives its own section and never sees the others.

Defaults live here and nowhere else; `edgesafe compress --show-recipe` prints them. Cross-section rules are in `recipe`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgesafe.recipe.sections.allocation import MEASURED, Allocation
from edgesafe.recipe.sections.base import Count, Epoch, NonNegative, Positive, Ratio, Section, Severity
from edgesafe.recipe.sections.data import DataSection
from edgesafe.records import DeviceAddress, Precision

__all__ = [
    "CORRUPTIONS",
    "MEASURED",
    "USN_CRITERIA",
    "Allocation",
    "Arithmetic",
    "BudgetSection",
    "CertifySection",
    "CompressSection",
    "Criterion",
    "DataSection",
    "Device",
    "DistillSection",
    "EvaluateSection",
    "ExportSection",
    "Method",
    "ModeSection",
    "ModelSection",
    "Optimiser",
    "RecoverSection",
    "RobustSection",
    "Scope",
    "Section",
    "TargetSection",
    "TrainSection",
    "TrainingSection",
]

CORRUPTIONS: tuple[str, ...] = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 benchmark corruptions of CIFAR-10-C in the order of the paper (Hendrycks & Dietterich, arXiv 1903.12261)."""


class Method(StrEnum):
    """How a network is compressed: what is removed from it, and by which ranking."""

    WEIGHT = "weight"  #: single weights of convolutions, one global magnitude threshold (Han et al. 2015)
    FILTER = "filter"  #: whole filters, lowest L1 norm per layer (Li et al. 2017)
    CHANNEL = "channel"  #: channels with the smallest BatchNorm scales, one global threshold (Liu et al. 2017)
    RANDOM = "random"  #: filters at random, per layer: the control
    USN = "usn"  #: filters that lighting moves most for their weight, per layer (after Hu et al. 2025)


class Scope(StrEnum):
    """Which convolutions a structured method may narrow."""

    INTERNAL = "internal"  #: only those inside residual blocks: no shortcut is touched
    ALL = "all"  #: every one whose dependency group allows it
    PAPER = "paper"  #: the layers of the benchmark study (arXiv 2405.20876)


class Criterion(StrEnum):
    """How the importance of a channel is scored."""

    L1 = "l1"
    L2 = "l2"
    BN_SCALE = "bn_scale"
    FPGM = "fpgm"
    LAMP = "lamp"
    TAYLOR = "taylor"
    HESSIAN = "hessian"
    RANDOM = "random"
    USN = "usn"
    USN_ABSOLUTE = "usn_absolute"
    USN_L1 = "usn_l1"


USN_CRITERIA = (Criterion.USN, Criterion.USN_ABSOLUTE, Criterion.USN_L1)
"""Those that look at lit copies of images."""


class Device(StrEnum):
    """The kind of processor that a network is trained on."""

    AUTO = "auto"  #: a CUDA GPU where there is one, else the CPU
    CPU = "cpu"
    CUDA = "cuda"


class Arithmetic(StrEnum):
    """Arithmetic of a training's forward and backward passes; weights and BatchNorm statistics are always float32."""

    FP32 = "fp32"
    BF16 = "bf16"  #: where the hardware has it: CPUs with AMX or AVX512_BF16, GPUs


class Optimiser(StrEnum):
    """How a training turns gradients into steps."""

    SGD = "sgd"  #: with momentum; weight decay is added to the gradient
    ADAMW = "adamw"  #: steps of a size of their own for each weight; decay apart from them; rates near 0.001


class BudgetSection(Section):
    """What must be reached instead of a ratio: exactly one of these.

    A value below 1 is a share of the unpruned network's; from 1 on it is absolute.
    """

    macs: Positive | None = None
    params: Positive | None = None
    bytes: Positive | None = None  #: of model.safetensors
    latency_ms: Positive | None = None  #: measured on the exported file, on the target's threads; always absolute
    latency_ratio: Ratio | None = None  #: likewise, a share of the unpruned network's

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of macs, params, bytes, latency_ms, latency_ratio")
        return self

    @property
    def resource(self) -> str:
        """The name of the field that is given, such as "macs"."""
        return next(iter(self.model_dump(exclude_none=True)))

    @property
    def value(self) -> float:
        """The number that is given; see `relative` for whether it is a share of the unpruned network's."""
        return float(next(iter(self.model_dump(exclude_none=True).values())))

    @property
    def relative(self) -> bool:
        """Whether the value is a share of the unpruned network's."""
        return self.latency_ratio is not None or (self.latency_ms is None and self.value < 1.0)


class ModelSection(Section):
    """[model]: the architecture, its arguments, and the file of trained weights if there is one."""

    arch: str = Field(min_length=1)
    weights: str | None = None  #: a file ("{seed}" in its name: one for each), a folder, "torchvision" or "timm"
    args: dict[str, Any] = Field(default_factory=dict)

    def weights_of(self, seed: int) -> str | None:
        """The weights file of a seed's baseline; None: it is trained."""
        return None if self.weights is None else self.weights.replace("{seed}", str(seed))


class ModeSection(Section):
    """How a training uses the machine: part of [train] and of [recover]."""

    device: Device = Device.AUTO
    precision: Arithmetic = Arithmetic.FP32
    channels_last: bool = True  #: activations as NHWC in memory
    compile: bool = False  #: kernels by torch.compile; needs a C++ compiler, and a minute at the start


class RobustSection(Section):
    """robust = {…} of [train] and [recover]: weights of what is added to the loss of a batch (docs/robust.md).

    With all weights 0 nothing of it is computed.
    """

    light: str = (
        "contrast=20%,brightness=25"  #: the lightings: an id of a set of point operations (docs/certificates.md)
    )
    lit: NonNegative = 0.0  #: of the loss on one copy of each image under another lighting
    deviation: NonNegative = 0.0  #: of the mean relative deviation of all channels under lighting
    wasserstein: NonNegative = 0.0  #: of the Wasserstein-1 distances between neighbouring layers' deviations

    @property
    def asked(self) -> bool:
        """Whether anything is added to the loss."""
        return self.lit > 0 or self.watches

    @property
    def watches(self) -> bool:
        """Whether pre-activations are looked at."""
        return self.deviation > 0 or self.wasserstein > 0


class TrainingSection(ModeSection):
    """What [train] and [recover] share: how the machine is used, and what is added to the loss."""

    robust: RobustSection = RobustSection()

    @model_validator(mode="after")
    def _layers_are_seen(self) -> Self:
        if self.compile and self.robust.watches:
            raise ValueError("robust.deviation and robust.wasserstein look into the network: set compile = false")
        return self


class DistillSection(Section):
    """distill = {…} of [recover]: learning from the unpruned network's answers (docs/recovery.md)."""

    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  #: of that, against the labels; 0: labels only
    temperature: Positive = 4.0  #: of both networks' logits


class RecoverSection(TrainingSection):
    """[recover]: BatchNorm re-estimation, then fine-tuning. epochs = 0 and bn_images = 0: pruned only."""

    bn_images: int = Field(default=2000, ge=0)
    epochs: int = Field(default=1, ge=0)
    keep: Literal["last", "best"] = "last"  #: best: the epoch, 0 included, that is best on the validation images
    images: int | None = Field(default=None, ge=1)  #: fine-tune on so many training images; None: all
    optimiser: Optimiser = Optimiser.SGD
    lr: Positive = 0.001
    warmup: int = Field(default=0, ge=0)  #: epochs in which the rate rises to lr
    schedule: Literal["step", "cosine"] = "step"  #: then it falls at the milestones, or along half a cosine to 0
    milestones: tuple[Epoch, ...] = ()
    gamma: Positive = 0.1
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: int = Field(default=64, ge=2)
    augment: bool = True
    flip: bool = True
    distill: DistillSection = DistillSection()
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  #: decay per step of a running mean of the weights; 0: none


class CompressSection(Section):
    """[[compress]]: a pruning method with the ratios to make a variant of each, or a budget to reach."""

    method: Method
    label: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")  #: names the variants instead of `method`
    ratios: tuple[Ratio, ...] = ()  #: share to remove, one variant each; or a budget
    budget: BudgetSection | None = None
    steps: int = Field(default=1, ge=1, le=20)  #: prune a little, recover, and again; structured methods
    scope: Scope | None = None  #: default: internal on nets with residual blocks, else all
    criterion: Criterion | None = None  #: default: l1 (filter), bn_scale (channel), random (random), usn_l1 (usn)
    allocation: Allocation | None = None  #: how much of each layer goes; default: global for channel, else uniform
    layers: dict[str, Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        default_factory=dict
    )  #: shares of named layers in place of the ratio, 0: left alone; with allocation uniform
    then_weight: Ratio | None = None  #: structured methods: share of the remaining Conv2d weights that become zero
    round_to: int | None = Field(default=None, ge=1, le=1024)  #: kept channels: a multiple of; default: the target's
    min_channels: int = Field(default=2, ge=1)  #: no layer is made narrower than this
    rewrite: bool = False  #: turn option-A shortcuts into fixed 1x1 convolutions first, so the whole net can be pruned
    calibrate: bool = False  #: model.onnx divides its logits by a temperature fitted on validation images
    slim_epochs: int = Field(default=1, ge=0)  #: method channel: epochs of training with the L1 penalty on BN scales
    slim_l1: NonNegative = 1e-4  #: its weight: 1e-4 for VGG, 1e-5 for ResNet in the paper
    slim_lr: Positive = 0.01
    tune_first: bool = False  #: fine-tune as the recovery says before the first cut, too; structured methods
    light: str = "contrast=20%,brightness=25"  #: criteria usn: the lightings, an id as in robust.light
    calibration_images: int = Field(default=256, ge=2)  #: criteria usn: training images, drawn by the seed
    draws: int = Field(default=8, ge=1)  #: criteria usn: lit copies of each image
    recover: RecoverSection | None = None  #: what differs from [recover] for these variants; `recipe` fills in the rest

    @model_validator(mode="after")
    def _ratios_or_budget(self) -> Self:
        if bool(self.ratios) == (self.budget is not None):
            raise ValueError("give ratios, or a budget")
        if self.method is Method.WEIGHT and (self.budget is not None or self.steps > 1):
            raise ValueError("method weight takes ratios and one step: budgets and steps are for structured methods")
        if self.method is Method.WEIGHT and (self.then_weight or self.layers or self.allocation):
            raise ValueError("then_weight, layers and allocation are for structured methods, not for method weight")
        if self.allocates in MEASURED and self.steps > 1:
            raise ValueError(f"allocation {self.allocates.value} is measured on the unpruned network: it takes 1 step")
        if self.layers and self.allocates is not Allocation.UNIFORM:
            raise ValueError('layers gives shares by itself: set allocation = "uniform"')
        if self.tune_first and self.method in (Method.WEIGHT, Method.CHANNEL):
            why = "it trains before it prunes by itself" if self.method is Method.CHANNEL else "it cuts no channels"
            raise ValueError(f"tune_first does not go with method {self.method.value}: {why}")
        if self.method is Method.USN and self.criterion not in (None, *USN_CRITERIA):
            raise ValueError(f"method usn ranks by {', '.join(USN_CRITERIA)}: for another criterion use method filter")
        return self

    @property
    def allocates(self) -> Allocation:
        """How the channels that go are shared out among the layers, the method's own way filled in."""
        own = Allocation.GLOBAL if self.method is Method.CHANNEL else Allocation.UNIFORM
        return self.allocation or own

    @property
    def zeroes(self) -> bool:
        """Whether weights become zero, so that a sparse file is smaller."""
        return self.method is Method.WEIGHT or self.then_weight is not None

    @property
    def times(self) -> bool:
        """Whether what is removed depends on latencies."""
        by_budget = self.budget is not None and "latency" in self.budget.resource
        return by_budget or self.allocates is Allocation.LATENCY

    @property
    def ranks_by_lighting(self) -> bool:
        """Whether channels are ranked by how lighting moves them."""
        return self.criterion in USN_CRITERIA or (self.method is Method.USN and self.criterion is None)


class TrainSection(TrainingSection):
    """[train]: used when model.weights is absent. SGD as in the paper (arXiv 2405.20876, section 4)."""

    epochs: int = Field(default=160, ge=1)
    optimiser: Optimiser = Optimiser.SGD
    lr: Positive = 0.1
    milestones: tuple[Epoch, ...] = (80, 120)  #: epochs after which the rate is divided by 10
    gamma: Positive = 0.1
    momentum: NonNegative = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: int = Field(default=64, ge=2)
    augment: bool = True  #: random crop (padding 4) and, if `flip`, horizontal flip
    flip: bool = True
    slim_l1: NonNegative = 0.0  #: weight of an L1 penalty on BN scales from the start, as network slimming has it


class ExportSection(Section):
    """[export]: the opset, the precisions, and which files are written beside model.onnx."""

    opset: int = Field(default=18, ge=18, le=23)  #: the exporter writes no lower opset, whatever one asks
    sparse: bool = True  #: method weight: also model.sparse.onnx
    temperature: bool = True  #: also model.calibrated.onnx, with a temperature fitted on validation images
    precisions: tuple[Precision, ...] = (Precision.FP32,)  #: each one a variant: fp32 always, int8, fp16
    calibration_images: int = Field(default=512, ge=1, le=100_000)  #: training images that int8 ranges are read off

    @field_validator("precisions")
    @classmethod
    def _with_fp32(cls, given: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if Precision.FP32 not in given or len(set(given)) < len(given):
            raise ValueError('name each precision once, and "fp32": the others are converted from it')
        return tuple(precision for precision in Precision if precision in given)


class EvaluateSection(Section):
    """[evaluate]: the corruptions to measure under, on how many images, and how latency is timed."""

    corruptions: str | tuple[str, ...] = "all"  #: all, none, a list, or "dir:PATH" (a CIFAR-10-C directory)
    severities: tuple[Severity, ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    images_per_cell: int | None = Field(default=None, ge=1)  #: test images per corruption and severity; None: all
    mode: Literal["full", "quick"] = "full"
    sampling: Literal["margin", "cell"] = "margin"  #: quick: variants by the baseline's margin, or alike in each cell
    budget: int | None = Field(default=None, ge=1000)  #: quick: corrupted images that a variant is measured on, at most
    hours: Positive | None = None  #: quick: of measuring and certifying, at most: chooses images_per_cell and budget
    policy: str | None = None  #: quick: a policy file; measure on until it is decided, or the budget is spent
    seed: int = Field(default=0, ge=0)  #: of the corruptions
    frost_dir: str | None = None  #: photographs for frost; None: procedural frost
    batch_size: int = Field(default=32, ge=1)
    latency: bool = True
    latency_runs: int = Field(default=1024, ge=64)
    cache_dir: str | None = None  #: keep corrupted images on disk for later runs

    @model_validator(mode="before")
    @classmethod
    def _hours_are_quick(cls, given: Any) -> Any:
        return {"mode": "quick", **given} if isinstance(given, dict) and given.get("hours") is not None else given

    @model_validator(mode="after")
    def _quick_alone(self) -> Self:
        if self.hours is not None and self.corruptions == "none":
            raise ValueError('hours chooses corrupted images, and corruptions = "none": leave hours out')
        given = [key for key in ("budget", "policy", "hours") if getattr(self, key) is not None]
        if self.mode == "full" and given:
            raise ValueError(f'{given[0]} goes with mode = "quick": a full evaluation measures everything')
        return self


class CertifySection(Section):
    """[certify]: finite sets of perturbed images that are run through each file, to the last one."""

    sets: tuple[str, ...] = ()  #: ids such as "brightness=2" (docs/certificates.md); none: nothing is certified
    engine: Literal["enumeration", "line"] = "enumeration"  #: line: the real-valued function, without rounding
    images: int | None = Field(default=None, ge=1)  #: the first so many test images; None: all
    outwards: bool = True  #: by rising distance: gives radii; false: extremes first, which finds violations sooner
    max_images: int = Field(default=10_000, ge=1)  #: of a set, per test image; larger ones are refused
    batch_size: int = Field(default=64, ge=1)
    workers: int = Field(default=0, ge=0, le=1024)  #: threads, one image batch each; 0: one per core
    timed: int = Field(default=0, ge=0)  #: of the first so many of these images, the CPU time each takes; 0, 1: of none


class TargetSection(Section):
    """[target]: either a name in configs/targets (or a path to a TOML file), or the values themselves."""

    name: str = "host-1t"
    threads: int = Field(default=1, ge=1, le=1024)
    round_to: Count | Literal["measure"] = 8  #: kept channels: a multiple of; "measure": timed on this host
    int8_step: Count | Literal["measure"] = 16  #: channels that int8 kernels take at a time; 1: any
    provider: str = "CPUExecutionProvider"
    memory_mb: int | None = Field(default=None, ge=16)  #: what it gives one process; a file that needs more is refused
    ssh: DeviceAddress | None = Field(default=None, exclude=True)  #: None: this host; never stored with a study

    @model_validator(mode="after")
    def _timed_here_for_here(self) -> Self:
        if self.ssh is not None and "measure" in (self.round_to, self.int8_step):
            raise ValueError('"measure" times this host, not the device: give round_to and int8_step as numbers')
        return self
