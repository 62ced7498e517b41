"""Two files on the same images and the same corrupted pixels: candidate minus baseline, paired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesafe.errors import DataError, IntegrityError, NothingEvaluated
from edgesafe.measure.cells import rightness, take
from edgesafe.measure.intervals.bounds import paired_difference, paired_mean_over_cells
from edgesafe.measure.intervals.clusters import Design, design_of
from edgesafe.measure.intervals.ece import paired_ece
from edgesafe.measure.intervals.stated import comparison, measurement
from edgesafe.measure.pooling import (
    Pool,
    benchmark_of,
    pools,
    population_of,
)
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.measure.sampling.margin_metrics import MarginCells
from edgesafe.measure.tasks import rules_of
from edgesafe.measure.tasks.paired import changed
from edgesafe.measure.tasks.rules import Scope
from edgesafe.records import (
    Cell,
    Comparison,
    Evidence,
    Measurement,
    Population,
    PopulationKind,
    Provenance,
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
    compared. The ids are those of `summary.summarise` without `mce`, `ece_classwise`, `aurc`.

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
        DataError: another task or number of classes; one image in common in a cell.
        RefusedError: the baseline's cells are a sample by another's margins.
    """
    same_pixels(candidate.provenance, baseline.provenance)
    if candidate.logits.shape[1] != baseline.logits.shape[1] or not candidate.task.compares_with(baseline.task):
        raise DataError(
            f"{candidate.logits.shape[1]} and {baseline.logits.shape[1]} {candidate.task.noun}, or other tasks",
            where="compare",
            fix="compare networks of the same task",
        )
    rows = _common(candidate.clean, baseline.clean)
    scope = Scope(_IMAGES, interval_level, seed)
    out = rules_of(candidate.task).differences(candidate, baseline, rows, scope)
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
    rules = rules_of(candidate.task)
    for pool in pools(pairs, rules.pooled) if pairs else []:
        both = [pairs[key] for key in pool.keys]
        design = design_of([a.index for a, _ in both], benchmark)
        out.update(_pool(pool, both, design, interval_level, seed))
        for metric, quantity in pool.means:
            sides = [[rules.values(pair[k], quantity) for pair in both] for k in (0, 1)]
            mean = paired_mean_over_cells(sides[0], sides[1], design, interval_level, rate=False)
            details = {"cells": float(len(both)), "images": float(design.images), "se_new_images": mean.se_new_images}
            out[metric] = comparison(
                metric, mean.interval, population_of(_IMAGES, design), candidate=mean.candidate, baseline=mean.baseline,
                details=details,
            )  # fmt: skip
    return out


def flips(candidate: Evidence, baseline: Evidence, *, population: str, interval_level: float = 0.95) -> Measurement:
    """Share of clean images whose prediction changed, whether for better or worse.

    Raises:
        IntegrityError, NothingEvaluated: see `compare`.
    """
    same_pixels(candidate.provenance, baseline.provenance)
    a, b = _common(candidate.clean, baseline.clean)
    share = changed(a, b, interval_level)
    return measurement("flips", share, Population(kind=PopulationKind.IMAGES, description=population))


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
    return out
