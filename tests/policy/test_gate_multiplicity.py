from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.policy.multiplicity import holm

P = st.floats(min_value=0, max_value=1, allow_nan=False)


def test_the_textbook_example():
    """p = 0.01, 0.04, 0.03, 0.005 (Wikipedia, Holm-Bonferroni method): at 5 % the first and the last are rejected."""
    assert holm((0.01, 0.04, 0.03, 0.005)) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_few():
    assert holm(()) == ()
    assert holm((0.3,)) == (0.3,)
    assert holm((1.0, 1.0)) == (1.0, 1.0)


@given(st.lists(P, min_size=1, max_size=6), st.sampled_from([0.01, 0.05, 0.2]))
def test_it_is_the_closed_test_with_bonferroni(ps, alpha):
    """An alarm stands where Bonferroni rejects every set of alarms that holds it (Marcus, Peritz, Gabriel 1976)."""
    adjusted = holm(ps)
    for i in range(len(ps)):
        sets = (s for size in range(1, len(ps) + 1) for s in combinations(range(len(ps)), size) if i in s)
        closed = max(min(1.0, len(s) * min(ps[k] for k in s)) for s in sets)
        assert adjusted[i] == pytest.approx(closed)
        if abs(closed - alpha) > 1e-9:
            assert (adjusted[i] <= alpha) == (closed <= alpha)


@given(st.lists(P, min_size=1, max_size=20), st.randoms())
def test_order_does_not_matter_and_nothing_gets_smaller(ps, random):
    order = list(range(len(ps)))
    random.shuffle(order)
    shuffled = holm([ps[i] for i in order])
    plain = holm(ps)
    assert [shuffled[order.index(i)] for i in range(len(ps))] == pytest.approx(list(plain))
    assert all(a >= p for a, p in zip(plain, ps, strict=True))


def test_the_family_wise_error_rate_holds_by_simulation():
    """Ten limits that are just met: a false FAIL in at most 5 % of runs (of 20,000: 3 standard errors are 0.5 %)."""
    import random

    generator, runs = random.Random(5), 20_000
    false = sum(min(holm([generator.random() for _ in range(10)])) <= 0.05 for _ in range(runs))
    assert 0.04 < false / runs < 0.055
