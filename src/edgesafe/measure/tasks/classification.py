"""Classification: answers are classes, margins are logits, and the softmax says how sure the network is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgesafe.errors import DataError, RefusedError
from edgesafe.measure.cells import rightness, rows_of
from edgesafe.measure.inference.inputs import output_kind
from edgesafe.measure.intervals.bounds import paired_difference, wilson
from edgesafe.measure.intervals.ece import bootstrap_ece, ece_noise_floor, mean_interval, paired_bootstrap_ece
from edgesafe.measure.intervals.reported import aurc_interval, classwise_interval
from edgesafe.measure.intervals.stated import comparison, measurement
from edgesafe.measure.metrics import calibration
from edgesafe.measure.metrics.calibration import HIGH_CONFIDENCE
from edgesafe.measure.probabilities import cell_from_logits, softmax64
from edgesafe.measure.tasks.paired import accuracy_and_flips
from edgesafe.measure.tasks.rules import Pooled, Rules, Scope
from edgesafe.metrics import get
from edgesafe.records import Cell, Comparison, Evidence, IntervalMethod, Measurement, Unit

__all__ = ["ClassificationRules", "ece", "margins"]

_FIX = "measure again: the file is damaged or is not edgesafe's"


def margins(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logit of the label less the best other: float64 (n,)."""
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    own = z[rows, labels].copy()
    z[rows, labels] = -np.inf
    least: NDArray[np.float64] = own - z.max(axis=1)
    return least


