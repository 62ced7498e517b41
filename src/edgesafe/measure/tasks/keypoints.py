"""Keypoints: an image is answered rightly when every keypoint is nearer to its label than the tolerance.

The margin is the tolerance less the error of the worst keypoint, in px, so that whatever works on margins and on right
or wrong (mPC, pairing, strata, gates, certificates) holds as it does for classes. An answer is the set of keypoints
that are within the tolerance, as bits. There is no confidence, and so no calibration metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated, RefusedError
from edgesafe.measure.intervals.bounds import Interval, mean_interval, paired_difference, wilson
from edgesafe.measure.intervals.stated import comparison, measurement
from edgesafe.measure.tasks.paired import accuracy_and_flips
from edgesafe.measure.tasks.rules import Pooled, Rules, Scope
from edgesafe.metrics import get, value_range
from edgesafe.records import Cell, Comparison, Evidence, Measurement

__all__ = ["KeypointRules", "bounded"]

_FIX = "measure again: the file is damaged or is not edgesafe's"
_PCK = ("pck@1", "pck@2", "pck@3")
_MEANS = (*_PCK, "error.mean_px")
_FAR = 4.0  #: image sizes: outputs beyond are no fractions of an image


def bounded(metric: str, interval: Interval) -> Interval:
    """An interval within the values that its metric can have."""
    low, high = value_range(get(metric).unit)
    return replace(interval, low=max(low, interval.low), high=min(high, interval.high))


class KeypointRules(Rules):
    """See `rules.Rules`. Labels are float32 (n, P, 2) in px, outputs (n, 2 P) fractions, see `records.Task`."""

    columns: ClassVar[Mapping[str, tuple[DTypeLike, int]]] = {
        "index": (np.uint32, 1), "label": (np.uint16, 1), "prediction": (np.uint16, 1),
        "margin": (np.float64, 1), "errors": (np.float64, 2),
    }  # fmt: skip
    pooled: ClassVar[Pooled] = Pooled(frozenset(), dict.fromkeys(("all", "severity", "corruption"), _MEANS))
    calibrated: ClassVar[bool] = False
    ranked: ClassVar[bool] = False
    every_answer: ClassVar[bool] = True
    #: They shift what is shown by up to several px, each image otherwise (elastic, glass), or smear it along rays from
    #: the centre (zoom), so that the labels of the untouched image are not those of the corrupted one.
    moving: ClassVar[frozenset[str]] = frozenset({"elastic_transform", "glass_blur", "zoom_blur", "shift"})
    of_calibrated: ClassVar[tuple[str, ...]] = ()

    @property
    def _tolerance(self) -> float:
        return self.task.tolerance_px or 0.0  # `Task` sees to it that there is one

    def kind_of(self, outputs: NDArray[np.float32], where: str) -> Literal["logits"]:
        """Outputs as they are ("logits"); refused if they lie far outside of the image, as pixels do."""
        largest = float(np.abs(outputs).max())
        if largest > _FAR:
            height, width = self.task.shape or (0, 0)
            raise RefusedError(
                f"outputs of up to {largest:.3g} are no fractions of the image",
                where=where,
                fix=f"divide x by {width} and y by {height} in the network, if these are pixels",
            )
        return "logits"

    def errors(self, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Distance of each keypoint to its label, px: float64 (n, P)."""
        height, width = self.task.shape or (0, 0)  # `Task` sees to it that there is one
        points = outputs.astype(np.float64).reshape(len(outputs), -1, 2) * np.array([width, height], np.float64)
        distance: NDArray[np.float64] = np.sqrt(((points - labels.astype(np.float64)) ** 2).sum(axis=2))
        return distance

    def cell(
        self,
        outputs: NDArray[Any],
        labels: NDArray[Any],
        indices: NDArray[Any],
        corruption: str = "",
        severity: int = 0,
    ) -> Cell:
        """See `Rules.cell`."""
        where = f"{corruption} {severity}" if corruption else "clean images"
        n = len(outputs)
        if n == 0:
            raise NothingEvaluated("no images", where=where, fix="give at least one image")
        if outputs.shape != (n, self.task.outputs) or labels.shape != (n, len(self.task.names), 2):
            raise DataError(
                f"outputs {outputs.shape} for labels {labels.shape}", where=where,
                fix=f"give a network of {self.task.outputs} outputs: x and y of {len(self.task.names)} keypoints",
            )  # fmt: skip
        if not np.isfinite(outputs).all():
            raise NonFiniteError("an output is NaN or infinite", where=where, fix="repair the network")
        if indices.shape != (n,) or int(indices.min()) < 0 or len(np.unique(indices)) != n:
            raise DataError("not one index for each image", where=where, fix="give each test image once")
        errors = self.errors(outputs, labels)
        return Cell(
            corruption=corruption,
            severity=severity,
            index=indices.astype(np.int64),
            label=self.right_answers(labels),
            prediction=self._bits(errors),
            confidence=np.ones(n),
            nll=np.zeros(n),
            margin=self._tolerance - errors.max(axis=1),
            errors=errors,
        )

    def _bits(self, errors: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which keypoints are within the tolerance, int64 (n,): bit p is that of keypoint p."""
        right = self._tolerance - errors > 0.0
        bits: NDArray[np.int64] = (right.astype(np.int64) << np.arange(errors.shape[1])).sum(axis=1)
        return bits

    def margins(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Tolerance less the error of the worst keypoint, px: float64 (n,)."""
        least: NDArray[np.float64] = self._tolerance - self.errors(outputs, labels).max(axis=1)
        return least

    def answers(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Which keypoints are within the tolerance, int64 (n,)."""
        return self._bits(self.errors(outputs, labels))

    def alike(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each keypoint is nearer than the tolerance to where the other output has it."""
        height, width = self.task.shape or (0, 0)
        places = others.astype(np.float64).reshape(len(others), -1, 2) * np.array([width, height], np.float64)
        return self.margins(outputs, places) > 0.0

    @property
    def _step(self) -> float:
        return 0.5 * self._tolerance / max(self.task.shape or (1,))  # half of what makes a keypoint wrong

    def right_answers(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """All keypoints, int64 (n,)."""
        return np.full(len(labels), (1 << len(self.task.names)) - 1, np.int64)

    def certified_points(
        self, prediction: NDArray[np.int64], answers: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """See `Rules.certified_points`: the bits that every answer has."""
        kept = prediction.copy()
        for row, own in enumerate(answers):
            if len(own):
                kept[row] &= np.bitwise_and.reduce(own)
        points = np.arange(len(self.task.names))
        share: NDArray[np.float64] = ((kept[:, None] >> points) & 1).mean(axis=1)
        return share

    def values(self, cell: Cell, quantity: str) -> NDArray[np.float64]:
        """Of each image, the mean error ("error.mean_px"), or the share of keypoints nearer than 2 px ("pck@2")."""
        if cell.errors is None:
            raise ValueError("a cell of keypoints has errors")
        if quantity == "error.mean_px":
            mean: NDArray[np.float64] = cell.errors.mean(axis=1)
            return mean
        near: NDArray[np.float64] = (cell.errors < float(quantity.removeprefix("pck@"))).mean(axis=1)
        return near

    def fits(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> bool:
        """Whether there are two outputs for each keypoint."""
        return bool(outputs.shape[1] == 2 * labels.shape[1])

    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """The mean error, px."""
        return self.values(cell, "error.mean_px")

    def better_than_chance(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
        """The accuracy; refused if the mean label of all images is as near, within 3 standard errors."""
        height, width = self.task.shape or (0, 0)
        middle = np.broadcast_to(labels.mean(axis=0), labels.shape) / np.array([width, height], np.float64)
        guessed = self.errors(middle.reshape(len(labels), -1), labels).mean(axis=1)
        errors = self.errors(outputs, labels)
        gain = guessed - errors.mean(axis=1)
        if gain.mean() <= 3.0 * gain.std(ddof=1) / np.sqrt(len(gain)):
            raise RefusedError(
                f"a mean error of {errors.mean():.1f} px on {len(labels)} images is no better than the mean keypoints' "
                f"({guessed.mean():.1f} px)",
                where="model input",
                fix="state layout, scale, mean, std and channels; outputs are x1, y1, … as fractions of the image",
            )
        return float((self._tolerance - errors.max(axis=1) > 0.0).mean())

    def told(self, label: int, prediction: int) -> tuple[str, str]:
        """Nothing, and the keypoints that are off."""
        missed = [name for k, name in enumerate(self.task.names) if (label & ~prediction) >> k & 1]
        return "", f"{', '.join(missed)} off by {self._tolerance:g} px or more"

    def check(self, evidence: Evidence) -> None:
        """Label, prediction and margin follow from the errors of the keypoints."""
        points = len(self.task.names)
        if evidence.logits.shape[1] != self.task.outputs:
            raise DataError(f"{evidence.logits.shape[1]} outputs", where="evidence, logits", fix=_FIX)
        for (corruption, severity), cell in {("", 0): evidence.clean, **evidence.cells}.items():
            where = f"evidence, {corruption} {severity}" if corruption else "evidence, clean"
            errors = cell.errors
            if errors is None or errors.shape != (len(cell.index), points) or not np.isfinite(errors).all():
                raise DataError("not one finite error for each keypoint", where=where, fix=_FIX)
            same = (
                (cell.label == (1 << points) - 1).all()
                and (cell.prediction == self._bits(errors)).all()
                and (cell.margin == self._tolerance - errors.max(axis=1)).all()
                and (errors >= 0.0).all()
            )
            if not same:
                raise DataError("an answer or a margin does not follow from the errors", where=where, fix=_FIX)

    def clean(self, evidence: Evidence, scope: Scope) -> dict[str, Measurement]:
        """`accuracy`, `pck@1`, `pck@2`, `pck@3`, `error.mean_px`; of the last four, images are what is drawn."""
        cell, level, who = evidence.clean, scope.interval_level, scope.population
        right = int((cell.prediction == cell.label).sum())
        out = {"accuracy": measurement("accuracy", wilson(right, len(cell.index), level), who)}
        for metric in _MEANS:
            interval = bounded(metric, mean_interval(self.values(cell, metric), level))
            out[metric] = measurement(metric, interval, who, details={"keypoints": float(len(self.task.names))})
        return out

    def differences(
        self,
        candidate: Evidence,  # noqa: ARG002 - their rows say everything
        baseline: Evidence,  # noqa: ARG002
        rows: tuple[Cell, Cell],
        scope: Scope,
    ) -> dict[str, Comparison]:
        """`accuracy`, `flips` (another set of keypoints within the tolerance), `pck@1|2|3`, `error.mean_px`."""
        out = accuracy_and_flips(*rows, scope)
        for metric in _MEANS:
            a, b = (self.values(cell, metric) for cell in rows)
            interval = paired_difference(a, b, scope.interval_level, kind="mean")
            out[metric] = comparison(
                metric, interval, scope.population, candidate=float(a.mean()), baseline=float(b.mean())
            )
        return out
