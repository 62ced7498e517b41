"""Rows of cells: which, some of them, two parts of one cell together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesafe.records import Cell

__all__ = ["in_order", "joined", "rightness", "rows_of", "take"]


def take(c: Cell, rows: NDArray[np.int64]) -> Cell:
    """Some rows of a cell, in the order given."""
    return Cell(
        c.corruption, c.severity, c.index[rows], c.label[rows], c.prediction[rows], c.confidence[rows], c.nll[rows],
        c.margin[rows], None if c.errors is None else c.errors[rows],
    )  # fmt: skip


def in_order(c: Cell) -> Cell:
    """The same rows, by rising test image."""
    return take(c, np.argsort(c.index, kind="stable"))


def joined(a: Cell, b: Cell) -> Cell:
    """Two parts of one cell, by rising test image."""
    both = Cell(
        a.corruption, a.severity,
        np.concatenate([a.index, b.index]), np.concatenate([a.label, b.label]),
        np.concatenate([a.prediction, b.prediction]), np.concatenate([a.confidence, b.confidence]),
        np.concatenate([a.nll, b.nll]), np.concatenate([a.margin, b.margin]),
        None if a.errors is None or b.errors is None else np.concatenate([a.errors, b.errors]),
    )  # fmt: skip
    return in_order(both)


def rows_of(cell: Cell, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a cell holds these test images, all of which it must hold."""
    order = np.argsort(cell.index, kind="stable")
    rows: NDArray[np.int64] = order[np.searchsorted(cell.index[order], index)]
    return rows


def rightness(cell: Cell) -> NDArray[np.float64]:
    """1 where the prediction is the label, else 0: float64 (n,)."""
    right: NDArray[np.float64] = (cell.prediction == cell.label).astype(np.float64)
    return right
