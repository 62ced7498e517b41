"""What is stored of how far lighting moves a network's channels, against what must come out of a linear network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgesafe.recipe.sections import CompressSection
from edgesafe.records import DataBundle, ImageSet
from edgesafe.stages.deviation import deviation_of

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def bundle(validation: int) -> DataBundle:
    """Noise that no brightness of up to 20 levels clips."""
    rng = np.random.default_rng(0)

    def part(n: int) -> ImageSet:
        return ImageSet(rng.integers(40, 200, (n, 6, 6, 3)).astype(np.uint8), np.arange(n) % 2, "sha256:" + "0" * 64)

    return DataBundle("noise", MEAN, STD, part(50), part(validation), part(10))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


def test_a_linear_channel_moves_by_its_weights_and_the_levels() -> None:
    """Brightness adds d levels: a channel w moves by (sum w / std) d / 255, whatever the image."""
    data, section = bundle(30), CompressSection(method="usn", ratios=(0.5,), light="brightness=20", draws=4)
    model = network()
    found = deviation_of(model, data, section, seed=3)
    assert found is not None
    assert [layer.name for layer in found.layers] == ["0", "2"]
    assert (found.calibration.images, found.calibration.draws) == (30, 4)
    weights = model[0].weight.detach().double()[:, :, 0, 0].numpy()
    pixels = data.validation.images.astype(np.float64) / 255
    z = ((pixels - MEAN) / STD).reshape(-1, 3) @ weights.T
    moved = np.array(found.layers[0].relative) * z.var(axis=0) / (weights / STD).sum(axis=1) ** 2 * 255**2
    assert moved == pytest.approx(np.full(5, moved[0]), rel=2e-3)  # the mean square of d, the same for every channel
    assert 100 < moved[0] < 180  # its expectation is 140
    assert deviation_of(model, data, section, seed=3) == found
    assert deviation_of(model, data, section, seed=4) != found


def test_what_the_ranking_sees_is_not_what_is_shown() -> None:
    """Validation images: other training images do not change what is stored."""
    data, section = bundle(30), CompressSection(method="usn", ratios=(0.5,), light="brightness=20", draws=2)
    swapped = DataBundle(data.name, MEAN, STD, data.test, data.validation, data.test)
    assert deviation_of(network(), swapped, section, 0) == deviation_of(network(), data, section, 0)
