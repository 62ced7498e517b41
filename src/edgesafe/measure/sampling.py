"""Fewer inferences for the same certainty: strata by the baseline's margin, and growing a sample until it decides.

Images that the baseline classifies by a wide margin hardly ever change under compression; those near the boundary do. A
paired difference is therefore estimated in strata of the baseline's absolute margin, in two stages (Neyman 1938): a
pilot finds how much each stratum changes, the rest is spent where it changes most. Nothing here runs a network: the
caller passes a function that measures the units it is asked for.

A unit is one (corruption, severity, image) of the baseline's evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NonFiniteError, NothingEvaluated, UsageError
from edgesafe.measure.intervals import Interval, z_value
from edgesafe.records import Evidence

__all__ = [
    "Decision",
    "Frame",
    "Strata",
    "TwoStage",
    "decide",
    "escalate",
    "frame_of",
    "look_z",
    "looks",
    "margin_strata",
    "neyman",
    "stratified",
    "two_stage",
]

_SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.15)
"""Of the units, from the smallest absolute margin on; a last stratum holds the rest. Finest where answers change."""


@dataclass(frozen=True)
class Frame:
    """All units of a benchmark, in the order of the baseline's cells.

    Attributes:
        keys: (corruption, severity) of the cells.
        cell: int64 (units,), position in `keys`.
        index: int64 (units,), position in the test set.
        right: float64 0/1 (units,), of the baseline.
        margin: float64 (units,), of the baseline.
    """

    keys: tuple[tuple[str, int], ...]
    cell: NDArray[np.int64]
    index: NDArray[np.int64]
    right: NDArray[np.float64]
    margin: NDArray[np.float64]

    def requests(self, units: NDArray[np.int64]) -> dict[tuple[str, int], NDArray[np.int64]]:
        """The test images that these units ask for, per cell: input of a corruption source and of `collect_cell`."""
        return {
            key: np.sort(self.index[units[self.cell[units] == c]])
            for c, key in enumerate(self.keys)
            if (self.cell[units] == c).any()
        }


def frame_of(baseline: Evidence) -> Frame:
    """The units of a baseline's corrupted cells. mPC is their plain mean only if all cells have the same size.

    Raises:
        NothingEvaluated: no cells.
        DataError: cells of different sizes.
    """
    keys = tuple(sorted(baseline.cells))
    if not keys:
        raise NothingEvaluated(
            "the baseline has no corrupted cells", where="sampling", fix="measure the baseline first"
        )
    cells = [baseline.cells[k] for k in keys]
    if len({len(c.index) for c in cells}) != 1:
        raise DataError(
            "cells of different sizes", where="sampling", fix="measure the baseline with the same number in each cell"
        )
    return Frame(
        keys,
        np.repeat(np.arange(len(keys), dtype=np.int64), len(cells[0].index)),
        np.concatenate([c.index for c in cells]),
        np.concatenate([c.prediction == c.label for c in cells]).astype(np.float64),
        np.concatenate([c.margin for c in cells]),
    )


@dataclass(frozen=True)
class Strata:
    """Units in groups, the smallest absolute margin first.

    Attributes:
        members: int64 unit numbers of each stratum.
    """

    members: tuple[NDArray[np.int64], ...]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Units in each."""
        return np.array([len(m) for m in self.members], np.int64)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of all units in each."""
        sizes: NDArray[np.float64] = self.sizes / self.sizes.sum()
        return sizes


def margin_strata(margin: NDArray[Any]) -> Strata:
    """Twelve strata of rising absolute margin.

    Args:
        margin: (units,), logit of the label minus the best other, of the baseline.

    Raises:
        NothingEvaluated: fewer than 200 units: a stratum would have one.
        NonFiniteError: NaN or infinity.
    """
    m = np.abs(np.asarray(margin, np.float64))
    if m.ndim != 1 or len(m) < 200:
        raise NothingEvaluated(f"{m.size} units", where="sampling", fix="measure all of them, there are so few")
    if not np.isfinite(m).all():
        raise NonFiniteError("a margin is not finite", where="sampling", fix="measure the baseline again")
    order = np.argsort(m, kind="stable").astype(np.int64)
    cuts = np.rint(np.cumsum(_SHARES) * len(m)).astype(np.int64)
    return Strata(tuple(np.sort(part) for part in np.split(order, cuts)))


def neyman(
    weights: NDArray[np.float64],
    sd: NDArray[np.float64],
    total: int,
    taken: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many more units to take of each stratum (Neyman's optimum, given what was taken).

    Args:
        weights: float64 (strata,), sum 1.
        sd: float64 (strata,), >= 0, standard deviations of the quantity.
        total: units in the end, pilot included.
        taken: int64 (strata,), of the pilot.
        sizes: int64 (strata,), units there are.

    Returns:
        int64 (strata,), >= 0; sums to total - sum(taken) unless the strata are exhausted.
    """
    more = np.zeros(len(weights), np.int64)
    left = max(0, min(total, int(sizes.sum())) - int(taken.sum()))
    share = weights * sd if (weights * sd).any() else weights
    while left > 0:
        room = sizes - taken - more
        open_share = np.where(room > 0, share, 0.0)
        if not open_share.any():
            open_share = np.where(room > 0, weights, 0.0)
        goal = (taken + more).sum(where=room > 0) + left
        wanted = np.maximum(open_share / open_share.sum() * goal - (taken + more), 0.0) * (room > 0)
        scaled = wanted * left / wanted.sum()
        add = np.minimum(np.floor(scaled).astype(np.int64), room)
        if not add.any():
            add[int(np.argmax(np.where(room > 0, scaled, -1.0)))] = 1
        more += add
        left -= int(add.sum())
    return more


