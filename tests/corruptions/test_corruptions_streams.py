"""The keyed random numbers: known answers, uniformity, independence of what else is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgesafe.corruptions.streams import Stream, _mix, normal_quantiles


def test_splitmix64_known_answers():
    """The first numbers of SplitMix64 from state 1234567, as the public implementations give them."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * golden
    assert _mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def draw(seed, name, severity, indices, count=64):
    return Stream(seed, name, severity, np.asarray(indices, np.int64)).bits32(count)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(0, 2**63 - 1))
def test_an_image_has_its_own_numbers(indices, seed):
    together = draw(seed, "fog", 2, indices)
    for row, index in zip(together, indices, strict=True):
        assert np.array_equal(draw(seed, "fog", 2, [index])[0], row)


def test_seed_corruption_severity_and_index_all_matter():
    base = draw(0, "fog", 1, [3])
    for other in (draw(1, "fog", 1, [3]), draw(0, "snow", 1, [3]), draw(0, "fog", 2, [3]), draw(0, "fog", 1, [4])):
        assert (base != other).mean() > 0.9


def test_calls_go_on_where_the_last_one_stopped():
    stream = Stream(0, "fog", 1, np.arange(3))
    first, second = stream.uniform(4), stream.uniform(4)
    assert not np.intersect1d(first, second).size
    whole = Stream(0, "fog", 1, np.arange(3)).uniform(8)
    assert np.array_equal(np.concatenate([first, second], axis=1), whole)
    last = Stream(0, "fog", 1, np.arange(3)).uniform(8, last=True)
    assert np.array_equal(last.T, whole)


@pytest.mark.parametrize("bits", ["bits16", "bits32"])
def test_bits_are_uniform(bits):
    values = getattr(Stream(7, "x", 1, np.arange(200)), bits)(1001)
    assert values.shape == (200, 1001)
    scaled = (values.astype(float) + 0.5) / (np.iinfo(values.dtype).max + 1)
    assert stats.kstest(scaled.ravel(), "uniform").pvalue > 1e-3
    # neighbours, within an image and between images, are uncorrelated: 4 deviations of 1 / sqrt(n)
    for a, b in ((scaled[:, :-1], scaled[:, 1:]), (scaled[:-1], scaled[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


def test_normal_and_integers():
    z = Stream(3, "x", 1, np.arange(100)).normal(2000)
    assert stats.kstest(z.ravel().astype(float), "norm").pvalue > 1e-3
    assert np.abs(normal_quantiles() - stats.norm.ppf((np.arange(65536) + 0.5) / 65536)).max() < 1e-8
    whole = Stream(3, "x", 1, np.arange(60000)).integers(5)
    assert stats.chisquare(np.bincount(whole, minlength=5)).pvalue > 1e-3
    limits = np.array([1, 10, 100])
    assert (Stream(3, "x", 1, np.arange(3)).integers(limits) < limits).all()
