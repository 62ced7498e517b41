"""What a surgery removed, and what was proven about it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from edgesafe.records.base import Record

__all__ = ["Calibration", "Declined", "Engine", "EngineReason", "LayerRecord", "Proof", "SurgeryRecord"]


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
