"""What a surgery removed, and what was proven about it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from edgesafe.records.base import Record

__all__ = [
    "AllocationRecord",
    "Calibration",
    "Declined",
    "Engine",
    "EngineReason",
    "LayerCurve",
    "LayerProbe",
    "LayerRecord",
    "Proof",
    "SurgeryRecord",
    "Zeroed",
]


class Engine(StrEnum):
    """What removed the channels of the network that was kept."""

    TORCH_PRUNING = "torch-pruning"  #: its dependency graph; every tensor equals edgesafe's slices bit for bit
    SLICES = "edgesafe slices"  #: edgesafe's own index lists; `engine_reason` says why
    NONE = "none"  #: no channel was removed (method weight)


class Declined(StrEnum):
    """Why the network that torch-pruning cut was not kept."""

    DIFFERS = "differs"  #: it would remove, or removed, something else
    FAILS = "fails"  #: it raised an error, or cannot be imported
    TOO_LARGE = "too large"  #: its index lists grow beyond the limit on its work
    NOT_ASKED = "not asked"  #: a trial, where only the result counts


class EngineReason(Record):
    """Why edgesafe's own slices were kept."""

    cause: Declined
    layer: str = ""  #: module path of the layer where it showed, if it is one
    detail: str = ""  #: what differs, or the error


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


class Calibration(Record):
    """The images and lightings that the criteria usn looked at."""

    light: str  #: id of the set of point operations
    light_sha256: str  #: of its look-up tables
    images: int  #: training images
    images_sha256: str  #: of their pixels
    draws: int  #: lit copies of each
    seed: int  #: of the choice of images and of the draws


class LayerProbe(Record):
    """A group of layers narrowed alone: what it cost, and what it saved."""

    removed: int  #: removable channels that went
    loss: float  #: mean loss of the network so narrowed minus that of the unpruned one, in the loss's unit
    saved: float  #: share of the unpruned network's MACs, or of its latency


class LayerCurve(Record):
    """What narrowing one group of layers alone costs and saves."""

    layer: str  #: the group's first layer
    channels: int  #: that can be removed, one of several that go together counted once
    probes: tuple[LayerProbe, ...]  #: by what was removed, rising


class AllocationRecord(Record):
    """How the channels that go were shared out among the layers, where that was measured."""

    by: str  #: "sensitivity" or "latency"
    images: int  #: validation images that the losses are means over
    bn_images: int  #: training images that BatchNorm statistics were re-estimated from before each
    layers: tuple[LayerCurve, ...]


class Zeroed(Record):
    """Weights set to zero in a network after channels were removed from it."""

    ratio: float  #: share of the remaining Conv2d weights
    threshold: float  #: the largest magnitude that went
    proof: Proof


class SurgeryRecord(Record):
    """What pruning removed from each layer, by which criterion, and the proof of it."""

    method: str
    ratio: float
    criterion: str
    scope: str
    round_to: int = 1
    engine: Engine
    engine_reason: EngineReason | None = None  #: with engine "edgesafe slices"
    calibration: Calibration | None = None  #: criteria usn; in steps: of every step
    allocation: AllocationRecord | None = Field(default=None, exclude_if=lambda found: found is None)  #: if measured
    zeroed: Zeroed | None = Field(default=None, exclude_if=lambda found: found is None)  #: after the channels
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
