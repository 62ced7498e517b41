"""evaluate.hours: sizes that fit, intervals as they come, one choice a study, and a clear line when nothing fits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgesafe.errors import RecipeError, UsageError
from edgesafe.recipe import parsing
from edgesafe.stages import sizing
from edgesafe.stages.sizing import FileCost, Work


def work(files: list[FileCost], **changes: float) -> Work:
    plain = {"corruption_s": 0.003, "clean": 10_000, "cells": 75, "per_cell": 10_000, "compared": 750_000}
    return Work(files, **{**plain, **changes}, cpu="a CPU")  # type: ignore[arg-type]


COSTS = st.builds(
    FileCost, inference_s=st.floats(1e-4, 0.1), alone=st.booleans(), fixed=st.integers(0, 50_000)
)  # fmt: skip


@given(files=st.lists(COSTS, min_size=1, max_size=6), hours=st.floats(0.5, 500), corruption=st.floats(0, 0.05))
def test_what_is_chosen_fits_and_a_little_more_would_not(
    files: list[FileCost], hours: float, corruption: float
) -> None:
    asked = work(files, corruption_s=corruption)

    def takes(per_cell: int, budget: int) -> float:
        each = ((file, 75 * per_cell if file.alone else budget) for file in files)
        return sum(f.fixed * f.inference_s + n * (f.inference_s + corruption) for f, n in each)

    try:
        size = sizing.choose(hours, asked)
    except UsageError as error:
        least = (54, 1200)  # images of a first look
        assert takes(*least) > hours * 3600
        need = float(error.fix.removeprefix("give at least ").split(",")[0])
        assert sizing.choose(need, asked).seconds <= need * 3600
        return
    chosen = (size.images_per_cell or 0, size.budget or 0)
    assert size.seconds == pytest.approx(takes(*chosen)) and size.seconds <= hours * 3600 * (1 + 1e-9)
    whole = (size.images_per_cell in (None, 10_000)) and (size.budget in (None, 750_000))
    assert whole or takes(*(math.ceil(1.02 * n) + 1 for n in chosen)) > hours * 3600


@given(hours=st.lists(st.floats(1, 300), min_size=2, max_size=2))
def test_more_hours_never_choose_fewer_images(hours: list[float]) -> None:
    asked = work([FileCost(0.01, True, 10_000), FileCost(0.004, False, 10_000)])
    less, more = (sizing.choose(h, asked) for h in sorted(hours))
    assert (less.images_per_cell or 0) <= (more.images_per_cell or 0) and (less.budget or 0) <= (more.budget or 0)
    assert less.mpc is not None and more.mpc is not None and less.mpc >= more.mpc


def test_given_sizes_stay_the_most() -> None:
    size = sizing.choose(1e6, work([FileCost(0.01, True, 0), FileCost(0.01, False, 0)], per_cell=200, compared=5000))
    assert (size.images_per_cell, size.budget) == (200, 5000)


def test_widths_are_those_of_a_binomial() -> None:
    """Oracle: SciPy's binomial at half of the answers right; the quick default is known to give ±0.5 pp."""
    asked = work([FileCost(0.01, True, 0), FileCost(0.01, False, 0)], clean=2000)
    size = sizing.choose((33_000 + 9_750) * 0.013 / 3600 + 1e-6, asked)
    assert size.images_per_cell == 440 and abs(size.budget - 9_750) <= 1
    low, high = stats.norm.interval(0.95, 0.5, math.sqrt(stats.binom.var(33_000, 0.5)) / 33_000)
    assert size.mpc == pytest.approx((high - low) / 2, rel=1e-6)
    assert size.accuracy == pytest.approx(stats.norm.isf(0.025) * 0.5 / math.sqrt(2000), rel=1e-6)
    assert size.difference == pytest.approx(0.005, abs=0.0002)
    words = sizing.in_words(size)
    assert "440 images of each cell and 9,750" in words and "mPC within ±0.54 pp" in words


def test_hours_mean_quick_and_need_corruptions() -> None:
    assert parsing.load(None, ["evaluate.hours=2"]).evaluate.mode == "quick"
    for wrong, says in (
        (["evaluate.mode=full"], "hours goes with mode"),
        (["evaluate.corruptions=none"], "leave hours"),
    ):
        with pytest.raises(RecipeError, match=says):
            parsing.load(None, ["evaluate.hours=2", *wrong])
    with pytest.raises(RecipeError):
        parsing.load(None, ["evaluate.hours=0"])
