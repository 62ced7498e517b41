"""The parameters of every corruption, severity and image size, copied from the published generators.

Source: Hendrycks & Dietterich, arXiv 1903.12261, and the generators of CIFAR-10-C (32 px), Tiny-ImageNet-C (64 px) and
ImageNet-C (224 px). A *profile* is one of these three tables. It is chosen by the shorter side of the image and
recorded with the result; parameters are never interpolated between profiles.

Parameters in pixels (radii, widths, displacements) hold at the profile's anchor size and scale with the shorter side
elsewhere; parameters of intensity (noise, contrast, fog, JPEG quality) never scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgesafe.errors import DataError, hint
from edgesafe.recipe.sections import CORRUPTIONS

__all__ = [
    "ALL",
    "EXTRAS",
    "MIN_SIDE",
    "NAMES",
    "Glass",
    "Profile",
    "Snow",
    "Spatter",
    "check_name",
    "check_severity",
    "defocus_parameters",
    "elastic_parameters",
    "frost_parameters",
    "glass_parameters",
    "motion_parameters",
    "not_meaningful",
    "pair",
    "profile_for",
    "scale_of",
    "snow_parameters",
    "spatter_parameters",
    "value",
    "zoom_factors",
]

NAMES: tuple[str, ...] = CORRUPTIONS
"""The 15 benchmark corruptions, in the order of the paper. mPC is the mean over these."""

EXTRAS: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four extra corruptions of the paper, meant for validation. They never enter mPC."""

ALL: tuple[str, ...] = NAMES + EXTRAS

MIN_SIDE = 8  #: below this many pixels the corruptions mean nothing; such images are refused
MIN_MEANINGFUL_SIDE = 16  #: below this the blurs hardly change an image
BLURS: tuple[str, ...] = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
MIN_BLUR_PX = 0.3  #: a scaled-down blur is not made weaker than this (unless the table itself is)


class Profile(StrEnum):
    """The published tables of parameters, each written for one size of images."""

    CIFAR = "cifar"
    TINY = "tiny"
    IMAGENET = "imagenet"

    @property
    def anchor(self) -> int:
        """The image side, in pixels, that the table was written for."""
        return {Profile.CIFAR: 32, Profile.TINY: 64, Profile.IMAGENET: 224}[self]


def profile_for(height: int, width: int) -> Profile:
    """The profile of an image size: cifar up to 48 px, tiny up to 112 px, imagenet above (shorter side).

    Raises:
        DataError: the shorter side is below 8 px.
    """
    side = min(height, width)
    if side < MIN_SIDE:
        raise DataError(f"images of {height}x{width} px are too small to corrupt", fix=f"use at least {MIN_SIDE} px")
    if side <= 48:
        return Profile.CIFAR
    return Profile.TINY if side <= 112 else Profile.IMAGENET


def not_meaningful(height: int, width: int) -> tuple[str, ...]:
    """Corruptions that exist at this size but mean little: the blurs below 16 px. To be said beside the results."""
    return BLURS if min(height, width) < MIN_MEANINGFUL_SIDE else ()


def scale_of(profile: Profile, height: int, width: int) -> float:
    """Factor for parameters in pixels: shorter side / anchor of the profile; exactly 1 at the anchor size."""
    return min(height, width) / profile.anchor


def check_name(corruption: str) -> None:
    """Refuse the name of a corruption that does not exist.

    Raises:
        DataError: not one of `ALL`.
    """
    if corruption not in ALL:
        raise DataError(f"unknown corruption {corruption!r}", where="corruptions", fix=hint(corruption, ALL))


def check_severity(severity: int) -> None:
    """Refuse a severity that is not one of the whole numbers 1 to 5.

    Raises:
        DataError: not 1, 2, 3, 4 or 5.
    """
    if isinstance(severity, bool) or severity not in (1, 2, 3, 4, 5):
        raise DataError(f"severity {severity!r} does not exist", where="severities", fix="use 1, 2, 3, 4 or 5")


_C, _T, _I = Profile.CIFAR, Profile.TINY, Profile.IMAGENET

