"""Which cells are pooled into which metric, and what an interval over them is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgesafe.measure.intervals.clusters import Design
from edgesafe.records import Evidence

__all__ = [
    "BENCHMARK",
    "CELLS",
    "DESIGN",
    "FRAME",
    "UNBOUNDED",
    "Pool",
    "benchmark_of",
    "describe",
    "fixed_benchmark",
    "is_about_benchmark",
    "pools",
]

DESIGN = "sample.design"  # in evidence.meta: "all", "cell" or "margin"
BENCHMARK = "sample.benchmark"  # in evidence.meta: images that each cell was drawn from
CELLS = "sample.cells"  # in evidence.meta: the cells that could be drawn from: "fog 1,fog 2"
FRAME = "sample.frame"  # in evidence.meta: hash of the units and strata that a "margin" sample was drawn from
UNBOUNDED = 10**12  # images of a benchmark whose size is not known: no finite-population correction


@dataclass(frozen=True)
class Pool:
    """Cells that make up one mean.

    Attributes:
        keys: (corruption, severity) of the cells, sorted.
        mpc: metric id of their mean accuracy.
        ece: of the ECE of their pooled rows; empty: not asked for.
        nll: of their mean NLL; empty: not asked for.
    """

    keys: tuple[tuple[str, int], ...]
    mpc: str
    ece: str = ""
    nll: str = ""


def pools(keys: Iterable[tuple[str, int]]) -> list[Pool]:
    """All pools of these cells: everything, each severity, each corruption.

    Example:
        >>> [p.mpc for p in pools([("fog", 1), ("snow", 1)])]
        ['mpc', 'mpc.severity.1', 'mpc.corruption.fog', 'mpc.corruption.snow']
    """
    cells = sorted(keys)
    found = [Pool(tuple(cells), "mpc")]
    for s in sorted({k[1] for k in cells}):
        own = tuple(k for k in cells if k[1] == s)
        found.append(Pool(own, f"mpc.severity.{s}", f"ece_em10_top1.severity.{s}", f"nll.severity.{s}"))
    for c in sorted({k[0] for k in cells}):
        own = tuple(k for k in cells if k[0] == c)
        found.append(Pool(own, f"mpc.corruption.{c}", f"ece_em10_top1.corruption.{c}"))
    return found


def benchmark_of(evidence: Evidence) -> int:
    """Images that each cell was drawn from: as recorded, else the clean images if the cells hold no others.

    Returns:
        Their number, or `UNBOUNDED`.
    """
    if (recorded := evidence.meta.get(BENCHMARK)) is not None:
        return int(recorded)
    clean = evidence.clean.index
    known = all(np.isin(c.index, clean, assume_unique=True).all() for c in evidence.cells.values())
    return len(clean) if known else UNBOUNDED


def describe(population: str, design: Design) -> str:
    """What an interval over these cells is about, in words."""
    cells = len(design.sizes)
    if design.by == "image":
        return f"{population}; the {cells} cells fixed, images drawn"
    return fixed_benchmark(population, design.benchmark, cells)


_FIXED = "the fixed benchmark of "


def fixed_benchmark(population: str, benchmark: int, cells: int) -> str:
    """What an interval is about that a sample of a benchmark gave, in words."""
    size = f"{benchmark} images" if benchmark < UNBOUNDED else "all images"
    return f"{_FIXED}{size} x {cells} cells ({population})"


def is_about_benchmark(population: str) -> bool:
    """Whether a stated population is a fixed benchmark, and not new images."""
    return population.startswith(_FIXED)
