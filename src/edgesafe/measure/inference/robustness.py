"""Which images meet which corruption."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError, NothingEvaluated, UsageError

__all__ = ["QUICK_ALONE", "QUICK_PAIRED", "draw", "draw_within", "plan_cells"]

QUICK_ALONE = 33_000
"""Inferences over all cells that give mPC within ±0.5 pp at 95 %, whatever the accuracy is (decision 053)."""
QUICK_PAIRED = 9_750
"""Inferences that give the paired difference of mPC within ±0.5 pp if right or wrong changes on up to 6 % of the images
(3.7 % for a ResNet-20 that lost 30 % of its weights: ±0.4 pp)."""


def plan_cells(
    mode: Literal["full", "quick"],
    corruptions: Sequence[str],
    severities: Sequence[int],
    n_test: int,
    images_per_cell: int | None,
    seed: int,
    *,
    within: Mapping[tuple[str, int], NDArray[np.int64]] | None = None,
) -> dict[tuple[str, int], NDArray[np.int64]]:
    """The test images of each (corruption, severity).

    `full`: the first `images_per_cell` test images, the same in every cell, as in CIFAR-10-C. `quick`: each cell
    draws its own images at random without replacement, which makes the mean over cells about 12 times as precise per
    inference. A cell's draw depends on nothing but the seed, the corruption and the severity, and a larger draw
    begins with the smaller
    one: growing a sample never repeats an inference.

    Args:
        mode: "full" or "quick".
        corruptions: names.
        severities: 1..5.
        n_test: test images there are.
        images_per_cell: None: all (full), or `QUICK_ALONE` over the number of cells (quick; with `within`,
            `QUICK_PAIRED`).
        seed: of the quick draw.
        within: quick only: draw from these indices, the cells of a baseline's evidence, so that all images are paired.

    Returns:
        int64 indices per cell, rising, each once.

    Raises:
        NothingEvaluated: no cells, no test images, or a cell that `within` does not have.
        UsageError: an unknown mode, a severity outside 1..5, a name twice, or fewer than 2 images per cell in quick
            mode.
    """
    cells = [(c, s) for c in corruptions for s in severities]
    if not cells or n_test < 1:
        raise NothingEvaluated(
            f"{len(cells)} cells of {n_test} images", where="evaluate", fix="name corruptions and severities"
        )
    if len(set(cells)) != len(cells) or any(not 1 <= s <= 5 for _, s in cells):
        raise UsageError(
            "a corruption or severity comes twice, or a severity is outside 1 to 5",
            where="evaluate",
            fix="mend the lists",
        )
    if images_per_cell is not None and images_per_cell < 1:
        raise UsageError(f"{images_per_cell} images", where="evaluate.images_per_cell", fix="give 1 or more")
    if mode == "full":
        shared = np.arange(n_test if images_per_cell is None else min(images_per_cell, n_test), dtype=np.int64)
        return dict.fromkeys(cells, shared)
    if mode != "quick":
        raise UsageError(f"mode '{mode}'", where="evaluate.mode", fix="give full or quick")
    total = QUICK_ALONE if within is None else QUICK_PAIRED
    count = images_per_cell if images_per_cell is not None else -(-total // len(cells))
    if min(count, n_test) < 2:
        raise UsageError("1 image per cell has no spread", where="evaluate.images_per_cell", fix="give 2 or more")
    return {cell: draw_within(cell, n_test, count, seed, within) for cell in cells}


def draw_within(
    cell: tuple[str, int],
    n_test: int,
    count: int,
    seed: int,
    within: Mapping[tuple[str, int], NDArray[np.int64]] | None,
) -> NDArray[np.int64]:
    """As `draw`, of the test images that `within` holds for this cell; None: of all.

    Raises:
        NothingEvaluated, DataError: it holds fewer than 2, or a position that is no test image.
    """
    if within is None:
        return draw(n_test, count, seed, cell)
    if cell in within and len(within[cell]) >= 2:
        pool = np.sort(within[cell])
        if int(pool[-1]) >= n_test:
            raise DataError(
                f"index {int(pool[-1])} of {n_test} test images", where=f"{cell[0]} {cell[1]}", fix="use the same data"
            )
    else:
        raise NothingEvaluated(
            "the baseline has no evidence", where=f"{cell[0]} {cell[1]}", fix="measure the baseline on this cell"
        )
    keys = _keys(n_test, seed, cell)[pool]  # per test image: the draw of a subset is the subset of the draw
    return np.sort(pool[np.argsort(keys, kind="stable")[:count]])


def draw(n_test: int, count: int, seed: int, cell: tuple[str, int] = ("", 0)) -> NDArray[np.int64]:
    """`count` of the test images, at random for this cell; a larger draw holds the smaller one.

    Returns:
        int64, rising, each once; all of them if `count` is `n_test` or more.
    """
    return np.sort(np.argsort(_keys(n_test, seed, cell), kind="stable")[:count]).astype(np.int64)


def _keys(n_test: int, seed: int, cell: tuple[str, int]) -> NDArray[np.float64]:
    digest = hashlib.sha256(f"edgesafe.quick/1 {seed} {cell[0]} {cell[1]}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    return rng.random(n_test)