# One number per severity; its meaning is in the comment.
_VALUES: dict[str, dict[Profile, tuple[float, ...]]] = {
    # standard deviation, of pixels in [0, 1]
    "gaussian_noise": {
        _C: (0.04, 0.06, 0.08, 0.09, 0.10),
        _T: (0.04, 0.08, 0.12, 0.15, 0.18),
        _I: (0.08, 0.12, 0.18, 0.26, 0.38),
    },
    # photons at full brightness
    "shot_noise": {_C: (500, 250, 100, 75, 50), _T: (250, 100, 50, 30, 15), _I: (60, 25, 12, 5, 3)},
    # share of values replaced by 0 or 255
    "impulse_noise": {
        _C: (0.01, 0.02, 0.03, 0.05, 0.07),
        _T: (0.01, 0.02, 0.05, 0.08, 0.14),
        _I: (0.03, 0.06, 0.09, 0.17, 0.27),
    },
    # standard deviation relative to the pixel
    "speckle_noise": {
        _C: (0.06, 0.1, 0.12, 0.16, 0.2),
        _T: (0.15, 0.2, 0.25, 0.3, 0.35),
        _I: (0.15, 0.2, 0.35, 0.45, 0.6),
    },
    # standard deviation in pixels (scales)
    "gaussian_blur": {_C: (0.4, 0.6, 0.7, 0.8, 1), _T: (0.5, 0.75, 1, 1.25, 1.5), _I: (1, 2, 3, 4, 6)},
    # added to the V of HSV
    "brightness": {_C: (0.05, 0.1, 0.15, 0.2, 0.3), _T: (0.1, 0.2, 0.3, 0.4, 0.5), _I: (0.1, 0.2, 0.3, 0.4, 0.5)},
    # distance from the mean is multiplied by this
    "contrast": {_C: (0.75, 0.5, 0.4, 0.3, 0.15), _T: (0.4, 0.3, 0.2, 0.1, 0.05), _I: (0.4, 0.3, 0.2, 0.1, 0.05)},
    # side of the reduced image relative to the full one
    "pixelate": {_C: (0.95, 0.9, 0.85, 0.75, 0.65), _T: (0.9, 0.8, 0.7, 0.6, 0.5), _I: (0.6, 0.5, 0.4, 0.3, 0.25)},
    # JPEG quality
    "jpeg_compression": {_C: (80, 65, 58, 50, 40), _T: (65, 58, 50, 40, 25), _I: (25, 18, 15, 10, 7)},
}  # fmt: skip

