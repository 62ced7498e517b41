"""What a surgery removed, and what was proven about it."""

from __future__ import annotations

from pydantic import Field

from edgesafe.records.base import Record

__all__ = ["LayerRecord", "Proof", "SurgeryRecord"]


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
