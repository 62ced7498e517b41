"""Which cells are pooled into which metric, and what an interval over them is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgesafe.measure.intervals.clusters import Clustering, Design
from edgesafe.measure.tasks.rules import Pooled
from edgesafe.records import Evidence, Population, PopulationKind

__all__ = ["Pool", "benchmark_of", "fixed_benchmark", "pools", "population_of"]


@dataclass(frozen=True)
class Pool:
    """Cells that make up one mean.

    Attributes:
        keys: (corruption, severity) of the cells, sorted.
        mpc: metric id of their mean accuracy.
        ece: of the ECE of their pooled rows; empty: not asked for.
        means: of other means, and the quantity of each (`tasks.Rules.values`).
    """

    keys: tuple[tuple[str, int], ...]
    mpc: str
    ece: str = ""
    means: tuple[tuple[str, str], ...] = ()


def pools(keys: Iterable[tuple[str, int]], pooled: Pooled) -> list[Pool]:
    """All pools of these cells: everything, each severity, each corruption.

    Args:
        keys: (corruption, severity) of the cells.
        pooled: what the task states of them besides accuracy.

    Example:
        >>> from edgesafe.measure.tasks import rules_of
        >>> from edgesafe.records import Task
        >>> [p.mpc for p in pools([("fog", 1), ("snow", 1)], rules_of(Task()).pooled)]
        ['mpc', 'mpc.severity.1', 'mpc.corruption.fog', 'mpc.corruption.snow']
    """
    cells = sorted(keys)
    severities, names = sorted({k[1] for k in cells}), sorted({k[0] for k in cells})
    return [
        _pool(tuple(cells), "all", "", pooled),
        *(_pool(tuple(k for k in cells if k[1] == s), "severity", f".severity.{s}", pooled) for s in severities),
        *(_pool(tuple(k for k in cells if k[0] == c), "corruption", f".corruption.{c}", pooled) for c in names),
    ]


def _pool(keys: tuple[tuple[str, int], ...], form: str, suffix: str, pooled: Pooled) -> Pool:
    ece = f"ece_em10_top1{suffix}" if form in pooled.ece else ""
    return Pool(keys, f"mpc{suffix}", ece, _means(form, suffix, pooled))


def _means(form: str, suffix: str, pooled: Pooled) -> tuple[tuple[str, str], ...]:
    """Ids and quantities of a pool's means. Of all cells together an id says so: "pck@2" is of the clean images."""
    return tuple((f"{quantity}{suffix or '.corrupted'}", quantity) for quantity in pooled.means.get(form, ()))


def benchmark_of(evidence: Evidence) -> int | None:
    """Images that each cell was drawn from: as recorded, else the clean images if the cells hold no others.

    Returns:
        Their number; None: not known.
    """
    sample = evidence.provenance.sample
    if sample is not None and sample.benchmark is not None:
        return sample.benchmark
    clean = evidence.clean.index
    known = all(np.isin(c.index, clean, assume_unique=True).all() for c in evidence.cells.values())
    return len(clean) if known else None


def population_of(images: str, design: Design) -> Population:
    """What an interval over these cells is about.

    Args:
        images: what the clean images stand for, in words.
        design: how the rows of the cells were drawn.
    """
    cells = len(design.sizes)
    if design.by is Clustering.IMAGE:
        return Population(kind=PopulationKind.IMAGES, description=f"{images}; the {cells} cells fixed, images drawn")
    return fixed_benchmark(images, design.benchmark, cells)


def fixed_benchmark(images: str, benchmark: int | None, cells: int) -> Population:
    """What an interval is about that a sample of a benchmark gave.

    Args:
        images: what the clean images stand for, in words.
        benchmark: images of each cell; None: not known.
        cells: of the benchmark.
    """
    size = f"{benchmark} images" if benchmark is not None else "all images"
    return Population(
        kind=PopulationKind.BENCHMARK, description=f"the fixed benchmark of {size} x {cells} cells ({images})"
    )