# Two numbers per severity.
_PAIRS: dict[str, dict[Profile, tuple[tuple[float, float], ...]]] = {
    # (radius, sigma of the anti-aliasing blur), pixels
    "defocus_blur": {
        _C: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        _T: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        _I: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
    # (radius, sigma), pixels
    "motion_blur": {
        _C: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        _T: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        _I: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
    # (end, step) of the range of zoom factors that starts at 1
    "zoom_blur": {
        _C: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        _T: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        _I: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    },
    # (weight of the image, weight of the frost)
    "frost": {
        _C: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        _T: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        _I: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    },
    # (strength, decay of the plasma's amplitude per level)
    "fog": {
        _C: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        _T: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        _I: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    },
    # saturation becomes S * first + second
    "saturate": {
        _C: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        _T: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        _I: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
}


@dataclass(frozen=True)
class Glass:
    """glass_blur: `sigma` px of the two Gaussian blurs, offsets in [-delta, delta) px, so many `iterations`."""

    sigma: float
    delta: int
    iterations: int


@dataclass(frozen=True)
class Snow:
    """snow: flakes ~ N(loc, scale), zoomed, cut below `threshold`, motion-blurred; the image is greyed by 1 - mix."""

    loc: float
    scale: float
    zoom: float
    threshold: float
    radius: float
    sigma: float
    mix: float


@dataclass(frozen=True)
class Spatter:
    """spatter: drops ~ N(loc, scale), blurred by `sigma` px, cut below `threshold`; water, or mud if `mud`."""

    loc: float
    scale: float
    sigma: float
    threshold: float
    blend: float  #: water: opacity; mud: sigma in px of the second blur
    mud: bool


_GLASS: dict[Profile, tuple[tuple[float, int, int], ...]] = {
    _C: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    _T: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    _I: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}

_SNOW_SMALL = (
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)
_SNOW: dict[Profile, tuple[tuple[float, ...], ...]] = {
    _C: tuple((*row, mix) for row, mix in zip(_SNOW_SMALL, (0.95, 0.9, 0.9, 0.85, 0.8), strict=True)),
    _T: tuple((*row, mix) for row, mix in zip(_SNOW_SMALL, (0.8, 0.8, 0.7, 0.65, 0.6), strict=True)),
    _I: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}

_SPATTER: dict[Profile, tuple[tuple[float, float, float, float, float, bool], ...]] = {
    _C: (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    _T: (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    _I: (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
}

# (alpha, sigma, affine) as multiples of a length that is not always the side: ImageNet-C's 244 is the original's typo.
_ELASTIC: dict[Profile, tuple[float, tuple[tuple[float, float, float], ...]]] = {
    _C: (32, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
    _T: (64, ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))),
    _I: (244, ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))),
}


def _blur_px(sigma: float, scale: float) -> float:
    """A blur width at another size: scaled, yet not below 0.3 px unless the table itself is below."""
    return sigma if scale == 1.0 else max(sigma * scale, min(sigma, MIN_BLUR_PX))


def value(corruption: str, profile: Profile, severity: int, scale: float = 1.0) -> float:
    """The single parameter of a corruption that has one; `gaussian_blur` is in pixels and scales."""
    number = _VALUES[corruption][profile][severity - 1]
    return _blur_px(number, scale) if corruption == "gaussian_blur" else number


def pair(corruption: str, profile: Profile, severity: int) -> tuple[float, float]:
    """The two parameters of fog or saturate (neither scales)."""
    return _PAIRS[corruption][profile][severity - 1]


def defocus_parameters(profile: Profile, severity: int) -> tuple[float, float]:
    """(radius, sigma of the anti-aliasing blur) in pixels, at the anchor size; `blur.scaled_kernel` scales them."""
    return _PAIRS["defocus_blur"][profile][severity - 1]


def motion_parameters(profile: Profile, severity: int, scale: float) -> tuple[float, float]:
    """(radius of the kernel, sigma along it) of motion_blur in pixels; `scale`: the image's side over the anchor."""
    radius, sigma = _PAIRS["motion_blur"][profile][severity - 1]
    return max(1.0, radius * scale), _blur_px(sigma, scale)


def glass_parameters(profile: Profile, severity: int, scale: float) -> Glass:
    """Parameters of glass_blur: sigma and the largest shift in pixels, scaled, and the number of passes."""
    sigma, delta, iterations = _GLASS[profile][severity - 1]
    return Glass(_blur_px(sigma, scale), max(1, round(delta * scale)), iterations)


def snow_parameters(profile: Profile, severity: int, scale: float) -> Snow:
    """Parameters of snow, with the length and the sigma of its motion blur in pixels scaled."""
    row = Snow(*_SNOW[profile][severity - 1])
    return Snow(
        row.loc, row.scale, row.zoom, row.threshold, max(1.0, row.radius * scale), _blur_px(row.sigma, scale), row.mix
    )


def spatter_parameters(profile: Profile, severity: int, scale: float) -> Spatter:
    """Parameters of spatter, with its blurs in pixels scaled; for water `blend` is a weight and does not scale."""
    row = Spatter(*_SPATTER[profile][severity - 1])
    blend = _blur_px(row.blend, scale) if row.mud else row.blend
    return Spatter(row.loc, row.scale, _blur_px(row.sigma, scale), row.threshold, blend, row.mud)


def elastic_parameters(profile: Profile, severity: int, scale: float) -> tuple[float, float, float]:
    """(alpha, sigma, affine) in pixels: size of the displacements, their smoothing, shift of the three corners."""
    length, rows = _ELASTIC[profile]
    alpha, sigma, affine = rows[severity - 1]
    return alpha * length * scale, sigma * length * scale, affine * length * scale


def frost_parameters(profile: Profile, severity: int) -> tuple[int, int]:
    """(weight of the image, weight of the frost) in hundredths."""
    image, ice = _PAIRS["frost"][profile][severity - 1]
    return round(image * 100), round(ice * 100)


def zoom_factors(profile: Profile, severity: int) -> tuple[float, ...]:
    """The zoom factors that are averaged. `np.arange` decides by rounding whether the end is included: keep it."""
    end, step = _PAIRS["zoom_blur"][profile][severity - 1]
    return tuple(float(f) for f in np.arange(1, end, step))
