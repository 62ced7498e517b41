"""The look-up tables of a range of lighting: training and pruning draw from those that certification enumerates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates import ids
from edgesafe.certificates.sets import PointSet
from edgesafe.errors import RecipeError, UsageError

__all__ = ["check", "tables"]


def check(asked: Mapping[str, str]) -> None:
    """The lightings of a recipe, before anything is computed.

    Args:
        asked: a set's id by the key of the recipe that says so.

    Raises:
        RecipeError: see `tables`; it names the key.
    """
    for key, text in asked.items():
        try:
            tables(text)
        except UsageError as error:
            raise RecipeError(f"'{text}': {error.what}", where=key, fix=error.fix) from None


def tables(text: str) -> NDArray[np.uint8]:
    """All distinct look-up tables of a set of point operations.

    Args:
        text: the set's id, such as "contrast=20%,brightness=25".

    Returns:
        uint8 (m, 256): the new value of each pixel value.

    Raises:
        UsageError: no such set, or it does not map each pixel value by itself.
    """
    finite = ids.parse(text)
    if not isinstance(finite, PointSet):
        raise UsageError(
            "this set moves pixels or depends on their place, and a lighting maps each pixel value by itself",
            where=finite.id,
            fix='use brightness, contrast, exposure or gamma, such as "contrast=20%,brightness=25"',
        )
    return finite.tables.luts
