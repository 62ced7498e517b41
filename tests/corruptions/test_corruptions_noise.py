"""The noise tables against simulation, and the alias method against the table it samples."""

from __future__ import annotations

import numpy as np
import pytest

from edgesafe.corruptions import noise
from edgesafe.corruptions.tables import Profile, value

NAMES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


def simulate(name, profile, severity, v, n, rng):
    """What the reference does to a pixel value v, with numpy's own generators."""
    c = value(name, profile, severity)
    x = np.full(n, v / 255.0)
    if name == "gaussian_noise":
        out = x + rng.normal(scale=c, size=n)
    elif name == "speckle_noise":
        out = x + x * rng.normal(scale=c, size=n)
    elif name == "shot_noise":
        out = rng.poisson(x * c) / c
    else:
        replaced = rng.random(n) < c
        out = np.where(replaced, rng.random(n) < 0.5, x)
        return np.where(replaced, out * 255, v).astype(np.uint8)
    return (np.clip(out, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("name", NAMES)
def test_table_is_the_distribution(name, profile):
    rng = np.random.default_rng(0)
    for severity in (1, 5):
        table = noise.transition(name, profile, severity)
        assert table.shape == (256, 256)
        assert (table >= 0).all()
        assert np.allclose(table.sum(1), 1, atol=1e-12)
        for v in (0, 1, 40, 128, 254, 255):
            n = 40_000
            found = np.bincount(simulate(name, profile, severity, v, n, rng), minlength=256)
            expected = table[v] * n
            likely = expected > 5
            chi2 = ((found - expected)[likely] ** 2 / expected[likely]).sum()
            degrees = max(1, likely.sum() - 1)
            assert chi2 < degrees + 6 * np.sqrt(2 * degrees) + 10
            assert found[table[v] == 0].sum() == 0
            assert found[~likely].sum() < expected[~likely].sum() + 6 * np.sqrt(expected[~likely].sum() + 1)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_alias_method_samples_the_table(name, severity):
    """Sum what 2**32 equally likely words give: total variation below 2e-5 for every pixel value."""
    accept, alias = noise.alias_table(name, Profile.CIFAR, severity)
    accept, alias = accept.reshape(256, 256), alias.reshape(256, 256)
    assert (accept & 255 == 0).all()  # the low byte chooses the column and must not decide again
    keep = (accept >> 8) / 2**24
    reached = np.zeros((256, 256))
    for v in range(256):
        reached[v] += keep[v] / 256
        np.add.at(reached[v], alias[v], (1 - keep[v]) / 256)
    assert 0.5 * np.abs(reached - noise.transition(name, Profile.CIFAR, severity)).sum(1).max() < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_sampling_follows_the_table(name):
    rng = np.random.default_rng(1)
    images = np.full((1, 200, 500, 1), 90, np.uint8)
    words = rng.integers(0, 2**32, images.size, dtype=np.uint32)
    out = noise.sample(images, words, noise.alias_table(name, Profile.CIFAR, 4))
    assert out.shape == images.shape
    expected = noise.transition(name, Profile.CIFAR, 4)[90] * images.size
    found = np.bincount(out.ravel(), minlength=256)
    likely = expected > 5
    chi2 = ((found - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi2 < likely.sum() + 6 * np.sqrt(2 * likely.sum()) + 10
