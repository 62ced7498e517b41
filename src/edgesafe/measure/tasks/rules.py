"""What measuring and certifying need to know of a task, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgesafe.records import Cell, Comparison, Evidence, Measurement, Population, PopulationKind, Task

__all__ = ["Pooled", "Rules", "Scope"]


@dataclass(frozen=True)
class Scope:
    """What all measurements of one call share."""

    images: str  #: what the clean images stand for, in words
    interval_level: float
    seed: int

    @property
    def population(self) -> Population:
        """Of numbers of the clean images, or of a single cell."""
        return Population(kind=PopulationKind.IMAGES, description=self.images)


@dataclass(frozen=True)
class Pooled:
    """What is stated of corrupted cells besides accuracy: of all together, of a severity, and of a corruption.

    Attributes:
        ece: forms of which a calibration error is stated: "severity", "corruption".
        means: quantities (see `Rules.values`) whose mean is stated, by form: "all", "severity", "corruption".
    """

    ece: frozenset[str]
    means: Mapping[str, tuple[str, ...]]


#: Largest difference of a float file's output between processors: they agree to 2e-5 on x86 and aarch64.
_ROUNDED = 1e-3


class Rules(ABC):
    """How the outputs of a network are judged. `labels` are those of the data, see `records.Task`.

    Attributes:
        task: whose rules they are.
        columns: the columns of a cell that are stored as evidence: type and number of dimensions by name.
        pooled: what is stated of corrupted cells besides accuracy.
        calibrated: whether a temperature can be fitted.
        ranked: whether the largest output is the answer.
        every_answer: certificates need the answer to every image of a set, also after a violation.
        moving: corruptions, and kinds of perturbation sets, under which a label is no longer true, since they move what
            is in the image.
        of_calibrated: metrics of the file with the temperature folded in: those that it changes.
    """

    columns: ClassVar[Mapping[str, tuple[DTypeLike, int]]]
    pooled: ClassVar[Pooled]
    calibrated: ClassVar[bool]
    ranked: ClassVar[bool]
    every_answer: ClassVar[bool]
    moving: ClassVar[frozenset[str]]
    of_calibrated: ClassVar[tuple[str, ...]]

    def __init__(self, task: Task) -> None:
        """Take the task whose rules they are."""
        self.task = task

    @property
    def untrue(self) -> str:
        """Why nothing is measured under what is in `moving`, in words that follow its name."""
        return f"moves what is in the image, so its {self.task.noun} are not where the labels say"

    @abstractmethod
    def kind_of(self, outputs: NDArray[np.float32], where: str) -> Literal["logits", "probabilities"]:
        """What outputs (n, K) are, as `InputSpec.outputs` names it.

        Raises:
            RefusedError: they are nothing that can be judged.
        """

    @abstractmethod
    def cell(
        self,
        outputs: NDArray[Any],
        labels: NDArray[Any],
        indices: NDArray[Any],
        corruption: str = "",
        severity: int = 0,
    ) -> Cell:
        """Everything that later metrics need of one (corruption, severity).

        Args:
            outputs: floating point (n, K), finite.
            labels: of the images.
            indices: integers (n,), positions in the test set, each once.
            corruption: name, or "" for clean images.
            severity: 1..5, or 0 for clean images.

        Raises:
            NothingEvaluated: n = 0.
            DataError: shapes, types, labels or indices that do not fit.
            NonFiniteError: NaN or infinity.
        """

    @abstractmethod
    def margins(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float64]:
        """By how much each answer is right, float64 (n,); wrong where it is not positive."""

    @abstractmethod
    def answers(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
        """The answers, int64 (n,), as a cell's `prediction` holds them."""

    @abstractmethod
    def alike(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether two outputs (n, K) for the same images are the same answers, bool (n,)."""

    def tolerance(self, *, quantised: bool) -> float:
        """How far an output may be from this host's on another processor, where sums are rounded in another order.

        Args:
            quantised: the file rounds to integers on the way, so that such a sum may fall on another step.
        """
        return self._step if quantised else _ROUNDED

    @property
    @abstractmethod
    def _step(self) -> float:
        """The tolerance of a quantised file's outputs."""

    @abstractmethod
    def right_answers(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The answers that are right, int64 (n,), as a cell's `label` holds them."""

    @abstractmethod
    def certified_points(
        self, prediction: NDArray[np.int64], answers: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float64] | None:
        """The share of each image's keypoints that are right on every image of a set, float64 (n,); None: no keypoints.

        Args:
            prediction: int64 (n,), the answers to the untouched images.
            answers: of each image, int64, to every image of its set; empty: all are `prediction`.
        """

    @abstractmethod
    def values(self, cell: Cell, quantity: str) -> NDArray[np.float64]:
        """A quantity of each row, float64 (n,), such as "nll" or "pck@2"."""

    @abstractmethod
    def fits(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> bool:
        """Whether a network of so many outputs can be judged by these labels."""

    @abstractmethod
    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """How wrong each answer is, float64 (n,), lower is better: what tells one guess at an input from another."""

    @abstractmethod
    def better_than_chance(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
        """The accuracy on labelled images.

        Raises:
            RefusedError: an answer that does not look at the image would do as well.
        """

    @abstractmethod
    def told(self, label: int, prediction: int) -> tuple[str, str]:
        """In words, what was right and what was answered, for a picture of the report; the first may be empty."""

    @abstractmethod
    def check(self, evidence: Evidence) -> None:
        """Refuse evidence whose columns contradict each other or the outputs.

        Raises:
            DataError: they do.
        """

    @abstractmethod
    def clean(self, evidence: Evidence, scope: Scope) -> dict[str, Measurement]:
        """Every metric of the clean images."""

    @abstractmethod
    def differences(
        self, candidate: Evidence, baseline: Evidence, rows: tuple[Cell, Cell], scope: Scope
    ) -> dict[str, Comparison]:
        """Paired differences of the clean images, candidate minus baseline.

        Args:
            candidate: evidence of the file in question.
            baseline: of what it is compared with.
            rows: the clean cells of both, reduced to the images that both saw, in the same order.
            scope: level and seed.
        """
