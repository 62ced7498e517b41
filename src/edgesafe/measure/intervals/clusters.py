"""Covariances and noise of sums over rows that share images or cells.

An image that is easy in one corruption is easy in most: 75 corrupted copies of one image are nowhere near 75
independent images. Every interval over several cells therefore says what was drawn at random:

* `Clustering.IMAGE`: images were drawn, and each brings its rows in all cells with it (cluster-robust, Liang & Zeger
  1986);
* `Clustering.CELL`: each cell drew its own images from a fixed benchmark (stratified sampling, Cochran 1977, section
  5.6), with the finite-population correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NothingEvaluated
from edgesafe.measure.metrics.calibration import equal_mass_bins
from edgesafe.records import IntervalMethod

__all__ = ["Clustering", "Design", "covariance", "design_of", "folded_low", "gap_rows", "gaussian_noise", "within"]


class Clustering(StrEnum):
    """The unit that was drawn at random, within which rows depend on each other."""

    IMAGE = "image"  #: images, each with its rows in all cells
    CELL = "cell"  #: images anew in each cell


@dataclass(frozen=True)
class Design:
    """How the rows of several cells were drawn.

    Attributes:
        image: int64 (rows,), 0..m-1, equal for rows of the same test image.
        cell: int64 (rows,), 0..cells-1, rising.
        sizes: int64 (cells,), rows of each cell.
        shared: all cells hold the same images.
        benchmark: images that each cell was drawn from; None: not known, so that no sample is a large part of it.
    """

    image: NDArray[np.int64]
    cell: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shared: bool
    benchmark: int | None

    @property
    def images(self) -> int:
        """Number of different test images among the rows."""
        return int(self.image.max()) + 1

    @property
    def by(self) -> Clustering:
        """What was drawn: images, or images anew in each cell."""
        return Clustering.IMAGE if self.shared else Clustering.CELL

    @property
    def method(self) -> IntervalMethod:
        """The method that an interval from these rows' `covariance` is recorded with."""
        return IntervalMethod.CLUSTER_IMAGE if self.shared else IntervalMethod.CLUSTER_CELL


def design_of(indices: Sequence[NDArray[np.int64]], benchmark: int | None) -> Design:
    """The design of cells that hold these test images.

    Args:
        indices: int64 (n_c,) per cell, each index once within a cell.
        benchmark: images that a cell could have held; at least the largest cell; None: not known.

    Raises:
        NothingEvaluated: no cells, or an empty one.
    """
    if not indices or any(len(i) == 0 for i in indices):
        raise NothingEvaluated("no cell, or an empty one", where="cells", fix="measure every cell")
    sizes = np.array([len(i) for i in indices], np.int64)
    first = indices[0]
    shared = all(i is first or np.array_equal(i, first) for i in indices[1:])
    if shared:
        image = np.tile(np.arange(len(first), dtype=np.int64), len(indices))
    else:
        image = np.unique(np.concatenate(indices), return_inverse=True)[1].astype(np.int64)
    cell = np.repeat(np.arange(len(indices), dtype=np.int64), sizes)
    at_least = None if benchmark is None else max(benchmark, int(sizes.max()))
    return Design(image, cell, sizes, shared, at_least)


def covariance(values: NDArray[np.float64], design: Design, by: Clustering) -> NDArray[np.float64]:
    """Covariance of the column sums of `values`, cells being fixed strata.

    Args:
        values: float64 (rows, q), weights already multiplied in.
        design: of the rows.
        by: IMAGE: images are a sample of many more; CELL: each cell is a sample of the benchmark's images.

    Returns:
        float64 (q, q).

    Raises:
        DataError: a cell with one row has no spread.
    """
    if int(design.sizes.min()) < 2:
        raise DataError("a cell with 1 image has no spread", where="cells", fix="measure at least 2 images per cell")
    scale = design.sizes / (design.sizes - 1.0)
    if by is Clustering.CELL:
        seen = 0.0 if design.benchmark is None else design.sizes / design.benchmark
        return within(values, design.sizes, scale * (1.0 - seen))
    rest = _centred(values, design.sizes, scale)
    if design.shared:  # each cell lists the same images in the same order
        rest = rest.reshape(len(design.sizes), -1, rest.shape[1]).sum(axis=0)
    else:
        m = design.images
        rest = np.stack([np.bincount(design.image, rest[:, j], minlength=m) for j in range(rest.shape[1])], axis=1)
    result: NDArray[np.float64] = rest.T @ rest
    return result


def within(values: NDArray[np.float64], sizes: NDArray[np.int64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over strata of `scale` times the cross products (q, q) of their rows about the stratum's mean.

    Args:
        values: float64 (rows, q), stratum after stratum.
        sizes: int64 (strata,), rows of each, >= 1.
        scale: float64 (strata,).
    """
    rest = _centred(values, sizes, scale)
    result: NDArray[np.float64] = rest.T @ rest
    return result


def _centred(values: NDArray[np.float64], sizes: NDArray[np.int64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    means = np.add.reduceat(values, np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]
    which = np.repeat(np.arange(len(sizes)), sizes)
    rest: NDArray[np.float64] = (values - means[which]) * np.sqrt(scale)[which, None]
    return rest


def gap_rows(confidence: NDArray[np.float64], correct: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Each row's part of its equal-mass bin's signed gap.

    Args:
        confidence: float64 (n,), in [0, 1].
        correct: float64 0/1 (n,).
        bins: wanted.

    Returns:
        float64 (n, bins): (correct - confidence) / n in the row's bin, 0 elsewhere. The ECE is the sum of the absolute
        column sums.
    """
    n = len(confidence)
    order = np.argsort(confidence, kind="stable")
    starts = equal_mass_bins(confidence[order], bins)
    which = np.empty(n, np.int64)
    which[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, n)))
    out = np.zeros((n, bins))
    out[np.arange(n), which] = (correct - confidence) / n
    return out


def gaussian_noise(cov: NDArray[np.float64], replicates: int, seed: int) -> NDArray[np.float64]:
    """Normal draws (replicates, q) with that covariance, which may be singular."""
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    rng = np.random.Generator(np.random.PCG64(seed))
    draws: NDArray[np.float64] = rng.standard_normal((replicates, len(cov))) @ root.T
    return draws


def folded_low(gaps: NDArray[np.float64], noise: NDArray[np.float64], interval_level: float) -> float:
    """Lower end of an interval for a sum of absolute values, where the noise may be as large as the values.

    An ECE is a sum of |gap|, and noise only adds to it. The bootstrap is therefore inverted as a test: true gaps
    s * gaps are accepted while the observed sum is not in the upper tail of sum |s * gaps + noise|; the smallest
    accepted s gives the end. Far above the noise it is the bootstrap's own; within the noise it is 0.

    Args:
        gaps: float64 (q,), observed signed gaps.
        noise: float64 (replicates, q), centred draws of their sampling error.
        interval_level: two-sided.

    Returns:
        In [0, sum |gaps|].
    """
    total = float(np.abs(gaps).sum())
    rank = (1.0 + interval_level) / 2.0

    def upper(s: float) -> float:
        return float(np.quantile(np.abs(s * gaps + noise).sum(axis=1), rank))

    if total == 0.0 or upper(0.0) >= total:
        return 0.0
    a, b = 0.0, 1.0  # upper(1) >= total: the noise is centred and |.| is convex
    for _ in range(30):
        middle = 0.5 * (a + b)
        a, b = (middle, b) if upper(middle) < total else (a, middle)
    return 0.5 * (a + b) * total
