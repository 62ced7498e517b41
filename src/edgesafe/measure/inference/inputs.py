"""What a classifier expects of its input, and what comes out of it.

Files that edgesafe exports need nothing of this: uint8 NHWC in, logits out, normalisation inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, RefusedError, UsageError
from edgesafe.measure.probabilities import check_probabilities

__all__ = [
    "OURS",
    "InputSpec",
    "looks_like_probabilities",
    "output_kind",
    "prepare",
    "to_logits",
    "whole_batches",
]

_SMALLEST = float(np.finfo(np.float32).tiny)  # a probability of 0 becomes a logit of -87, not minus infinity


@dataclass(frozen=True)
class InputSpec:
    """How pixels enter a network, and what leaves it.

    Attributes:
        layout: "NHWC" or "NCHW".
        dtype: "uint8": pixels as they are; "float32": pixels times `scale`, then minus mean, over std.
        scale: of float32 pixels; 1/255 brings them to [0, 1].
        mean, std: per channel, in scaled units; empty: none.
        channels: "RGB" or "BGR".
        outputs: "logits" or "probabilities".
        input_name, output_name: tensors of the graph; empty: the first.
    """

    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["uint8", "float32"] = "uint8"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: Literal["RGB", "BGR"] = "RGB"
    outputs: Literal["logits", "probabilities"] = "logits"
    input_name: str = ""
    output_name: str = ""

    def __post_init__(self) -> None:
        if self.dtype == "uint8" and (self.mean or self.std):
            raise UsageError(
                "a uint8 input with mean or std", where="input", fix="give float32, or leave mean and std out"
            )
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"{len(self.mean)} means, {len(self.std)} stds", where="input", fix="give one of each per channel"
            )
        numbers = (self.scale, *self.mean, *self.std)
        if not all(math.isfinite(v) for v in numbers) or any(s <= 0 for s in (self.scale, *self.std)):
            raise UsageError(
                "scale, mean or std is not finite, or not positive", where="input", fix="give positive numbers"
            )

    def __str__(self) -> str:
        """Layout, dtype, scaling and outputs in one line, for messages and reports."""
        values = f", minus {list(self.mean)}, over {list(self.std)}" if self.mean else ""
        scale = "1/255" if math.isclose(self.scale, 1 / 255) else f"{self.scale:g}"
        pixels = "pixels as they are" if self.dtype == "uint8" else f"pixels times {scale}{values}"
        return f"{self.layout} {self.dtype} {self.channels}, {pixels}; gives {self.outputs}"


OURS = InputSpec(input_name="image", output_name="logits")
"""Files that edgesafe exports."""


def prepare(images: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """Pixels as the network takes them.

    Args:
        images: uint8 (n, H, W, C).
        spec: what the network expects.

    Returns:
        uint8 or float32, (n, H, W, C) or (n, C, H, W), C-contiguous.

    Raises:
        DataError: not uint8 (n, H, W, C), or mean and std for another number of channels.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are {images.dtype} {images.shape}", where="images", fix="give uint8 (n, H, W, C)")
    x: NDArray[Any] = images
    if spec.channels == "BGR":
        x = x[..., ::-1]
    if spec.layout == "NCHW":
        x = x.transpose(0, 3, 1, 2)
    if spec.dtype == "uint8":
        return np.ascontiguousarray(x)
    y = np.multiply(x, np.float32(spec.scale), dtype=np.float32)
    if spec.mean:
        if len(spec.mean) != images.shape[3]:
            raise DataError(
                f"{len(spec.mean)} means for {images.shape[3]} channels", where="input", fix="give one per channel"
            )
        shape = (1, -1, 1, 1) if spec.layout == "NCHW" else (1, 1, 1, -1)
        y -= np.asarray(spec.mean, np.float32).reshape(shape)
        y /= np.asarray(spec.std, np.float32).reshape(shape)
    return np.ascontiguousarray(y)


def looks_like_probabilities(scores: NDArray[Any]) -> bool:
    """True if every row lies in [0, 1] and sums to 1 (within 1e-3): logits practically never do."""
    return bool(scores.min() >= 0.0 and scores.max() <= 1.0 + 1e-6 and np.abs(scores.sum(axis=1) - 1.0).max() < 1e-3)


def output_kind(scores: NDArray[Any], where: str = "model output") -> Literal["logits", "probabilities"]:
    """What scores are: probabilities sum to 1, logits do not stay within [0, 1].

    Args:
        scores: floating point (n, K), finite; some dozens of images.
        where: for messages.

    Raises:
        RefusedError: all lie in [0, 1] without summing to 1, as a sigmoid per class gives: neither, and every
            calibration number would be wrong.
    """
    if looks_like_probabilities(scores):
        return "probabilities"
    if scores.min() >= 0.0 and scores.max() <= 1.0 + 1e-6:
        low, high = (float(v) for v in (scores.sum(axis=1).min(), scores.sum(axis=1).max()))
        raise RefusedError(
            f"every score lies in [0, 1], but rows sum to {low:.3g} up to {high:.3g}, not to 1: a sigmoid per class?",
            where=where,
            fix="export the network without its last sigmoid or scaling",
        )
    return "logits"


def to_logits(scores: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Logits whose softmax are the scores, if those are probabilities; the scores themselves otherwise.

    Raises:
        RefusedError: stated to be probabilities, but outside [0, 1] or not summing to 1.
        NonFiniteError: NaN or infinity among probabilities.
    """
    if spec.outputs == "logits":
        return scores
    check_probabilities(scores, where="model output")
    return np.log(np.maximum(scores, np.float32(_SMALLEST)))


def whole_batches(images: NDArray[Any], batch: int | None) -> NDArray[Any]:
    """Images filled up with copies of the last one to whole batches, as a file of a fixed batch size takes them.

    Args:
        images: (n, …), n >= 1.
        batch: images of a run that the file fixes; None: any number.

    Returns:
        (m, …), m the least multiple of `batch` that is at least n; the images themselves where nothing is missing.
    """
    short = -len(images) % (batch or 1)
    return np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short else images
