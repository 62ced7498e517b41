"""Finding out what a classifier that edgesafe did not export expects of its input.

What is stated is used as it is stated. Type and layout are read from the graph; what is left open (normalisation,
channel order, kind of output) is tried on labelled images, and the guess of highest likelihood is kept, if the images
can tell it from the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NonFiniteError, RefusedError, UsageError
from edgesafe.measure.inference.inputs import InputSpec, to_logits
from edgesafe.measure.inference.session import OnnxClassifier, input_of
from edgesafe.measure.tasks import Rules, rules_of
from edgesafe.records import Images, InputRecord, Task

__all__ = ["Detection", "Statement", "confirm", "detect"]

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PROBE_IMAGES = 1024  # tried per guess: tells one normalisation from its neighbour
_LEAST_IMAGES = 64  # fewer cannot choose between guesses
_TOLD_APART = 2.0  # standard errors between the best guess and the next: below, they are not told apart
_CLOSE = 5.0  # likewise: below, the next is said
_SAME = 1e-4  # nats: differences of sums in another order
_FAR = 999.0  # standard errors beyond which nobody asks how many

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Statement:
    """What the user says of a file; None is left to detection.

    Attributes:
        layout: "NHWC" or "NCHW".
        scale: of float32 pixels; with a mean, 1/255 if it is not stated.
        mean, std: per channel, of scaled pixels; stated together.
        channels: "RGB" or "BGR".
        outputs: "logits" or "probabilities".
    """

    layout: Literal["NHWC", "NCHW"] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["RGB", "BGR"] | None = None
    outputs: Literal["logits", "probabilities"] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UsageError("one of mean and std is stated", where="--mean, --std", fix="state both, or neither")

    @property
    def stated(self) -> dict[str, Any]:
        """The fields that were stated, by name; empty if none was."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in said.items() if value is not None}

    def of_pixels(self) -> bool:
        """Whether the statement says how float32 pixels are scaled: a scale, or mean and std."""
        return bool({"scale", "mean"} & set(self.stated))


