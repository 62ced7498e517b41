"""Snow, frost, fog and brightness."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.motion import line_blur
from edgesafe.corruptions.spec import Fields, FieldSpec, Setting
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import Profile
from edgesafe.corruptions.zoom import zoom_planes

__all__ = [
    "apply_brightness",
    "apply_fog",
    "apply_frost",
    "apply_snow",
    "draw_fog",
    "draw_frost",
    "draw_snow",
    "fog_side",
]

_GUARD = np.float32(1e-3)
GREY = (0.299, 0.587, 0.114)  #: weights of R, G, B in luminance (ITU-R BT.601)


# ---------------------------------------------------------------------------------------------------------- snow


def draw_snow(stream: Stream, setting: Setting) -> dict[str, NDArray[np.float64] | NDArray[np.float32]]:
    """flakes: float32 (n, H, W), N(loc, scale); degrees: float64 (n,) uniform in [-135, -45)."""
    p = tables.snow_parameters(setting.profile, setting.severity, setting.scale)
    flakes = stream.normal(setting.height * setting.width)
    flakes *= np.float32(p.scale)
    flakes += np.float32(p.loc)
    return {
        "flakes": flakes.reshape(-1, setting.height, setting.width),
        "degrees": stream.uniform(1)[:, 0] * 90 - 135,
    }


def apply_snow(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Pale the image and add falling flakes, once as drawn and once turned by 180 degrees."""
    s = fields.setting
    p = tables.snow_parameters(s.profile, s.severity, s.scale)
    layer = fields["flakes"].astype(np.float32, copy=False)
    if p.zoom != 1:
        layer = zoom_planes(layer, p.zoom)
    layer = np.where(layer < np.float32(p.threshold), np.float32(0), layer)
    np.minimum(layer, 1, out=layer)
    layer *= 255
    flakes = line_blur(layer.astype(np.uint8)[..., None], fields["degrees"], p.radius, p.sigma)[..., 0]
    fallen = flakes.astype(np.float32)
    fallen += flakes[:, ::-1, ::-1]
    fallen += _GUARD
    planes = np.ascontiguousarray(images.transpose(3, 0, 1, 2)).astype(np.float32)
    pale = planes[0] * np.float32(GREY[0] if s.channels == 3 else 1)
    for plane, weight in zip(planes[1:], GREY[1:], strict=False):
        pale += plane * np.float32(weight)
    pale *= np.float32(1.5)
    pale += np.float32(127.5)
    out = np.empty_like(images)
    for c, plane in enumerate(planes):
        lifted = np.maximum(plane, pale)
        lifted *= np.float32(1 - p.mix)
        lifted += plane * np.float32(p.mix)
        lifted += fallen
        out[..., c] = np.minimum(lifted, 255, out=lifted)
    return out


# --------------------------------------------------------------------------------------------------------- frost


def draw_frost(stream: Stream, spec: FieldSpec) -> dict[str, NDArray[np.uint8]]:
    """ice: uint8 (n, H, W, C), a random crop of a random texture for each image."""
    bank, (height, width, channels) = spec.textures, spec.shape
    which = stream.integers(len(bank.textures))
    spare = np.array([[t.shape[0] - height, t.shape[1] - width] for t in bank.textures], np.int64)
    top, left = stream.integers(spare[which, 0]), stream.integers(spare[which, 1])
    return {"ice": bank.crops(which, top, left, (height, width, channels))}


