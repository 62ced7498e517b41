"""The number format that a file computes in, and how the file was converted from its float32 sibling's."""

from __future__ import annotations

from enum import StrEnum

from edgesafe.records.base import Record
from edgesafe.records.names import Name

__all__ = ["Agreement", "Conversion", "Precision", "RangeMethod"]


class Precision(StrEnum):
    """The number format of a file's weights and activations. What is not FP32 is a variant beside its FP32 sibling."""

    FP32 = "fp32"
    FP16 = "fp16"  #: IEEE half floats; input and output as ever
    INT8 = "int8"  #: static QDQ: uint8 activations, int8 weights per output channel


class RangeMethod(StrEnum):
    """How the range of each activation was found."""

    MIN_MAX = "min-max"  #: the smallest and the largest value over all calibration images


class Agreement(Record):
    """How far a converted file's logits are from those of the file that it was made from. Nothing is refused by it."""

    max_abs_logit: float
    argmax_agreement: float | None  #: fraction of the images; None: the largest output is no answer (keypoints)
    n: int  #: validation images


class Conversion(Record):
    """How a variant's model.onnx was made from that of its fp32 sibling."""

    sibling: Name
    onnx_sha256: str  #: of the sibling's model.onnx
    ranges: RangeMethod | None = None  #: how ranges were found; None: none is needed (fp16)
    images: int = 0  #: training images that ranges were read off
    images_sha256: str | None = None  #: of those images and their labels, as an image set's
    float_layers: tuple[str, ...] = ()  #: int8: left in float32, where that is faster; module paths
    packed_layers: tuple[str, ...] = ()  #: int8: convolutions over groups of pixels: the same numbers, faster kernels
    agreement: Agreement
