"""What a classifier that edgesafe did not export expects of its input, and whether a guess about it holds.

Files that edgesafe exports need nothing of this: uint8 NHWC in, logits out, normalisation inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, RefusedError, UsageError
from edgesafe.measure.probabilities import check_probabilities

__all__ = [
    "CIFAR",
    "IMAGENET",
    "OURS",
    "Detection",
    "InputSpec",
    "confirm",
    "looks_like_probabilities",
    "prepare",
    "to_logits",
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


OURS = InputSpec(input_name="image", output_name="logits")
"""Files that edgesafe exports."""

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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


class _Scorer(Protocol):
    """What `confirm` needs of a classifier."""

    @property
    def input_spec(self) -> InputSpec: ...

    def scores(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]: ...

    def logits(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Detection:
    """A guess about a classifier's input that was tried on labelled images.

    Attributes:
        spec: the best guess.
        accuracy: on the images tried, a fraction.
        n: images tried.
        tried: each guess tried, as text, with its accuracy, best first.
    """

    spec: InputSpec
    accuracy: float
    n: int
    tried: tuple[tuple[str, float], ...]


def confirm(classifier: _Scorer, images: NDArray[np.uint8], labels: NDArray[Any]) -> float:
    """Checks a classifier and what was stated about its input on a few hundred labelled images.

    Args:
        classifier: an opened file.
        images: uint8 (n, H, W, C), n >= 64 to say anything.
        labels: integers (n,).

    Returns:
        The accuracy on them.

    Raises:
        RefusedError: probabilities taken for logits or the reverse; or an accuracy that guessing the most frequent
            label would reach (within 3 standard errors), which a wrong layout, normalisation or label order gives.
    """
    scores = classifier.scores(images)
    stated = classifier.input_spec.outputs
    if stated == "logits" and looks_like_probabilities(scores):
        raise RefusedError(
            "the output was stated to be logits, but every row lies in [0, 1] and sums to 1",
            where="model output",
            fix="state that the output is probabilities: a second softmax would hide all over-confidence",
        )
    logits = to_logits(scores, classifier.input_spec)
    if logits.shape[1] <= int(labels.max()):
        raise DataError(
            f"label {int(labels.max())}, but the network has {logits.shape[1]} classes",
            where="labels",
            fix="use its data set",
        )
    n = len(labels)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    chance = float(np.bincount(labels).max()) / n
    limit = chance + 3.0 * math.sqrt(chance * (1.0 - chance) / n)
    if accuracy <= limit:
        raise RefusedError(
            f"accuracy {100 * accuracy:.1f} % on {n} images is no better than guessing (limit {100 * limit:.1f} %)",
            where="model input",
            fix="state layout, scale, mean and std, and check the order of the labels",
        )
    return accuracy


def candidates(
    layout: Literal["NHWC", "NCHW"], spec: InputSpec, extra: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]
) -> list[InputSpec]:
    """The normalisations that `session.detect` tries for a float32 input, the plainest first."""
    base = replace(spec, layout=layout, dtype="float32", mean=(), std=())
    found = [base, replace(base, scale=1.0)]
    for mean, std in (*extra, CIFAR, IMAGENET, ((0.5,) * 3, (0.5,) * 3)):
        found.append(replace(base, mean=mean, std=std))
    return list(dict.fromkeys(found))