def apply_frost(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """trunc(clip(a x + b ice)), in hundredths and whole numbers."""
    s = fields.setting
    a, b = tables.frost_parameters(s.profile, s.severity)
    # dtypes are spelled out: NumPy 1 would keep bytes times a small number in a byte
    total = np.multiply(images, a, dtype=np.uint16)
    total += np.multiply(fields["ice"], b, dtype=np.uint16)
    total //= np.uint16(100)
    np.minimum(total, 255, out=total)
    return total.astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------- fog


def fog_side(height: int, width: int) -> int:
    """Side of the plasma: the next power of two, at least 32, that covers the image (256 for 224 px)."""
    return max(32, 1 << (max(height, width) - 1).bit_length())


def draw_fog(stream: Stream, setting: Setting) -> dict[str, NDArray[np.float64]]:
    """wobble: float64 (side * side - 1, n) uniform in [0, 1), images last, in the order that the plasma uses them."""
    side = fog_side(setting.height, setting.width)
    return {"wobble": stream.uniform(side * side - 1, last=True)}


def plasma(wobble: NDArray[np.float64], side: int, decay: float) -> NDArray[np.float64]:
    """Diamond-square height maps in [0, 1]: float64 (side, side, n) from `wobble` (side * side - 1, n).

    As in the reference, the amplitude is the square of the wobble (it multiplies a draw from [-wobble, wobble]).
    """
    n = wobble.shape[1]
    height_map = np.zeros((side, side, n))
    step, size, used = side, 100.0, 0
    while step >= 2:
        half, k = step // 2, side // step
        draws = wobble[used : used + 3 * k * k].reshape(3, k, k, n)
        draws = size * (2 * size * draws - size)
        used += 3 * k * k
        corner = height_map[0::step, 0::step]
        square = corner + np.roll(corner, -1, 0)
        square = square + np.roll(square, -1, 1)
        centre = square / 4 + draws[0]
        height_map[half::step, half::step] = centre
        sides = (centre + np.roll(centre, 1, 0)) + (corner + np.roll(corner, -1, 1))
        height_map[0::step, half::step] = sides / 4 + draws[1]
        sides = (centre + np.roll(centre, 1, 1)) + (corner + np.roll(corner, -1, 0))
        height_map[half::step, 0::step] = sides / 4 + draws[2]
        step, size = half, size / decay
    height_map -= height_map.min((0, 1))
    height_map /= height_map.max((0, 1))
    return height_map


def apply_fog(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """(x + c plasma) * max / (max + c), max = the image's brightest value."""
    s = fields.setting
    c, decay = tables.pair("fog", s.profile, s.severity)
    maps = plasma(fields["wobble"], fog_side(s.height, s.width), decay)[: s.height, : s.width]
    mist = np.ascontiguousarray(maps.transpose(2, 0, 1))
    mist *= 255 * c
    brightest = images.reshape(len(images), -1).max(1) / 255.0
    share = (brightest / (brightest + c))[:, None, None]
    out = np.empty_like(images)
    total = np.empty_like(mist)
    for channel in range(s.channels):
        np.add(images[..., channel], mist, out=total)
        total *= share
        out[..., channel] = np.minimum(total, 255, out=total)
    return out


# ---------------------------------------------------------------------------------------------------- brightness


@lru_cache(maxsize=16)
def _bright_table(profile: Profile, severity: int) -> NDArray[np.uint8]:
    """Flat (65536,): new value of `value` in a pixel whose largest channel is `top`, at 256 top + value.

    Raising V of HSV by c multiplies the pixel by min(V + c, 1) / V; a black pixel becomes grey.
    """
    c = tables.value("brightness", profile, severity)
    level = np.arange(256) / 255.0
    raised = np.minimum(level + c, 1)
    ratio = np.ones(256)
    ratio[1:] = raised[1:] / level[1:]
    table = np.minimum(level[None] * ratio[:, None], 1)
    table[0] = raised[0]
    whole = (table * 255 + 1e-9).astype(np.uint8)
    whole[np.arange(256), np.arange(256)] = (raised * 255).astype(np.uint8)
    return whole.ravel()


def apply_brightness(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Raise the V of HSV, by table."""
    s = fields.setting
    table = _bright_table(s.profile, s.severity)
    top = images[..., 0]
    for channel in range(1, s.channels):
        top = np.maximum(top, images[..., channel])
    row = np.multiply(top, 256, dtype=np.intp)
    out = np.empty_like(images)
    for channel in range(s.channels):
        out[..., channel] = table.take(row + images[..., channel])
    return out
