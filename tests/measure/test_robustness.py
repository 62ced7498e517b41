"""Which images meet which corruption: pure, nested, paired; and cells collected from a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    NothingEvaluated,
    UsageError,
)
from edgesafe.measure.inference.robustness import (
    QUICK_ALONE,
    QUICK_PAIRED,
    plan_cells,
)
from edgesafe.recipe.sections import CORRUPTIONS

SEVERITIES = (1, 2, 3, 4, 5)


def test_full_is_the_first_images_everywhere() -> None:
    plan = plan_cells("full", CORRUPTIONS, SEVERITIES, 10_000, 2000, 0)
    assert len(plan) == 75
    assert all((i == np.arange(2000)).all() and i.dtype == np.int64 for i in plan.values())
    assert len(plan_cells("full", ["fog"], [1], 50, None, 0)["fog", 1]) == 50
    assert len(plan_cells("full", ["fog"], [1], 50, 99, 0)["fog", 1]) == 50


def test_quick_keeps_the_promised_number_of_inferences() -> None:
    alone = plan_cells("quick", CORRUPTIONS, SEVERITIES, 10_000, None, 0)
    assert sum(map(len, alone.values())) == QUICK_ALONE <= 35_000
    paired = plan_cells("quick", CORRUPTIONS, SEVERITIES, 10_000, None, 0, within=alone)
    assert sum(map(len, paired.values())) == QUICK_PAIRED <= 10_000
    assert all(np.isin(paired[k], alone[k]).all() for k in alone)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 99))
def test_quick_draws_are_nested_and_pure(small: int, large: int, seed: int) -> None:
    small, large = sorted((small, large))
    a = plan_cells("quick", ["fog", "snow"], [1, 4], 60, small, seed)
    b = plan_cells("quick", ["snow"], [4, 2, 1], 60, large, seed)
    assert np.isin(a["snow", 4], b["snow", 4]).all()
    assert len(np.unique(b["snow", 4])) == len(b["snow", 4]) == large
    assert (np.diff(b["snow", 4]) > 0).all()
    inside = plan_cells("quick", ["snow"], [4], 60, small, seed, within=b)
    assert (inside["snow", 4] == a["snow", 4]).all()


def test_quick_draws_differ_between_cells_and_seeds() -> None:
    plan = plan_cells("quick", CORRUPTIONS, SEVERITIES, 10_000, 100, 0)
    other = plan_cells("quick", CORRUPTIONS, SEVERITIES, 10_000, 100, 1)
    assert len({i.tobytes() for i in (*plan.values(), *other.values())}) == 150
    used = np.bincount(np.concatenate(list(plan.values())), minlength=10_000)
    assert used.mean() == 0.75
    assert used.max() < 10  # Poisson(0.75): ten or more among 10,000 has probability 1e-5


@pytest.mark.parametrize(
    ("kw", "error"),
    [
        ({"corruptions": []}, NothingEvaluated),
        ({"severities": []}, NothingEvaluated),
        ({"n_test": 0}, NothingEvaluated),
        ({"severities": [6]}, UsageError),
        ({"corruptions": ["fog", "fog"]}, UsageError),
        ({"images_per_cell": 0}, UsageError),
        ({"images_per_cell": 1}, UsageError),
        ({"mode": "fast"}, UsageError),
        ({"within": {}}, NothingEvaluated),
        ({"within": {("fog", 1): np.array([3])}}, NothingEvaluated),
        ({"within": {("fog", 1): np.array([3, 900])}}, DataError),
    ],
)
def test_plans_that_measure_nothing_are_refused(kw: dict[str, Any], error: type[EdgesafeError]) -> None:
    good: dict[str, Any] = {
        "mode": "quick", "corruptions": ["fog"], "severities": [1], "n_test": 100, "images_per_cell": 10, "seed": 0
    }  # fmt: skip
    plan_cells(**good)
    with pytest.raises(error):
        plan_cells(**{**good, **kw})
