"""Fewer inferences for the same certainty: which units of a baseline's evidence a variant should be measured on.

Images that the baseline classifies by a wide margin hardly ever change under compression; those near the boundary do. A
variant is therefore measured in strata of the baseline's absolute margin, in stages (Neyman 1938): a pilot finds how
much each stratum changes, the rest is spent where it changes most. Nothing here runs a network, and what is measured
decides only *how many* units of each stratum are taken, never which. The estimates are in `margin`; docs/sampling.md
explains both.

A unit is one (corruption, severity, image) of the baseline's evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import (
    DataError,
    NonFiniteError,
    NothingEvaluated,
    UsageError,
)
from edgesafe.records import Evidence

__all__ = [
    "LEAST_UNITS",
    "Frame",
    "MarginDraw",
    "Strata",
    "frame_of",
    "looks",
    "margin_strata",
    "neyman",
    "second_moments",
]

_SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.15)
"""Of the units, from the smallest absolute margin on; a last stratum holds the rest. Finest where answers change."""

LEAST_UNITS = 200  #: below, a stratum would have one unit
PILOT = 900  #: units of the first stage, spread evenly over the strata


@dataclass(frozen=True)
class Frame:
    """All units that a variant can be measured on, in the order of the baseline's cells.

    Attributes:
        keys: (corruption, severity) of the cells, sorted.
        cell: int64 (units,), position in `keys`, rising.
        index: int64 (units,), position in the test set, rising within a cell.
        margin: float64 (units,), of the baseline: logit of the label minus the best other.
        per_cell: units of each cell.
    """

    keys: tuple[tuple[str, int], ...]
    cell: NDArray[np.int64]
    index: NDArray[np.int64]
    margin: NDArray[np.float64]
    per_cell: int

    @property
    def sha256(self) -> str:
        """Of everything that decides which strata the units belong to."""
        digest = hashlib.sha256(repr(self.keys).encode())
        for column in (self.cell, self.index, self.margin):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"sha256:{digest.hexdigest()}"

    def requests(self, units: NDArray[np.int64]) -> dict[tuple[str, int], NDArray[np.int64]]:
        """The test images that these units ask for, per cell: input of a corruption source and of `collect_cell`."""
        cells = self.cell[units]
        return {self.keys[c]: np.sort(self.index[units[cells == c]]) for c in np.unique(cells)}

    def units(self, cell: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The unit numbers of test images in a cell.

        Raises:
            NothingEvaluated: the baseline did not see one of them.
        """
        own = self.index[cell * self.per_cell : (cell + 1) * self.per_cell]
        at = np.minimum(np.searchsorted(own, index), len(own) - 1)
        if (own[at] != index).any():
            raise NothingEvaluated(
                "an image that the baseline did not see",
                where="{} {}".format(*self.keys[cell]),
                fix="measure both on the same images",
            )
        return cell * self.per_cell + at