class ClassificationRules(Rules):
    """See `rules.Rules`. Labels are int64 (n,), outputs logits (n, K)."""

    columns: ClassVar[Mapping[str, tuple[DTypeLike, int]]] = {
        "index": (np.uint32, 1), "label": (np.uint16, 1), "prediction": (np.uint16, 1),
        "confidence": (np.float64, 1), "nll": (np.float64, 1), "margin": (np.float64, 1),
    }  # fmt: skip
    pooled: ClassVar[Pooled] = Pooled(frozenset({"severity", "corruption"}), {"severity": ("nll",)})
    calibrated: ClassVar[bool] = True
    ranked: ClassVar[bool] = True
    every_answer: ClassVar[bool] = False
    moving: ClassVar[frozenset[str]] = frozenset()
    of_calibrated: ClassVar[tuple[str, ...]] = ("ece_em10_top1", "nll", "brier", "high_conf_error@0.9")

    def kind_of(self, outputs: NDArray[np.float32], where: str) -> Literal["logits", "probabilities"]:
        """Logits or probabilities, see `inputs.output_kind`."""
        return output_kind(outputs, where)

    def cell(
        self,
        outputs: NDArray[Any],
        labels: NDArray[Any],
        indices: NDArray[Any],
        corruption: str = "",
        severity: int = 0,
    ) -> Cell:
        """See `probabilities.cell_from_logits`."""
        return cell_from_logits(outputs, labels, indices, corruption, severity)

    def margins(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Logit of the label less the best other: float64 (n,)."""
        return margins(outputs, labels)

    def answers(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:  # noqa: ARG002 - an answer of keypoints depends on them
        """The classes of the largest logits, int64 (n,)."""
        classes: NDArray[np.int64] = outputs.argmax(axis=1).astype(np.int64)
        return classes

    def alike(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the largest logits are those of the same classes."""
        same: NDArray[np.bool_] = outputs.argmax(axis=1) == others.argmax(axis=1)
        return same

    @property
    def _step(self) -> float:
        return 0.5  # steps of int8 files moved logits by 0.3

    def right_answers(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The answer that is right of each image: its class, int64 (n,)."""
        return labels.astype(np.int64, copy=False)

    def certified_points(
        self,
        prediction: NDArray[np.int64],  # noqa: ARG002
        answers: Sequence[NDArray[np.int64]],  # noqa: ARG002
    ) -> None:
        """None: a class has no points."""
        return

    def values(self, cell: Cell, quantity: str) -> NDArray[np.float64]:
        """The NLL, the only quantity that is averaged over corrupted cells."""
        return {"nll": cell.nll}[quantity]

    def fits(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> bool:
        """Whether every label has an output."""
        return bool(int(labels.max()) < outputs.shape[1])

    def losses(self, cell: Cell) -> NDArray[np.float64]:
        """The NLL: it tells apart normalisations that give the same arg max."""
        return cell.nll

    def better_than_chance(self, outputs: NDArray[np.float32], labels: NDArray[Any]) -> float:
        """The accuracy; refused if naming the most frequent label reaches it within 3 standard errors."""
        n = len(labels)
        accuracy = float((outputs.argmax(axis=1) == labels).mean())
        chance = float(np.bincount(labels).max()) / n
        limit = chance + 3.0 * math.sqrt(chance * (1.0 - chance) / n)
        if accuracy <= limit:
            raise RefusedError(
                f"accuracy {100 * accuracy:.1f} % on {n} images is no better than guessing (limit {100 * limit:.1f} %)",
                where="model input",
                fix="state layout, scale, mean, std and channels, and check the order of the labels",
            )
        return accuracy

    def told(self, label: int, prediction: int) -> tuple[str, str]:
        """The two classes, by number."""
        return f"of class {label}", f"taken for class {prediction}"

    def check(self, evidence: Evidence) -> None:
        """Labels and predictions are classes, and the clean columns follow from the logits."""
        k = evidence.logits.shape[1]
        for (corruption, severity), cell in {("", 0): evidence.clean, **evidence.cells}.items():
            where = f"evidence, {corruption} {severity}" if corruption else "evidence, clean"
            for name in ("label", "prediction"):
                column = getattr(cell, name)
                if int(column.min()) < 0 or int(column.max()) >= k:
                    raise DataError(f"a {name} is outside 0 to {k - 1}", where=where, fix=_FIX)
            low, high = float(cell.confidence.min()), float(cell.confidence.max())
            if low < 1.0 / k - 1e-9 or high > 1.0 + 1e-9 or float(cell.nll.min()) < 0.0:
                raise DataError("a confidence or an NLL that no softmax gives", where=where, fix=_FIX)
        again = cell_from_logits(evidence.logits, evidence.clean.label, evidence.clean.index)
        same = (again.prediction == evidence.clean.prediction).all() and np.allclose(
            again.confidence, evidence.clean.confidence, rtol=0, atol=1e-9
        )
        if not same:
            raise DataError("the clean columns do not follow from the logits", where="evidence", fix=_FIX)

    def clean(self, evidence: Evidence, scope: Scope) -> dict[str, Measurement]:
        """`accuracy`, `ece_em10_top1`, `nll`, `brier`, `high_conf_error@0.9`, `mce`, `ece_classwise`, `aurc`."""
        cell, level, who = evidence.clean, scope.interval_level, scope.population
        right, n = cell.prediction == cell.label, len(cell.index)
        over = int(((cell.confidence > HIGH_CONFIDENCE) & ~right).sum())
        brier = mean_interval(calibration.brier_rows(softmax64(evidence.logits), cell.label), level)
        return {
            "accuracy": measurement("accuracy", wilson(int(right.sum()), n, level), who),
            "ece_em10_top1": ece("ece_em10_top1", cell, scope),
            "nll": measurement("nll", mean_interval(cell.nll, level), who),
            "brier": measurement("brier", brier, who),
            "high_conf_error@0.9": measurement("high_conf_error@0.9", wilson(over, n, level), who),
            **_report_only(evidence, scope),
        }

    def differences(
        self, candidate: Evidence, baseline: Evidence, rows: tuple[Cell, Cell], scope: Scope
    ) -> dict[str, Comparison]:
        """`accuracy`, `high_conf_error@0.9`, `nll`, `brier`, `ece_em10_top1`, `flips`."""
        a, b = rows
        right = rightness(a), rightness(b)
        shared = accuracy_and_flips(a, b, scope)
        out: dict[str, Comparison] = {"accuracy": shared["accuracy"]}

        def add(metric: str, pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
            kind: Literal["rate", "mean"] = "rate" if get(metric).unit is Unit.FRACTION else "mean"
            interval = paired_difference(*pair, scope.interval_level, kind=kind)
            values = (float(pair[0].mean()), float(pair[1].mean()))
            out[metric] = comparison(metric, interval, scope.population, candidate=values[0], baseline=values[1])

        over = [
            ((c.confidence > HIGH_CONFIDENCE) & (k == 0)).astype(np.float64) for c, k in zip(rows, right, strict=True)
        ]
        add("high_conf_error@0.9", (over[0], over[1]))
        add("nll", (a.nll, b.nll))
        add("brier", (_brier(candidate, a), _brier(baseline, b)))
        both = paired_bootstrap_ece(
            (a.confidence, right[0]), (b.confidence, right[1]), interval_level=scope.interval_level, seed=scope.seed
        )
        out["ece_em10_top1"] = comparison(
            "ece_em10_top1", both.interval, scope.population, candidate=both.candidate, baseline=both.baseline
        )
        return out | {"flips": shared["flips"]}


def ece(metric: str, cell: Cell, scope: Scope) -> Measurement:
    """The calibration error of a cell with its interval and noise floor, under this id."""
    right = cell.prediction == cell.label
    result = calibration.ece_equal_mass(cell.confidence, right)
    interval = bootstrap_ece(cell.confidence, right, interval_level=scope.interval_level, seed=scope.seed)
    return measurement(
        metric,
        replace(interval, estimate=result.value),
        scope.population,
        noise_floor=ece_noise_floor(cell.confidence, right, seed=scope.seed),
        details={"bins_used": float(result.bins_used), "few_images": float(result.few_images)},
    )


def _report_only(evidence: Evidence, scope: Scope) -> dict[str, Measurement]:
    """Metrics for the eye. The largest bin error has no interval that covers as it says (see `reported`)."""
    cell = evidence.clean
    right = cell.prediction == cell.label
    interval_level, who = scope.interval_level, scope.population
    classwise = classwise_interval(
        softmax64(evidence.logits), cell.label, interval_level=interval_level, seed=scope.seed
    )
    area = aurc_interval(cell.confidence, right, interval_level=interval_level)
    return {
        "mce": Measurement(
            metric="mce",
            estimate=calibration.mce(cell.confidence, right),
            interval_level=interval_level,
            n=len(right),
            method=IntervalMethod.LARGEST_BIN,
            unit=get("mce").unit,
            population=who,
        ),
        "ece_classwise": measurement("ece_classwise", classwise, who),
        "aurc": measurement("aurc", area, who),
    }


def _brier(evidence: Evidence, kept: Cell) -> NDArray[np.float64]:
    rows = rows_of(evidence.clean, kept.index)
    return calibration.brier_rows(softmax64(evidence.logits[rows]), kept.label)
