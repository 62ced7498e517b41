"""Which units are drawn: nested, never twice, where answers change. (The estimates: test_margin.)"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure_fixtures import synthetic_evidence
from numpy.typing import NDArray

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    NonFiniteError,
    NothingEvaluated,
    UsageError,
)
from edgesafe.measure.sampling.draw import (
    Frame,
    MarginDraw,
    frame_of,
    looks,
    margin_strata,
    neyman,
    second_moments,
)


def world(units: int = 60_000, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Baseline margins, and changes that happen where the margin is small."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(3, 4, units)
    changed = rng.random(units) < 0.45 * np.exp(-np.abs(margin))
    return margin, np.where(changed, np.where(rng.random(units) < 0.6, -1.0, 1.0), 0.0)


def test_strata_part_the_units() -> None:
    margin, _ = world()
    strata = margin_strata(margin)
    assert len(strata.members) == 12
    assert (np.sort(np.concatenate(strata.members)) == np.arange(len(margin))).all()
    assert strata.sizes.min() > 0
    edges = [np.abs(margin[m]) for m in strata.members]
    assert all(a.max() <= b.min() for a, b in pairwise(edges))
    assert all((strata.of_unit[m] == h).all() for h, m in enumerate(strata.members))


@given(st.integers(12, 3000), st.integers(0, 1000))
def test_neyman_spends_exactly_the_budget(total: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 300, 6)
    taken = np.minimum(2, sizes)
    sd = rng.random(6) * (rng.random(6) < 0.7)
    more = neyman(sizes / sizes.sum(), sd, total, taken, sizes)
    assert (more >= 0).all()
    assert (taken + more <= sizes).all()
    assert (taken + more).sum() == min(max(total, taken.sum()), sizes.sum())


def test_neyman_is_proportional_to_weight_times_spread() -> None:
    w, sd = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.5])
    n = neyman(w, sd, 10_000, np.zeros(3, np.int64), np.full(3, 10**9))
    assert n / n.sum() == pytest.approx(w * sd / (w * sd).sum(), abs=1e-3)


def framed(margin: NDArray[Any]) -> Frame:
    n = len(margin)
    return Frame((("fog", 1),), np.zeros(n, np.int64), np.arange(n), margin, n)


def drawn(margin: NDArray[Any], change: NDArray[Any], totals: tuple[int, ...], seed: int = 0) -> list[NDArray[Any]]:
    """The units that each request named."""
    draw, asked = MarginDraw(framed(margin), seed), []
    for total in totals:
        while len(units := draw.ask(total)):
            draw.tell(units, change[units])
            asked.append(units)
        assert draw.taken == min(total, len(margin))
    return asked


def test_pilot_is_even_then_what_changes_is_taken() -> None:
    margin, change = world()
    strata = margin_strata(margin)
    pilot, rest = drawn(margin, change, (1500,))
    assert np.bincount(strata.of_unit[pilot], minlength=12).tolist() == [75] * 12
    taken = np.bincount(strata.of_unit[rest], minlength=12)
    assert taken[:8].sum() > 5 * taken[8:].sum()  # where the margin is small


def test_it_never_asks_twice_and_ends_with_everything() -> None:
    margin, change = world(3000)
    units = np.concatenate(drawn(margin, change, (100, 800, 10**6)))
    assert len(units) == len(np.unique(units)) == 3000


@given(st.integers(24, 1500), st.integers(0, 1500), st.integers(0, 50))
def test_a_larger_sample_begins_with_the_smaller(small: int, more: int, seed: int) -> None:
    margin, change = world(3000)
    first = np.concatenate(drawn(margin, change, (small,), seed))
    both = np.concatenate(drawn(margin, change, (small, small + more), seed))
    assert (both[: len(first)] == first).all()
    assert len(both) == small + more


def test_a_stratum_without_a_change_is_not_certain() -> None:
    found = second_moments(np.array([10.0, 0.0, 0.0]), np.array([40, 40, 40]))
    assert found[0] == pytest.approx(11 / 41)
    assert found[1] == pytest.approx(11 / 41 / 41)
    assert 0.0 < found[2] < found[1]


def test_looks_double_up_to_the_last() -> None:
    assert looks(1200, 19_200) == (1200, 2400, 4800, 9600, 19_200)
    assert looks(1200, 1200) == (1200,)


def told_too_little() -> None:
    draw = MarginDraw(framed(np.arange(300.0)), 0)
    draw.tell(draw.ask(100), np.zeros(3))


def told_nan() -> None:
    draw = MarginDraw(framed(np.arange(300.0)), 0)
    units = draw.ask(100)
    draw.tell(units, np.full(len(units), np.nan))


def asked_twice() -> None:
    draw = MarginDraw(framed(np.arange(300.0)), 0)
    draw.ask(100)
    draw.ask(100)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: margin_strata(np.zeros(10)), NothingEvaluated),
        (lambda: margin_strata(np.full(300, np.nan)), NonFiniteError),
        (lambda: MarginDraw(framed(np.arange(300.0)), 0).ask(10), UsageError),
        (asked_twice, UsageError),
        (told_too_little, DataError),
        (told_nan, NonFiniteError),
        (lambda: frame_of(synthetic_evidence(50)), NothingEvaluated),
        (lambda: frame_of(synthetic_evidence(50, {("a", 1): np.arange(9)}), {("b", 1)}), NothingEvaluated),
        (lambda: frame_of(synthetic_evidence(50, {("a", 1): np.arange(9), ("b", 1): np.arange(8)})), DataError),
        (lambda: looks(0, 5), UsageError),
    ],
)
def test_refusals(call: Any, error: type[EdgesafeError]) -> None:
    with pytest.raises(error):
        call()


def test_frame_asks_for_cells_and_images() -> None:
    cells = {("fog", 1): np.arange(0, 40, 2)[::-1], ("snow", 3): np.arange(20)}
    frame = frame_of(synthetic_evidence(50, cells))
    assert frame.keys == (("fog", 1), ("snow", 3))
    asked = frame.requests(np.array([1, 0, 20 + 7]))
    assert asked["fog", 1].tolist() == [0, 2]
    assert asked["snow", 3].tolist() == [7]
    assert set(frame.requests(np.array([3]))) == {("fog", 1)}
    assert frame.units(0, np.array([2, 38])).tolist() == [1, 19]
    assert frame.units(1, np.array([7])).tolist() == [27]
    with pytest.raises(NothingEvaluated):
        frame.units(0, np.array([3]))