class _Scorer(Protocol):
    """An open file that `confirm` can try: its input, and float32 scores (n, K) of uint8 images (n, H, W, C)."""

    @property
    def input_spec(self) -> InputSpec: ...

    def scores(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Detection:
    """What a classifier expects, and how that was found out.

    Attributes:
        spec: what is used.
        accuracy: on the images tried, a fraction.
        n: images tried.
        tried: each guess tried, as text, with its accuracy, best first.
        stated: names of what was stated.
        runner_up: the next best guess that gives other numbers, as text; "": none.
        runner_up_z: how much worse its NLL is, in standard errors of the paired difference; None: none.
    """

    spec: InputSpec
    accuracy: float
    n: int
    tried: tuple[tuple[str, float], ...]
    stated: tuple[str, ...] = ()
    runner_up: str = ""
    runner_up_z: float | None = None

    @property
    def close(self) -> bool:
        """Whether the next best guess is so near that a reader should know of it."""
        return self.runner_up_z is not None and self.runner_up_z < _CLOSE

    def record(self, batch: int | None) -> InputRecord:
        """For the study. `batch`: the batch size that the file fixes."""
        spec = self.spec
        return InputRecord(
            layout=spec.layout, dtype=spec.dtype, scale=spec.scale, mean=spec.mean, std=spec.std,
            channels=spec.channels, outputs=spec.outputs, batch=batch, text=str(spec), stated=self.stated,
            images=self.n, accuracy=self.accuracy, runner_up=self.runner_up, runner_up_z=self.runner_up_z,
        )  # fmt: skip


def confirm(classifier: _Scorer, images: NDArray[np.uint8], labels: NDArray[Any], task: Task | None = None) -> float:
    """Checks a classifier and what was stated about its input on a few hundred labelled images.

    Args:
        classifier: an opened file.
        images: uint8 (n, H, W, C), n >= 64 to say anything.
        labels: of the task.
        task: what the file is asked; None: a classification.

    Returns:
        The accuracy on them.

    Raises:
        RefusedError: probabilities taken for logits or the reverse; scores that are neither; or no better than chance
            (within 3 standard errors), which a wrong layout, normalisation or label order gives.
    """
    scores, rules = classifier.scores(images), rules_of(task or Task())
    stated = classifier.input_spec.outputs
    if stated == "logits" and rules.kind_of(scores, "model output") == "probabilities":
        raise RefusedError(
            "the output was stated to be logits, but every row lies in [0, 1] and sums to 1",
            where="model output",
            fix="state that the output is probabilities: a second softmax would hide all over-confidence",
        )
    logits = to_logits(scores, classifier.input_spec)
    if not rules.fits(logits, labels):
        raise DataError(
            f"{logits.shape[1]} outputs do not fit the {rules.task.noun} of the data",
            where="labels",
            fix="use its data set",
        )
    return rules.better_than_chance(logits, labels)


def detect(
    content: bytes,
    images: Images,
    labels: NDArray[Any],
    *,
    statement: Statement | None = None,
    normalisations: Sequence[Normalisation] = (),
    provider: str = "CPUExecutionProvider",
    task: Task | None = None,
) -> Detection:
    """What an ONNX classifier expects: what is stated, and the likeliest guess for the rest.

    Args:
        content: a whole ONNX file.
        images: uint8 (n, H, W, C); the first 1,024 are used.
        labels: integers (n,).
        statement: what is known; None: nothing.
        normalisations: (mean, std) pairs to try first, for example the data set's own.
        provider: execution provider.
        task: what the file is asked; None: a classification.

    Raises:
        UsageError: the graph has no image input of a known type, or the statement does not fit it.
        RefusedError: no guess does better than chance (`confirm`), or the images cannot tell the best guess from the
            next, which gives other numbers.
    """
    statement = statement or Statement()
    base = _base(content, images.shape[3], statement, provider)
    guesses = list(dict.fromkeys(_guesses(base, images.shape[3], statement, normalisations)))
    x, y = images[:_PROBE_IMAGES], labels[:_PROBE_IMAGES]
    ranking = _ranked(content, guesses, (x, y), statement, provider, rules_of(task or Task()))
    best = ranking[0]
    accuracy = confirm(OnnxClassifier(content, provider=provider, input_spec=best.spec), x, y, task)
    text, z = _runner_up(ranking)
    if z is not None and (z < _TOLD_APART or len(y) < _LEAST_IMAGES):
        raise RefusedError(
            f"{len(y)} labelled images cannot tell two inputs apart: ({best.spec}) and ({text})",
            where="model input",
            fix="state --scale, --mean, --std and --channels, or give more validation images",
        )
    tried = tuple((str(guess.spec), guess.accuracy) for guess in ranking)
    return Detection(best.spec, accuracy, len(y), tried, tuple(statement.stated), text, z)


def _base(content: bytes, channels: int, statement: Statement, provider: str) -> InputSpec:
    """Names, type and layout, from the graph and the statement."""
    node, output, dtype = input_of(content, provider)
    first, last = node.shape[1] == channels, node.shape[3] == channels
    fixed = isinstance(node.shape[1], int), isinstance(node.shape[3], int)
    wrong = (fixed[0] and not first) if statement.layout == "NCHW" else (fixed[1] and not last)
    if statement.layout is not None and wrong:
        really = "nchw" if statement.layout == "NHWC" else "nhwc"
        raise UsageError(
            f"{statement.layout.lower()} was stated, but input '{node.name}' has shape {node.shape}: {really}",
            where="--layout",
            fix="state what it is, or leave the flag out",
        )
    layout: Literal["NHWC", "NCHW"] = statement.layout or ("NCHW" if first and not last else "NHWC")
    if dtype == "uint8" and statement.of_pixels():
        raise UsageError(
            f"input '{node.name}' takes uint8 pixels as they are", where="--scale, --mean", fix="leave these flags out"
        )
    return InputSpec(layout=layout, dtype=dtype, input_name=node.name, output_name=output)


def _guesses(
    base: InputSpec, channels: int, statement: Statement, normalisations: Sequence[Normalisation]
) -> Iterator[InputSpec]:
    """Every way of feeding the file that the statement leaves open, the plainest first."""
    orders: list[Literal["RGB", "BGR"]] = ["RGB", "BGR"] if channels == 3 else ["RGB"]
    for order in [statement.channels] if statement.channels is not None else orders:
        named = replace(base, channels=order)
        if base.dtype == "uint8":
            yield named
        elif statement.mean is not None and statement.std is not None:
            scale = 1 / 255 if statement.scale is None else statement.scale
            yield replace(named, scale=scale, mean=statement.mean, std=statement.std)
        elif statement.scale is not None:
            yield replace(named, scale=statement.scale)
        else:
            yield named
            yield replace(named, scale=1.0)
            for mean, std in (*normalisations, CIFAR, IMAGENET, ((0.5,) * channels, (0.5,) * channels)):
                if len(mean) == channels:
                    yield replace(named, mean=mean, std=std)


@dataclass(frozen=True)
class _Guess:
    spec: InputSpec
    loss: NDArray[np.float64]  #: of each image, see `Rules.losses`
    accuracy: float


def _ranked(
    content: bytes,
    guesses: Sequence[InputSpec],
    labelled: tuple[NDArray[np.uint8], NDArray[Any]],
    statement: Statement,
    provider: str,
    rules: Rules,
) -> list[_Guess]:
    """Lowest loss first, by images and their labels."""
    x, y = labelled
    ranking: list[_Guess] = []
    refusal: RefusedError | None = None
    for guess in guesses:
        try:
            scores = OnnxClassifier(content, provider=provider, input_spec=guess).scores(x)
            spec = replace(guess, outputs=statement.outputs or rules.kind_of(scores, "model output"))
            logits = to_logits(scores, spec)
        except NonFiniteError:  # pixels on a scale that overflows this network: not this guess
            continue
        except RefusedError as error:  # scores that are neither logits nor probabilities
            refusal = error
            continue
        if rules.fits(logits, y):
            cell = rules.cell(logits, y, np.arange(len(y)))
            ranking.append(_Guess(spec, rules.losses(cell), float((cell.prediction == cell.label).mean())))
    if not ranking and refusal is not None:
        raise refusal
    if not ranking:
        raise RefusedError(
            "under every guess the output is not finite or does not fit the data",
            where="model",
            fix="check the data set, or state layout, scale, mean and std",
        )
    best = min(ranking, key=lambda guess: float(guess.loss.mean()))
    # Of guesses that give the same numbers (grey images in RGB and BGR) the plainest comes first.
    return sorted(ranking, key=lambda guess: (not _same(guess, best), 0.0 if _same(guess, best) else guess.loss.mean()))


def _same(a: _Guess, b: _Guess) -> bool:
    return float(np.abs(a.loss - b.loss).max()) < _SAME


def _runner_up(ranking: Sequence[_Guess]) -> tuple[str, float | None]:
    """The next best guess that gives other numbers, and by how many standard errors its NLL is higher."""
    best = ranking[0]
    for guess in ranking[1:]:
        if _same(guess, best):
            continue
        more = guess.loss - best.loss
        error = float(more.std(ddof=1)) / math.sqrt(len(more)) if len(more) > 1 else math.inf
        return str(guess.spec), min(float(more.mean()) / error if error > 0 else _FAR, _FAR)
    return "", None
