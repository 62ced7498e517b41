"""From evidence to numbers: every metric of one file with its interval. `compare` (two files) is in `comparison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgesafe.errors import NothingEvaluated, RefusedError
from edgesafe.measure.comparison import compare, flips
from edgesafe.measure.intervals.bounds import mean_over_cells
from edgesafe.measure.intervals.clusters import Design, design_of
from edgesafe.measure.intervals.ece import ece_interval, ece_noise_floor, mean_interval, wilson
from edgesafe.measure.intervals.stated import measurement
from edgesafe.measure.metrics import calibration, temperature
from edgesafe.measure.pooling import (
    Pool,
    benchmark_of,
    pools,
    population_of,
)
from edgesafe.measure.probabilities import cell_from_logits
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.measure.sampling.margin_metrics import MarginCells
from edgesafe.measure.tasks import rules_of
from edgesafe.measure.tasks.classification import ece
from edgesafe.measure.tasks.keypoints import bounded
from edgesafe.measure.tasks.rules import Scope
from edgesafe.records import (
    Cell,
    Comparison,
    Evidence,
    Measurement,
)

__all__ = ["calibrated", "compare", "flips", "measure", "summarise"]


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

    Clean: those of the task, see `tasks.classification` and `tasks.keypoints`. With corrupted cells: `mpc`,
    `mpc.severity.<s>`, `mpc.corruption.<name>`, `accuracy.<corruption>.<s>`; of classes `ece_em10_top1.severity.<s>`,
    `ece_em10_top1.corruption.<name>`, `nll.severity.<s>`; of keypoints `pck@<px>` and `error.mean_px` as `.corrupted`,
    `.severity.<s>` and `.corruption.<name>`.

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
    scope = Scope(population, interval_level, seed)
    if len(evidence.clean.index) < 2:
        raise NothingEvaluated(
            f"{len(evidence.clean.index)} clean image(s)", where="evidence", fix="measure at least 2"
        )
    out = rules_of(evidence.task).clean(evidence, scope)
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


def _corrupted(evidence: Evidence, scope: Scope) -> dict[str, Measurement]:
    out: dict[str, Measurement] = {}
    benchmark = benchmark_of(evidence)
    for (corruption, severity), cell in sorted(evidence.cells.items()):
        right = int((cell.prediction == cell.label).sum())
        metric = f"accuracy.{corruption}.{severity}"
        interval = wilson(right, len(cell.index), scope.interval_level)
        out[metric] = measurement(metric, interval, scope.population)
    rules = rules_of(evidence.task)
    for pool in pools(evidence.cells, rules.pooled):
        cells = [evidence.cells[key] for key in pool.keys]
        design = design_of([c.index for c in cells], benchmark)
        out.update(_pool(pool, cells, design, scope))
        for metric, quantity in pool.means:
            mean = mean_over_cells([rules.values(c, quantity) for c in cells], design, scope.interval_level)
            details = {"cells": float(len(cells)), "images": float(design.images), "se_new_images": mean.se_new_images}
            who = population_of(scope.images, design)
            out[metric] = measurement(metric, bounded(metric, mean.interval), who, details=details)
    return out


def _pool(pool: Pool, cells: Sequence[Cell], design: Design, scope: Scope) -> dict[str, Measurement]:
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
    scope = Scope(population, interval_level, seed)
    cell = cell_from_logits(temperature.apply(evidence.logits, value), evidence.clean.label, evidence.clean.index)
    error = ece("ece_em10_top1.calibrated", cell, scope)
    loss = measurement("nll.calibrated", mean_interval(cell.nll, interval_level), scope.population)
    return {error.metric: error, loss.metric: loss}
