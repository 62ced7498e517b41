"""Procedural frost: five textures with the brightness, colour and roughness of frosted glass, made by rule.

A texture is the sum of three random fields: a smooth veil, crystals (ridges, 1 - |v|, sharpened), and grain that
changes from pixel to pixel. Five tints stand for the reference's five photographs: mean colour and contrast are copied
(statistics, not pixels), one of the tints twice. The share of grain is the one number that was fitted: with it a
third-party ResNet-20 loses the same accuracy as under the photographs (docs/decisions/042-procedural-frost.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import Profile, scale_of

__all__ = ["procedural_textures"]

GRAIN = 0.3  #: share of grain in the variance
VEIL = 0.6  #: share of the veil in the rest; the other share is crystals


@dataclass(frozen=True)
class Tint:
    """Look of one texture: mean R, G, B and standard deviation of luminance, 0..255."""

    mean: tuple[float, float, float]
    deviation: float


TINTS = (
    Tint((78, 149, 166), 18),
    Tint((201, 205, 215), 22),
    Tint((201, 205, 215), 22),
    Tint((138, 153, 166), 29),
    Tint((112, 123, 135), 43),
)

#: side of a texture in pixels at the anchor size, and how far its features are enlarged against 32-px images
_SIDES = {Profile.CIFAR: (160, 1.0), Profile.TINY: (240, 1.5), Profile.IMAGENET: (640, 5.0)}


def _lattice(stream: Stream, side: int, cell: float) -> NDArray[np.float64]:
    """Smooth random field: float64 (side, side), random values `cell` px apart, interpolated smoothly; mean about 0."""
    knots = int(side / cell) + 3
    values = (stream.uniform(knots * knots) * 2 - 1).reshape(knots, knots)
    where = np.arange(side) / cell
    left = np.floor(where).astype(np.int64)
    t = where - left
    t = t * t * (3 - 2 * t)
    wide = values[:, left] * (1 - t) + values[:, left + 1] * t
    field: NDArray[np.float64] = wide[left] * (1 - t)[:, None] + wide[left + 1] * t[:, None]
    return field


def _standard(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shifted and scaled to mean 0, deviation 1; sums are of whole numbers, so the same on every machine."""
    steps = np.rint(field * 2.0**16).astype(np.int64)
    mean = int(steps.sum()) / steps.size
    square = int((steps * steps).sum()) / steps.size
    centred = field - mean * 2.0**-16
    centred /= math.sqrt(square - mean * mean) * 2.0**-16
    return centred


def _texture(number: int, side: int, zoom: float) -> NDArray[np.float64]:
    """One grey texture, mean 0, deviation 1: float64 (side, side); features are enlarged by `zoom`."""
    stream = Stream(0, "procedural frost", number, np.zeros(1, np.int64))
    veil = _lattice(stream, side, 24 * zoom) + 0.6 * _lattice(stream, side, 12 * zoom)
    crystals = np.zeros((side, side))
    for octave in range(3):
        ridge = 1 - np.abs(_lattice(stream, side, 10 * zoom / 2**octave))
        crystals += ridge * ridge * 0.7**octave
    grain = _lattice(stream, side, max(1.0, zoom))
    calm = math.sqrt((1 - GRAIN) * VEIL) * _standard(veil) + math.sqrt((1 - GRAIN) * (1 - VEIL)) * _standard(crystals)
    return _standard(calm + math.sqrt(GRAIN) * _standard(grain))


def procedural_textures(profile: Profile, height: int, width: int) -> tuple[NDArray[np.uint8], ...]:
    """Five textures, uint8 (side, side, 3), at least twice as large as the images; the same on every machine."""
    side, zoom = _SIDES[profile]
    scale = scale_of(profile, height, width)
    side = max(round(side * scale), 2 * max(height, width))
    textures = []
    for number, tint in enumerate(TINTS):
        grey = _texture(number, side, max(0.25, zoom * scale))
        colour = np.array(tint.mean) + grey[..., None] * tint.deviation
        textures.append(np.clip(np.rint(colour), 0, 255).astype(np.uint8))
    return tuple(textures)
