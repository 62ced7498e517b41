"""Two files on the same images and the same corrupted pixels: candidate minus baseline, paired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, IntegrityError, NothingEvaluated
from edgesafe.measure.cells import rightness, rows_of, take
from edgesafe.measure.intervals.bounds import (
    Interval,
    paired_difference,
    paired_mean_over_cells,
    wilson,
)
from edgesafe.measure.intervals.clusters import Design, design_of
from edgesafe.measure.intervals.ece import paired_bootstrap_ece, paired_ece
from edgesafe.measure.intervals.stated import comparison, measurement
from edgesafe.measure.metrics.calibration import HIGH_CONFIDENCE, brier_rows
from edgesafe.measure.pooling import (
    Pool,
    benchmark_of,
    pools,
    population_of,
)
from edgesafe.measure.probabilities import softmax64
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.measure.sampling.margin_metrics import MarginCells
from edgesafe.metrics import get
from edgesafe.records import (
    Cell,
    Comparison,
    Evidence,
    Measurement,
    Population,
    PopulationKind,
    Provenance,
    Unit,
)

__all__ = ["compare", "flips", "same_pixels"]

_IMAGES = "images like the clean test images"
_CLEAN_POPULATION = Population(kind=PopulationKind.IMAGES, description=_IMAGES)


def compare(
    candidate: Evidence,
    baseline: Evidence,
    *,
    interval_level: float = 0.95,
    seed: int = 0,
    drawn: MarginCells | None = None,
) -> dict[str, Comparison]:
    """Every paired difference that two evidences support, and `flips`.

    Where the two saw different images of a cell (a quick candidate, a full baseline), the images that both saw are
    compared. `accuracy`, `nll`, `brier`, `high_conf_error@0.9`, `ece_em10_top1`, `flips`; with cells `mpc`,
    `mpc.severity.<s>`, `mpc.corruption.<name>`, `accuracy.<corruption>.<s>`, `ece_em10_top1.severity.<s>`,
    `ece_em10_top1.corruption.<name>`, `nll.severity.<s>`.

    Args:
        candidate: evidence of the file in question.
        baseline: evidence of what it is compared with.
        interval_level: of all intervals.
        seed: of all resampling.
        drawn: the corrupted cells, if they were drawn by the baseline's margin and are worked out already.

    Returns:
        Comparisons by metric id; differences are candidate minus baseline.

    Raises:
        IntegrityError: other test data, other corruption settings, or other labels for the same image.
        NothingEvaluated: no image in common in the clean set or in a cell of the candidate.
        DataError: another number of classes; one image in common in a cell.
        RefusedError: the baseline's cells are a sample by another's margins.
    """
    same_pixels(candidate.provenance, baseline.provenance)
    if candidate.logits.shape[1] != baseline.logits.shape[1]:
        raise DataError(
            f"{candidate.logits.shape[1]} and {baseline.logits.shape[1]} classes",
            where="compare",
            fix="compare networks of the same task",
        )
    out = _clean(candidate, baseline, interval_level, seed)
    if candidate.cells and (is_drawn(candidate) or is_drawn(baseline)):
        drawn = drawn or MarginCells(candidate, baseline, interval_level=interval_level, seed=seed)
        return out | drawn.differences(_IMAGES)
    return out | _corrupted(candidate, baseline, interval_level, seed)


def _corrupted(candidate: Evidence, baseline: Evidence, interval_level: float, seed: int) -> dict[str, Comparison]:
    out: dict[str, Comparison] = {}
    pairs: dict[tuple[str, int], tuple[Cell, Cell]] = {}
    for key, cell in candidate.cells.items():
        other = baseline.cells.get(key)
        if other is None:
            raise NothingEvaluated(
                "the baseline has no evidence", where=f"{key[0]} {key[1]}", fix="measure the baseline on this cell too"
            )
        pairs[key] = _common(cell, other)
    benchmark = benchmark_of(candidate)
    for (corruption, severity), (a, b) in sorted(pairs.items()):
        interval = paired_difference(rightness(a), rightness(b), interval_level, kind="rate")
        values = (float(rightness(a).mean()), float(rightness(b).mean()))
        metric = f"accuracy.{corruption}.{severity}"
        out[metric] = comparison(metric, interval, _CLEAN_POPULATION, candidate=values[0], baseline=values[1])
    for pool in pools(pairs) if pairs else []:
        both = [pairs[key] for key in pool.keys]
        design = design_of([a.index for a, _ in both], benchmark)
        out.update(_pool(pool, both, design, interval_level, seed))
    return out


def flips(candidate: Evidence, baseline: Evidence, *, population: str, interval_level: float = 0.95) -> Measurement:
    """Share of clean images whose prediction changed, whether for better or worse.

    Raises:
        IntegrityError, NothingEvaluated: see `compare`.
    """
    same_pixels(candidate.provenance, baseline.provenance)
    a, b = _common(candidate.clean, baseline.clean)
    share = _changed(a, b, interval_level)
    return measurement("flips", share, Population(kind=PopulationKind.IMAGES, description=population))


def _changed(a: Cell, b: Cell, interval_level: float) -> Interval:
    return wilson(int((a.prediction != b.prediction).sum()), len(a.index), interval_level)


def same_pixels(candidate: Provenance, baseline: Provenance) -> None:
    """Refuses to compare what two files did on different pixels.

    Raises:
        IntegrityError: naming what differs.
    """
    if candidate.test_sha256 != baseline.test_sha256:
        raise _different("test_sha256", candidate.test_sha256, baseline.test_sha256)
    ours, theirs = candidate.corruptions, baseline.corruptions
    if ours == theirs:
        return
    if ours is None or theirs is None:
        raise _different(
            "corruptions", *("none" if identity is None else identity.source for identity in (ours, theirs))
        )
    a, b = ours.model_dump(), theirs.model_dump()
    key = next(key for key in sorted({*a, *b}) if a.get(key) != b.get(key))
    raise _different(f"corruptions.{key}", a.get(key), b.get(key))


def _different(what: str, ours: object, theirs: object) -> IntegrityError:
    return IntegrityError(
        f"candidate has {ours!r}, baseline {theirs!r}",
        where=f"evidence, {what}",
        fix="measure both on the same data and corruptions",
    )


def _common(a: Cell, b: Cell) -> tuple[Cell, Cell]:
    """The rows of both cells that belong to the same images, in the same order."""
    where = f"{a.corruption} {a.severity}" if a.corruption else "clean images"
    shared, i, j = np.intersect1d(a.index, b.index, assume_unique=True, return_indices=True)
    if len(shared) == 0:
        raise NothingEvaluated(
            "candidate and baseline have no image in common", where=where, fix="measure the same images"
        )
    if len(shared) < 2:
        raise DataError("1 image in common has no spread", where=where, fix="measure at least 2 images in common")
    if (a.label[i] != b.label[j]).any():
        raise IntegrityError("the same image has two labels", where=where, fix="measure both on the same data")
    return take(a, i), take(b, j)


def _clean(candidate: Evidence, baseline: Evidence, interval_level: float, seed: int) -> dict[str, Comparison]:
    a, b = _common(candidate.clean, baseline.clean)
    right = rightness(a), rightness(b)
    out: dict[str, Comparison] = {}

    def add(metric: str, pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
        kind: Literal["rate", "mean"] = "rate" if get(metric).unit is Unit.FRACTION else "mean"
        interval = paired_difference(*pair, interval_level, kind=kind)
        values = (float(pair[0].mean()), float(pair[1].mean()))
        out[metric] = comparison(metric, interval, _CLEAN_POPULATION, candidate=values[0], baseline=values[1])

    add("accuracy", right)
    over = [
        ((c.confidence > HIGH_CONFIDENCE) & (k == 0)).astype(np.float64) for c, k in zip((a, b), right, strict=True)
    ]
    add("high_conf_error@0.9", (over[0], over[1]))
    add("nll", (a.nll, b.nll))
    add("brier", (_brier(candidate, a), _brier(baseline, b)))
    ece = paired_bootstrap_ece(
        (a.confidence, right[0]), (b.confidence, right[1]), interval_level=interval_level, seed=seed
    )
    out["ece_em10_top1"] = comparison(
        "ece_em10_top1", ece.interval, _CLEAN_POPULATION, candidate=ece.candidate, baseline=ece.baseline
    )
    changed = _changed(a, b, interval_level)
    out["flips"] = comparison("flips", changed, _CLEAN_POPULATION, candidate=changed.estimate, baseline=0.0)
    gained, lost = float((right[0] > right[1]).sum()), float((right[1] > right[0]).sum())
    out["accuracy"] = out["accuracy"].model_copy(
        update={"details": {"candidate_only_right": gained, "baseline_only_right": lost}}
    )
    return out


def _brier(evidence: Evidence, kept: Cell) -> NDArray[np.float64]:
    rows = rows_of(evidence.clean, kept.index)
    return brier_rows(softmax64(evidence.logits[rows]), kept.label)


def _pool(
    pool: Pool, both: Sequence[tuple[Cell, Cell]], design: Design, interval_level: float, seed: int
) -> dict[str, Comparison]:
    who = population_of(_IMAGES, design)
    right = [rightness(a) for a, _ in both], [rightness(b) for _, b in both]
    mean = paired_mean_over_cells(right[0], right[1], design, interval_level, rate=True)
    size = {"cells": float(len(both)), "images": float(design.images)}
    details = {**size, "se_new_images": mean.se_new_images}
    out = {
        pool.mpc: comparison(
            pool.mpc, mean.interval, who, candidate=mean.candidate, baseline=mean.baseline, details=details
        )
    }
    if pool.ece:
        confidences = [np.concatenate([pair[i].confidence for pair in both]) for i in (0, 1)]
        ece = paired_ece(
            (confidences[0], np.concatenate(right[0])),
            (confidences[1], np.concatenate(right[1])),
            design,
            interval_level=interval_level,
            seed=seed,
        )
        out[pool.ece] = comparison(
            pool.ece, ece.interval, who, candidate=ece.candidate, baseline=ece.baseline, details=size
        )
    if pool.nll:
        loss = paired_mean_over_cells(
            [a.nll for a, _ in both], [b.nll for _, b in both], design, interval_level, rate=False
        )
        details = {**size, "se_new_images": loss.se_new_images}
        out[pool.nll] = comparison(
            pool.nll, loss.interval, who, candidate=loss.candidate, baseline=loss.baseline, details=details
        )
    return out