def _second_moments(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """E[d^2] per stratum, with one pseudo-observation at the rate of the stratum before, where more changes.

    So a stratum in which nothing changed yet is not taken for one in which nothing can.
    """
    out = np.empty(len(values))
    before = 1.0
    for h, d in enumerate(values):
        out[h] = before = (float((d * d).sum()) + before) / (len(d) + 1)
    return out


def stratified(strata: Strata, values: Sequence[NDArray[Any]], confidence: float = 0.95) -> Interval:
    """Mean over all units from samples of the strata (Cochran 1977, section 5.6), about the fixed benchmark.

    Args:
        strata: of the units.
        values: per stratum, (n_h,), n_h >= 2, for example candidate right minus baseline right, in [-1, 1].
        confidence: two-sided.

    Raises:
        NothingEvaluated: a stratum with fewer than 2 values.
        NonFiniteError: NaN or infinity.
        DataError: another number of strata.
    """
    columns = [np.asarray(v, np.float64) for v in values]
    if len(columns) != len(strata.members):
        raise DataError(f"{len(columns)} samples, {len(strata.members)} strata", where="sampling", fix="give one each")
    if min(len(c) for c in columns) < 2:
        raise NothingEvaluated("a stratum with fewer than 2 values", where="sampling", fix="take a larger pilot")
    if not all(np.isfinite(c).all() for c in columns):
        raise NonFiniteError("a value is not finite", where="sampling", fix="repair the network")
    n = np.array([len(c) for c in columns])
    means = np.array([c.mean() for c in columns])
    variances = np.maximum(_second_moments(columns) - means**2, 0.0)
    estimate = float(strata.weights @ means)
    se = math.sqrt(float((strata.weights**2 * variances / n * (1.0 - n / strata.sizes)).sum()))
    half = z_value(confidence) * se
    return Interval(estimate, estimate - half, estimate + half, se, confidence, int(n.sum()), "two-stage-margin")


@dataclass(frozen=True)
class TwoStage:
    """A two-stage estimate.

    Attributes:
        interval: of the mean over all units of the frame.
        units: int64, those measured, in the order taken.
        allocation: int64 (strata,), how many of each stratum.
    """

    interval: Interval
    units: NDArray[np.int64]
    allocation: NDArray[np.int64]


def two_stage(
    strata: Strata,
    measure: Callable[[NDArray[np.int64]], NDArray[Any]],
    *,
    total: int,
    pilot: int = 900,
    seed: int = 0,
    confidence: float = 0.95,
) -> TwoStage:
    """Estimates the mean of a quantity over all units from `total` of them.

    Args:
        strata: of the units.
        measure: given unit numbers int64 (n,), returns the quantity of each (n,), for example candidate right minus
            baseline right. Called twice.
        total: units to measure, pilot included.
        pilot: of them, spread evenly over the strata.
        seed: of the draw.
        confidence: two-sided.

    Raises:
        UsageError: total < pilot, or a pilot of fewer than 2 per stratum.
        NothingEvaluated, NonFiniteError, DataError: see `stratified`.
    """
    count = len(strata.members)
    if pilot < 2 * count or total < pilot:
        raise UsageError(
            f"pilot {pilot} of {total}",
            where="sampling",
            fix=f"give a pilot of at least {2 * count} and a larger total",
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    orders = [rng.permutation(m) for m in strata.members]
    first = np.minimum(-(-pilot // count), strata.sizes)
    values = _ask(measure, [o[:k] for o, k in zip(orders, first, strict=True)])
    means = np.array([v.mean() for v in values])
    sd = np.sqrt(np.maximum(_second_moments(values) - means**2, 0.0))
    more = neyman(strata.weights, sd, total, first, strata.sizes)
    extra = _ask(measure, [o[k : k + m] for o, k, m in zip(orders, first, more, strict=True)])
    values = [np.concatenate([v, e]) for v, e in zip(values, extra, strict=True)]
    taken = [o[: k + m] for o, k, m in zip(orders, first, more, strict=True)]
    return TwoStage(stratified(strata, values, confidence), np.concatenate(taken), first + more)


def _ask(
    measure: Callable[[NDArray[np.int64]], NDArray[Any]], groups: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    units = np.concatenate(groups)
    answer = np.asarray(measure(units), np.float64) if len(units) else np.empty(0)
    if answer.shape != units.shape:
        raise DataError(
            f"{answer.shape} values for {len(units)} units", where="sampling", fix="return one value per unit"
        )
    if not np.isfinite(answer).all():
        raise NonFiniteError("a value is not finite", where="sampling", fix="repair the network")
    return np.split(answer, np.cumsum([len(g) for g in groups])[:-1])


class Decision(StrEnum):
    """What a sample says about a limit."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


def looks(first: int, last: int) -> tuple[int, ...]:
    """Sample sizes of an escalation: doubling from `first`, ending with `last`.

    Raises:
        UsageError: not 0 < first <= last.

    Example:
        >>> looks(1000, 10_000)
        (1000, 2000, 4000, 10000)
    """
    if not 0 < first <= last:
        raise UsageError(f"from {first} to {last}", where="escalate", fix="give a first size up to the last")
    sizes = [first]
    while 2 * sizes[-1] <= 0.6 * last:
        sizes.append(2 * sizes[-1])
    return tuple(sizes) if sizes[-1] == last else (*sizes, last)


def look_z(count: int, confidence: float = 0.95) -> float:
    """One-sided normal bound of each of `count` looks that together err with 1 - confidence (Bonferroni).

    Example:
        >>> round(look_z(4), 2)
        2.24
    """
    if count < 1:
        raise UsageError(f"{count} looks", where="escalate", fix="give at least 1")
    return z_value(1.0 - 2.0 * (1.0 - confidence) / count)


def decide(worsening: float, se: float, limit: float, z: float) -> Decision:
    """Non-inferiority: pass if the upper bound of the worsening is within the limit, fail if the lower is above it.

    Args:
        worsening: estimate of how much worse the candidate is (a drop in accuracy, a rise in ECE).
        se: its standard error, finite, >= 0.
        limit: allowed worsening.
        z: bound in standard errors.

    Raises:
        NonFiniteError: any of them is not finite.
    """
    if not all(math.isfinite(v) for v in (worsening, se, limit, z)) or se < 0:
        raise NonFiniteError(f"worsening {worsening}, se {se}, limit {limit}", where="decide", fix="measure again")
    if worsening + z * se <= limit:
        return Decision.PASS
    return Decision.FAIL if worsening - z * se > limit else Decision.INCONCLUSIVE


def escalate(
    measure: Callable[[int], Interval], sizes: Sequence[int], limit: float, *, confidence: float = 0.95
) -> tuple[Decision, int, Interval]:
    """Measures with growing samples until the limit is decided or the sizes are used up.

    Args:
        measure: given a size, returns the estimate of the worsening from a sample of that size. Samples should be
            nested
            (those of `plan_cells` are), so that each look only adds to the last.
        sizes: rising, for example `looks(1000, 10_000)`.
        limit: allowed worsening.
        confidence: of the whole sequence: at most 1 - confidence of all sequences pass or fail wrongly.

    Returns:
        The decision, the size that decided (or the last), and its interval.

    Raises:
        NothingEvaluated: no sizes.
        UsageError: sizes do not rise.
        NonFiniteError: see `decide`.
    """
    if not sizes:
        raise NothingEvaluated("no sample sizes", where="escalate", fix="give at least one")
    if any(b <= a for a, b in pairwise(sizes)):
        raise UsageError(f"sizes {list(sizes)} do not rise", where="escalate", fix="sort them")
    z = look_z(len(sizes), confidence)
    for size in sizes:
        found = measure(size)
        decision = decide(found.estimate, found.se, limit, z)
        if decision is not Decision.INCONCLUSIVE:
            break
    return decision, size, found