def frame_of(baseline: Evidence, keys: Collection[tuple[str, int]] | None = None) -> Frame:
    """The units of a baseline's corrupted cells. mPC is their plain mean only if all cells have the same size.

    Args:
        baseline: evidence of the unpruned file.
        keys: only these cells; None: all.

    Raises:
        NothingEvaluated: no cells, or one that the baseline does not have.
        DataError: cells of different sizes.
    """
    wanted = tuple(sorted(baseline.cells if keys is None else keys))
    missing = [f"{name} {severity}" for name, severity in wanted if (name, severity) not in baseline.cells]
    if not wanted or missing:
        what = f"the baseline has no evidence of {missing[0]}" if missing else "the baseline has no corrupted cells"
        raise NothingEvaluated(what, where="sampling", fix="measure the baseline on it first")
    cells = [baseline.cells[key] for key in wanted]
    if len({len(c.index) for c in cells}) != 1:
        raise DataError(
            "cells of different sizes", where="sampling", fix="measure the baseline with the same number in each cell"
        )
    orders = [np.argsort(c.index, kind="stable") for c in cells]
    return Frame(
        keys=wanted,
        cell=np.repeat(np.arange(len(wanted), dtype=np.int64), len(cells[0].index)),
        index=np.concatenate([c.index[o] for c, o in zip(cells, orders, strict=True)]),
        margin=np.concatenate([c.margin[o] for c, o in zip(cells, orders, strict=True)]),
        per_cell=len(cells[0].index),
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
        """Number of units of each stratum: int64 (strata,)."""
        return np.array([len(m) for m in self.members], np.int64)

    @property
    def of_unit(self) -> NDArray[np.int64]:
        """The stratum of each unit: int64 (units,)."""
        stratum = np.empty(int(self.sizes.sum()), np.int64)
        for h, members in enumerate(self.members):
            stratum[members] = h
        return stratum


def margin_strata(margin: NDArray[Any]) -> Strata:
    """Twelve strata of rising absolute margin.

    Args:
        margin: (units,), logit of the label minus the best other, of the baseline.

    Raises:
        NothingEvaluated: fewer than `LEAST_UNITS` units.
        NonFiniteError: NaN or infinity.
    """
    m = np.abs(np.asarray(margin, np.float64))
    if m.ndim != 1 or len(m) < LEAST_UNITS:
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
        total: units in the end, those taken included.
        taken: int64 (strata,), so far.
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


def second_moments(sums: NDArray[np.float64], counts: NDArray[np.int64], prior: float = 1.0) -> NDArray[np.float64]:
    """E[d^2] per stratum, with one pseudo-observation at the rate of the stratum before, where more changes.

    So a stratum in which nothing changed yet is not taken for one in which nothing can.

    Args:
        sums: float64 (strata,), of d^2 over the units taken.
        counts: int64 (strata,), units taken.
        prior: E[d^2] before the first stratum; 1: everything changes.
    """
    out = np.empty(len(sums))
    before = prior
    for h, (total, n) in enumerate(zip(sums, counts, strict=True)):
        out[h] = before = (float(total) + before) / (int(n) + 1)
    return out


class MarginDraw:
    """Which units to measure next. Same frame, seed and answers: same units; a larger sample begins with a smaller.

    Example:
        draw = MarginDraw(frame, seed=0)
        while len(units := draw.ask(total)):
            draw.tell(units, changed_of(units))
    """

    def __init__(self, frame: Frame, seed: int) -> None:
        """Divide the units of a frame into strata and shuffle each by the seed.

        Raises:
            NothingEvaluated, NonFiniteError: see `margin_strata`.
        """
        self.strata = margin_strata(frame.margin)
        self.sizes = self.strata.sizes
        rng = np.random.Generator(np.random.PCG64(seed))
        self._orders = [rng.permutation(m) for m in self.strata.members]
        self._of_unit = self.strata.of_unit
        self._taken = np.zeros(len(self.sizes), np.int64)
        self._sums = np.zeros(len(self.sizes))
        self._squares = np.zeros(len(self.sizes))
        self._asked = 0

    @property
    def taken(self) -> int:
        """Number of units whose values were told so far."""
        return int(self._taken.sum())

    def ask(self, total: int) -> NDArray[np.int64]:
        """The next units of a sample that shall have `total` in the end: the pilot first, then the rest.

        Returns:
            int64 unit numbers; none when `total` is reached or every unit is taken.

        Raises:
            UsageError: fewer than 2 per stratum, or `ask` twice without `tell`.
        """
        count = len(self.sizes)
        if total < 2 * count or self._asked != self.taken:
            raise UsageError(
                f"a sample of {total} units", where="sampling", fix=f"ask for {2 * count} or more, in turn"
            )
        if self.taken == 0:
            first = -(-min(PILOT, total) // count)
            more = np.minimum(min(first, total // count), self.sizes)
        else:
            means = self._sums / self._taken
            sd = np.sqrt(np.maximum(second_moments(self._squares, self._taken) - means**2, 0.0))
            more = neyman(self.sizes / self.sizes.sum(), sd, total, self._taken, self.sizes)
        units = [o[k : k + m] for o, k, m in zip(self._orders, self._taken, more, strict=True)]
        self._asked += int(more.sum())
        return np.concatenate(units)

    def tell(self, units: NDArray[np.int64], values: NDArray[Any]) -> None:
        """What was found: the quantity whose spread decides, candidate right minus baseline right.

        Args:
            units: as `ask` gave them.
            values: (n,), finite, in the order of `units`.

        Raises:
            DataError: another number of values.
            NonFiniteError: NaN or infinity.
        """
        changes = np.asarray(values, np.float64)
        if changes.shape != units.shape:
            raise DataError(
                f"{changes.shape} values for {len(units)} units", where="sampling", fix="return one value per unit"
            )
        if not np.isfinite(changes).all():
            raise NonFiniteError("a value is not finite", where="sampling", fix="repair the network")
        which, size = self._of_unit[units], len(self.sizes)
        self._taken += np.bincount(which, minlength=size)
        self._sums += np.bincount(which, changes, minlength=size)
        self._squares += np.bincount(which, changes * changes, minlength=size)


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
    sizes: Sequence[int] = [first]
    while 2 * sizes[-1] <= 0.6 * last:
        sizes = [*sizes, 2 * sizes[-1]]
    return tuple(sizes) if sizes[-1] == last else (*sizes, last)
