"""A corrupted image is a pure function of (pixels, index, corruption, severity, seed)."""

from __future__ import annotations

import hashlib
import multiprocessing

import numpy as np
import pytest
from corruption_fixtures import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe import corruptions

CELLS = [(name, severity) for name in corruptions.ALL for severity in (2, 5)]
N = 520


@pytest.fixture(scope="module")
def many():
    return np.concatenate([picture(40, 32, 32)] * 13)


@pytest.mark.parametrize(("name", "severity"), CELLS)
def test_batches_of_1_7_and_512_give_the_same_bytes(many, name, severity):
    n = 64 if name == "spatter" else N
    where = np.arange(n) * 3 + 11
    whole = corruptions.corrupt(many[:n], where, name, severity, seed=9)
    assert whole.dtype == np.uint8
    assert whole.flags["C_CONTIGUOUS"]
    for size, upto in ((1, 12), (7, 42), (512, n)):
        parts = [
            corruptions.corrupt(many[i : min(i + size, n)], where[i : i + size], name, severity, seed=9)
            for i in range(0, upto, size)
        ]
        assert np.array_equal(np.concatenate(parts)[:upto], whole[:upto])
    order = np.random.default_rng(0).permutation(n)[: n // 2]
    assert np.array_equal(corruptions.corrupt(many[order], where[order], name, severity, seed=9), whole[order])


@settings(max_examples=25, deadline=None)
@given(
    cell=st.sampled_from([(n, s) for n in corruptions.NAMES for s in range(1, 6)]),
    indices=st.lists(st.integers(0, 23), min_size=1, max_size=12),
    seed=st.integers(0, 5),
)
def test_any_subset_in_any_order(cell, indices, seed):
    images = picture(24, 32, 32)
    whole = corruptions.corrupt(images, np.arange(24), *cell, seed=seed)
    chosen = np.array(indices)
    assert np.array_equal(corruptions.corrupt(images[chosen], chosen, *cell, seed=seed), whole[chosen])


def _digest(part: tuple[int, int]) -> list[str]:
    start, stop = part
    images, where = picture(24, 32, 32)[start:stop], np.arange(start, stop)
    out = []
    for i in range(stop - start):
        digest = hashlib.sha256()
        for name in corruptions.NAMES:
            digest.update(corruptions.corrupt(images, where, name, 3, seed=4)[i].tobytes())
        out.append(digest.hexdigest())
    return out


def test_one_and_two_processes_give_the_same_bytes():
    alone = _digest((0, 8))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_digest, [(0, 3), (3, 8)])
    assert first + second == alone


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 24, 3), (64, 64, 3), (72, 130, 3)])
@pytest.mark.parametrize("name", corruptions.ALL)
def test_other_shapes_do_not_depend_on_the_batch_either(name, shape):
    images, where = picture(4, *shape), np.array([8, 1, 5, 2])
    whole = corruptions.corrupt(images, where, name, 4)
    alone = [corruptions.corrupt(images[i : i + 1], where[i : i + 1], name, 4)[0] for i in range(4)]
    assert np.array_equal(whole, np.stack(alone))


@pytest.mark.parametrize("name", corruptions.ALL)
def test_draw_then_apply_is_corrupt(images, name):
    where = np.arange(24)
    spec = corruptions.FieldSpec((32, 32, 3), seed=2)
    fields = corruptions.draw(name, 3, where, spec)
    before = images.copy()
    assert np.array_equal(
        corruptions.apply(images, name, 3, fields), corruptions.corrupt(images, where, name, 3, seed=2)
    )
    again = corruptions.apply(images, name, 3, fields)
    assert not np.shares_memory(again, images)
    assert np.array_equal(images, before)


RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "snow", "frost",
    "fog", "elastic_transform", "spatter",
}  # fmt: skip


@pytest.mark.parametrize("name", corruptions.ALL)
def test_seed_and_index_matter_only_where_there_is_chance(images, name):
    where = np.arange(24)
    base = corruptions.corrupt(images, where, name, 4)
    assert (base != images).any()
    for other in (
        corruptions.corrupt(images, where, name, 4, seed=1),
        corruptions.corrupt(images, where + 100, name, 4),
    ):
        assert np.array_equal(base, other) == (name not in RANDOM)
