"""From evidence to numbers: every metric of one file with its interval. `compare` (two files) is in `comparison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesafe.errors import NothingEvaluated, RefusedError
from edgesafe.measure.comparison import compare, flips
from edgesafe.measure.intervals.bounds import mean_over_cells
from edgesafe.measure.intervals.clusters import Design, design_of
from edgesafe.measure.intervals.ece import (
    bootstrap_ece,
    ece_interval,
    ece_noise_floor,
    mean_interval,
    wilson,
)
from edgesafe.measure.intervals.reported import aurc_interval, classwise_interval
from edgesafe.measure.intervals.stated import measurement
from edgesafe.measure.metrics import calibration, temperature
from edgesafe.measure.metrics.calibration import HIGH_CONFIDENCE
from edgesafe.measure.pooling import (
    Pool,
    benchmark_of,
    pools,
    population_of,
)
from edgesafe.measure.probabilities import cell_from_logits, softmax64
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.measure.sampling.margin_metrics import MarginCells
from edgesafe.metrics import get
from edgesafe.records import (
    Cell,
    Comparison,
    Evidence,
    IntervalMethod,
    Measurement,
    Population,
    PopulationKind,
)

__all__ = ["calibrated", "compare", "flips", "measure", "summarise"]


@dataclass(frozen=True)
class _Scope:
    """What all measurements of one call share."""

    images: str  #: what the clean images stand for, in words
    interval_level: float
    seed: int

    @property
    def population(self) -> Population:
        """Of numbers of the clean images, or of a single cell."""
        return Population(kind=PopulationKind.IMAGES, description=self.images)


def summarise(
    evidence: Evidence,
    *,
    population: str,
    interval_level: float = 0.95,
    seed: int = 0,
    baseline: Evidence | None = None,
    drawn: MarginCells | None = None,
) -> dict[str, Measurement]:
    """Every metric of one file that its evidence supports.

    Clean: `accuracy`, `ece_em10_top1`, `nll`, `brier`, `high_conf_error@0.9`, and for the report only `mce`,
    `ece_classwise`, `aurc`. With corrupted cells: `mpc`, `mpc.severity.<s>`, `mpc.corruption.<name>`,
    `accuracy.<corruption>.<s>`, `ece_em10_top1.severity.<s>`, `ece_em10_top1.corruption.<name>`, `nll.severity.<s>`.

    Args:
        evidence: of one file.
        population: what the clean test images stand for ("images like the CIFAR-10 test set").
        interval_level: of all intervals.
        seed: of all resampling: same evidence, same numbers.
        baseline: needed only where the corrupted cells are a sample by its margins (`margin.is_drawn`).
        drawn: those cells, if they are worked out already.

    Returns:
        Measurements by metric id. Rates and calibration errors are fractions, NLL nats.

    Raises:
        NothingEvaluated: no images, or a single image in a cell that needs a spread.
        DataError, NonFiniteError, RefusedError: evidence that no metric may rest on, or a sample by margins without
            the baseline that it was drawn by.
    """
    scope = _Scope(population, interval_level, seed)
    out = _clean(evidence, scope)
    out.update(_report_only(evidence, scope))
    if evidence.cells and is_drawn(evidence):
        if baseline is None:
            raise RefusedError(
                "the rows were drawn by a baseline's margins, so they do not count alike",
                where="evidence",
                fix="give the baseline's evidence too",
            )
        drawn = drawn or MarginCells(evidence, baseline, interval_level=interval_level, seed=seed)
        out.update(drawn.own(population))
    elif evidence.cells:
        out.update(_corrupted(evidence, scope))
    return out


def measure(
    evidence: Evidence, baseline: Evidence | None, *, population: str
) -> tuple[dict[str, Measurement], dict[str, Comparison]]:
    """Every metric of a file, and its paired differences to a baseline: `summarise` and `compare` in one go.

    Args:
        evidence: of the file.
        baseline: of what it is compared with; None: nothing, and there are no differences.
        population: see `summarise`.

    Raises:
        EdgesafeError: see `summarise` and `compare`.
    """
    if baseline is None:
        return summarise(evidence, population=population), {}
    drawn = (
        MarginCells(evidence, baseline, interval_level=0.95, seed=0) if evidence.cells and is_drawn(evidence) else None
    )
    own = summarise(evidence, population=population, baseline=baseline, drawn=drawn)
    return own, compare(evidence, baseline, drawn=drawn)


def _clean(evidence: Evidence, scope: _Scope) -> dict[str, Measurement]:
    cell = evidence.clean
    if len(cell.index) < 2:
        raise NothingEvaluated(f"{len(cell.index)} clean image(s)", where="evidence", fix="measure at least 2")
    right, n, interval_level, who = (
        cell.prediction == cell.label,
        len(cell.index),
        scope.interval_level,
        scope.population,
    )
    over = int(((cell.confidence > HIGH_CONFIDENCE) & ~right).sum())
    brier = mean_interval(calibration.brier_rows(softmax64(evidence.logits), cell.label), interval_level)
    return {
        "accuracy": measurement("accuracy", wilson(int(right.sum()), n, interval_level), who),
        "ece_em10_top1": _ece("ece_em10_top1", cell, scope),
        "nll": measurement("nll", mean_interval(cell.nll, interval_level), who),
        "brier": measurement("brier", brier, who),
        "high_conf_error@0.9": measurement("high_conf_error@0.9", wilson(over, n, interval_level), who),
    }


def _ece(metric: str, cell: Cell, scope: _Scope) -> Measurement:
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


def _report_only(evidence: Evidence, scope: _Scope) -> dict[str, Measurement]:
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


def _corrupted(evidence: Evidence, scope: _Scope) -> dict[str, Measurement]:
    out: dict[str, Measurement] = {}
    benchmark = benchmark_of(evidence)
    for (corruption, severity), cell in sorted(evidence.cells.items()):
        right = int((cell.prediction == cell.label).sum())
        metric = f"accuracy.{corruption}.{severity}"
        interval = wilson(right, len(cell.index), scope.interval_level)
        out[metric] = measurement(metric, interval, scope.population)
    for pool in pools(evidence.cells):
        cells = [evidence.cells[key] for key in pool.keys]
        design = design_of([c.index for c in cells], benchmark)
        out.update(_pool(pool, cells, design, scope))
    return out


def _pool(pool: Pool, cells: Sequence[Cell], design: Design, scope: _Scope) -> dict[str, Measurement]:
    who = population_of(scope.images, design)
    right = [(c.prediction == c.label).astype(np.float64) for c in cells]
    accuracy = mean_over_cells(right, design, scope.interval_level)
    mean = replace(accuracy.interval, low=max(0.0, accuracy.interval.low), high=min(1.0, accuracy.interval.high))
    size = {"cells": float(len(cells)), "images": float(design.images)}
    details = {**size, "se_new_images": accuracy.se_new_images}
    out = {pool.mpc: measurement(pool.mpc, mean, who, details=details)}
    if pool.ece:
        confidence = np.concatenate([c.confidence for c in cells])
        correct = np.concatenate(right)
        interval = ece_interval(confidence, correct, design, interval_level=scope.interval_level, seed=scope.seed)
        result = calibration.ece_equal_mass(confidence, correct)
        out[pool.ece] = measurement(
            pool.ece,
            replace(interval, estimate=result.value),
            who,
            noise_floor=ece_noise_floor(confidence, correct, seed=scope.seed),
            details={**size, "bins_used": float(result.bins_used), "few_images": float(result.few_images)},
        )
    if pool.nll:
        loss = mean_over_cells([c.nll for c in cells], design, scope.interval_level)
        details = {**size, "se_new_images": loss.se_new_images}
        out[pool.nll] = measurement(pool.nll, loss.interval, who, details=details)
    return out


def calibrated(
    evidence: Evidence, value: float, *, population: str, interval_level: float = 0.95, seed: int = 0
) -> dict[str, Measurement]:
    """`ece_em10_top1.calibrated` and `nll.calibrated`: the clean set after temperature scaling.

    Args:
        evidence: of the file before calibration.
        value: the temperature, fitted on validation images (`temperature.fit`).
        population: see `summarise`.
        interval_level: of the intervals.
        seed: of the resampling.

    Raises:
        DataError: a temperature that is not positive.
        NothingEvaluated, NonFiniteError, RefusedError: see `summarise`.
    """
    scope = _Scope(population, interval_level, seed)
    cell = cell_from_logits(temperature.apply(evidence.logits, value), evidence.clean.label, evidence.clean.index)
    ece = _ece("ece_em10_top1.calibrated", cell, scope)
    loss = measurement("nll.calibrated", mean_interval(cell.nll, interval_level), scope.population)
    return {ece.metric: ece, loss.metric: loss}
