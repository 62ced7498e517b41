"""The reference generator's own random stream, from `numpy.random.seed` alone; for golden tests, not for measuring.

The reference calls numpy's global generator image after image. `RandomState` gives the same numbers; drawing for all
images at once reproduces drawing for each in turn, except where calls of different kinds alternate. These draws depend
on the order of the images, and for shot noise on their pixels, so they are no pure function of an image's index: use
`draw` for everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.engine import apply
from edgesafe.corruptions.spec import (
    Fields,
    FieldSpec,
    Setting,
    check_images,
)
from edgesafe.corruptions.weather import fog_side
from edgesafe.errors import DataError

ORDER = tables.ALL
"""The reference's order of corruptions; a corruption's number in it makes the golden data's seeds."""

_BIT_EXACT_NOISE = ("gaussian_noise", "speckle_noise")


def legacy_seed(corruption: str, severity: int) -> int:
    """The seed of the golden data: 1000 * (number of the corruption) + severity."""
    tables.check_name(corruption)
    return 1000 * ORDER.index(corruption) + severity


def corrupt_legacy(
    images: NDArray[np.uint8], corruption: str, severity: int, *, seed: int, spec: FieldSpec
) -> NDArray[np.uint8]:
    """Corrupt images in sequence, as the reference would after `np.random.seed(seed)`.

    Args:
        images: uint8 (n, H, W, C), from the first one on.
        corruption: any but impulse_noise, whose numbers scikit-image takes from a generator of its own.
        severity: 1..5.
        seed: of `np.random.seed`.
        spec: shape, profile, frost textures; its own seed is not used.

    Returns:
        uint8 (n, H, W, C).

    Raises:
        DataError: impulse_noise, or what `apply` refuses.
    """
    check_images(images)
    state = np.random.RandomState(seed)
    setting = spec.setting(corruption, severity)
    if corruption == "impulse_noise":
        raise DataError("impulse_noise has no legacy stream", where="legacy", fix="use corrupt")
    if corruption in _BIT_EXACT_NOISE:
        amount = tables.value(corruption, setting.profile, severity)
        field = state.normal(size=images.shape, scale=amount)
        return add_offsets(images, field if corruption == "gaussian_noise" else images / 255.0 * field)
    if corruption == "shot_noise":
        photons = tables.value(corruption, setting.profile, severity)
        counts = state.poisson(images / 255.0 * photons)
        return (np.clip(counts / photons, 0, 1) * 255).astype(np.uint8)
    arrays = _draw(state, len(images), setting, spec)
    return apply(images, corruption, severity, Fields(setting, len(images), arrays))


def add_offsets(images: NDArray[np.uint8], noise: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The reference's own arithmetic, trunc(clip(x / 255 + noise) * 255), for noise drawn by the legacy stream."""
    total = images / 255.0
    total += noise
    np.clip(total, 0, 1, out=total)
    total *= 255
    return total.astype(np.uint8)


def _glass(state: np.random.RandomState, n: int, s: Setting) -> dict[str, NDArray[Any]]:
    p = tables.glass_parameters(s.profile, s.severity, s.scale)
    size = (n, p.iterations, s.height - 2 * p.delta, s.width - 2 * p.delta, 2)
    return {"offsets": state.randint(-p.delta, p.delta, size=size)[:, :, ::-1, ::-1]}  # drawn from the bottom right


def _motion(state: np.random.RandomState, n: int, _: Setting) -> dict[str, NDArray[Any]]:
    return {"degrees": state.uniform(-45, 45, size=n)}


def _snow(state: np.random.RandomState, n: int, s: Setting) -> dict[str, NDArray[Any]]:
    p = tables.snow_parameters(s.profile, s.severity, s.scale)
    flakes, degrees = np.empty((n, s.height, s.width)), np.empty(n)
    for i in range(n):
        flakes[i] = state.normal(size=(s.height, s.width), loc=p.loc, scale=p.scale)
        degrees[i] = state.uniform(-135, -45)
    return {"flakes": flakes, "degrees": degrees}


def _fog(state: np.random.RandomState, n: int, s: Setting) -> dict[str, NDArray[Any]]:
    side = fog_side(s.height, s.width)
    return {"wobble": np.ascontiguousarray(state.random_sample((n, side * side - 1)).T)}


def _elastic(state: np.random.RandomState, n: int, s: Setting) -> dict[str, NDArray[Any]]:
    affine = tables.elastic_parameters(s.profile, s.severity, s.scale)[2]
    draws = state.random_sample((n, 6 + 2 * s.height * s.width))
    corners = (-affine + 2 * affine * draws[:, :6]).astype(np.float32).astype(np.float64)
    return {"corners": corners.reshape(n, 3, 2), "push": (2 * draws[:, 6:] - 1).reshape(n, 2, s.height, s.width)}


def _spatter(state: np.random.RandomState, n: int, s: Setting) -> dict[str, NDArray[Any]]:
    p = tables.spatter_parameters(s.profile, s.severity, s.scale)
    return {"drops": state.normal(size=(n, s.height, s.width), loc=p.loc, scale=p.scale)}


_DRAW = {
    "glass_blur": _glass,
    "motion_blur": _motion,
    "snow": _snow,
    "fog": _fog,
    "elastic_transform": _elastic,
    "spatter": _spatter,
}


def _frost(state: np.random.RandomState, n: int, spec: FieldSpec) -> dict[str, NDArray[Any]]:
    bank, (height, width, channels) = spec.textures, spec.shape
    where = np.empty((3, n), np.int64)
    for i in range(n):
        which = state.randint(len(bank.textures))
        high, wide = bank.textures[which].shape[:2]
        where[:, i] = which, state.randint(0, high - height), state.randint(0, wide - width)
    return {"ice": bank.crops(where[0], where[1], where[2], (height, width, channels))}


def _draw(state: np.random.RandomState, n: int, s: Setting, spec: FieldSpec) -> dict[str, NDArray[Any]]:
    """The fields of `draw`, from the reference's stream."""
    if s.corruption == "frost":
        return _frost(state, n, spec)
    return _DRAW[s.corruption](state, n, s) if s.corruption in _DRAW else {}
