"""Point operations on 8-bit images as finite lists of look-up tables, exactly.

A point operation maps every pixel value by itself, so a range of its parameter makes finitely many distinct tables of
256 values. A table changes only where the operation, before rounding, passes a half. Those thresholds are rational for
brightness, contrast and exposure: they are found, compared and sorted as fractions, without floating point. For gamma
they are quotients of logarithms, which no rational gamma equals and no two entries share (docs/certificates.md), and
are sorted with 50 digits.

    brightness=L     x + d                     d = -L..L, whole levels
    contrast=P%      m + (1 + c) (x - m)       |c| <= P %, m = 127.5; a half rounds away from m
    exposure=P%      (1 + c) x                 |c| <= P %; a half rounds up
    gamma=A..B       255 (x / 255) ** g        A <= g <= B; a half rounds up

Every result is rounded once and clipped to 0..255.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["PIVOT", "Tables", "brightness", "compose", "distinct_rows", "gamma", "linear"]

PIVOT = 255  #: twice the pivot of contrast, 127.5, so that it is a whole number
_DIGITS = 50  #: of gamma's thresholds; the nearest two for gammas from 0.1 to 10 differ by more than 1e-12


@dataclass(frozen=True)
class Tables:
    """The distinct look-up tables of a range of parameters.

    Attributes:
        luts: uint8 (n, 256), each row once.
        parameter: float64 (n, stages): for each stage, the parameter nearest to "no change" at which the table occurs.
        distance: float64 (n,): how far that is from "no change", in `unit`.
        unit: of `distance`, as words: "levels", "%", "% of gamma", "of the range".
    """

    luts: NDArray[np.uint8]
    parameter: NDArray[np.float64]
    distance: NDArray[np.float64]
    unit: str

    def __len__(self) -> int:
        return len(self.luts)


def distinct_rows(rows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows are the first of their kind, rising; and for every row, the position of its kind in that list.

    Args:
        rows: uint8 (n, m), n >= 1, m >= 1.

    Returns:
        int64 (kinds,) and int64 (n,).
    """
    packed = np.ascontiguousarray(rows)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[kind.ravel()]


def brightness(levels: int) -> Tables:
    """Every whole number of levels from -`levels` to `levels`, 1 <= `levels` <= 255."""
    offsets = np.arange(-levels, levels + 1)
    luts = np.clip(np.arange(256)[None] + offsets[:, None], 0, 255).astype(np.uint8)
    return Tables(luts, offsets[:, None].astype(np.float64), np.abs(offsets).astype(np.float64), "levels")


def linear(share: Fraction, pivot: int) -> Tables:
    """Every factor from 1 - `share` to 1 + `share` around a pivot.

    Args:
        share: 0 < share < 1.
        pivot: twice the pixel value that stays: `PIVOT` for contrast, 0 for exposure.
    """
    changes: dict[Fraction, list[tuple[int, int]]] = {}
    for x in range(256):
        d = 2 * x - pivot  # twice the distance from the pivot; the value is (pivot + (1 + c) d) / 2
        if d == 0:
            continue
        ends = sorted(((pivot + (1 - share) * d) / 2, (pivot + (1 + share) * d) / 2))
        for n in range(max(0, int(ends[0]) - 1), min(254, int(ends[1]) + 1) + 1):
            c = Fraction(2 * n + 1 - pivot, d) - 1  # the value is n + 1/2: from here on it rounds away from the pivot
            if -share < c <= share:
                changes.setdefault(c, []).append((x, n + 1 if d > 0 else n))
    start = [_linear_value(x, -share, pivot) for x in range(256)]
    places = sorted(changes)
    luts = _replay(start, (changes[c] for c in places))
    starts, ends_ = [-share, *places], [*places, share]
    nearest = [s if s > 0 else Fraction(0) if e > 0 else e for s, e in zip(starts, ends_, strict=True)]
    percent = np.array([float(100 * c) for c in nearest])
    return Tables(luts, percent[:, None], np.abs(percent), "%")


def _linear_value(x: int, c: Fraction, pivot: int) -> int:
    """Entry x of the table at exactly c: a half rounds away from the pivot."""
    value = (pivot + (1 + c) * (2 * x - pivot)) / 2
    up = (2 * value + 1) // 2
    rounded = up if 2 * x >= pivot else -((1 - 2 * value) // 2)
    return min(255, max(0, int(rounded)))


def _replay(start: list[int], changes: Iterable[list[tuple[int, int]]]) -> NDArray[np.uint8]:
    """The first table, and after each group of changes (entry, new value) the next one."""
    table = np.array(start, np.uint8)
    tables = [table]
    for group in changes:
        table = table.copy()
        for x, value in group:
            table[x] = value
        tables.append(table)
    return np.stack(tables)


def gamma(low: Fraction, high: Fraction) -> Tables:
    """Every exponent from `low` to `high`, 0 < low < high."""
    with localcontext(Context(prec=_DIGITS)):
        logs = [Decimal(0)] + [(Decimal(x) / 255).ln() for x in range(1, 256)]
        halves = [(Decimal(2 * n + 1) / 510).ln() for n in range(255)]
        a, b = (Decimal(g.numerator) / Decimal(g.denominator) for g in (low, high))
        start, changes = [0] * 256, []
        start[255] = 255
        for x in range(1, 255):
            start[x] = int(255 * (a * logs[x]).exp() + Decimal("0.5"))
            for n in range(start[x] - 1, -1, -1):  # the value falls as gamma rises: it passes n + 1/2 downwards
                place = halves[n] / logs[x]
                if place >= b:
                    break
                changes.append((place, x, n))
        changes.sort()
        luts = _replay(start, ([(x, n)] for _, x, n in changes))
        edges = [a, *(place for place, _, _ in changes), b]
        nearest = [float(min(max(Decimal(1), s), e)) for s, e in pairwise(edges)]
    exponent = np.array(nearest)
    return Tables(luts, exponent[:, None], 100 * (np.maximum(exponent, 1 / exponent) - 1), "% of gamma")


def compose(stages: list[Tables]) -> Tables:
    """One stage after another, each stored in 8 bits.

    Args:
        stages: at least one; the product of their lengths is what memory must hold, times 256 bytes.
    """
    result = stages[0]
    if len(stages) == 1:
        return result
    share = result.distance / result.distance.max()
    for stage in stages[1:]:
        pairs = stage.luts[:, result.luts].transpose(1, 0, 2).reshape(-1, 256)  # the earlier stage varies slowest
        both = np.maximum(share[:, None], (stage.distance / stage.distance.max())[None]).ravel()
        earlier = np.repeat(result.parameter, len(stage), axis=0)
        parameter = np.concatenate([earlier, np.tile(stage.parameter, (len(result), 1))], axis=1)
        nearest_first = np.argsort(both, kind="stable")
        first, _ = distinct_rows(pairs[nearest_first])
        keep = np.sort(nearest_first[first])  # of equal tables the one nearest to "no change"
        result = Tables(pairs[keep], parameter[keep], both[keep], "of the range")
        share = result.distance
    return result
