"""Draw, apply, corrupt: the three calls that everything else is made of.

    fields  = draw(corruption, severity, indices, spec)      random, keyed by (seed, corruption, severity, image index)
    corrupt = apply(images, corruption, severity, fields)    deterministic

`corrupt` does both in pieces that fit the processor's cache. A corrupted image depends on nothing but its pixels, its
index, the corruption, the severity, the seed and the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import (
    blur,
    digital,
    elastic,
    jpeg,
    motion,
    noise,
    spatter,
    weather,
    zoom,
)
from edgesafe.corruptions.frost import FrostBank
from edgesafe.corruptions.spec import (
    Fields,
    FieldSpec,
    Setting,
    check_images,
    check_indices,
)
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError

__all__ = ["apply", "corrupt", "draw"]

_Draw = Callable[[Stream, Setting], Mapping[str, NDArray[Any]]]
_Apply = Callable[[NDArray[np.uint8], Fields], NDArray[np.uint8]]


def _draw_words(stream: Stream, setting: Setting) -> dict[str, NDArray[np.uint32]]:
    """words: uint32 (n, H * W * C), uniform."""
    return {"words": stream.bits32(setting.values)}


def _apply_noise(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Noise that is independent for each value."""
    s = fields.setting
    return noise.sample(images, fields["words"], noise.alias_table(s.corruption, s.profile, s.severity))


_DRAW: dict[str, _Draw] = {
    "gaussian_noise": _draw_words,
    "shot_noise": _draw_words,
    "impulse_noise": _draw_words,
    "speckle_noise": _draw_words,
    "glass_blur": blur.draw_glass_blur,
    "motion_blur": motion.draw_motion_blur,
    "snow": weather.draw_snow,
    "fog": weather.draw_fog,
    "elastic_transform": elastic.draw_elastic_transform,
    "spatter": spatter.draw_spatter,
}  # frost needs the textures, the others need nothing

_APPLY: dict[str, _Apply] = {
    "gaussian_noise": _apply_noise,
    "shot_noise": _apply_noise,
    "impulse_noise": _apply_noise,
    "defocus_blur": blur.apply_defocus_blur,
    "glass_blur": blur.apply_glass_blur,
    "motion_blur": motion.apply_motion_blur,
    "zoom_blur": zoom.apply_zoom_blur,
    "snow": weather.apply_snow,
    "frost": weather.apply_frost,
    "fog": weather.apply_fog,
    "brightness": weather.apply_brightness,
    "contrast": digital.apply_contrast,
    "elastic_transform": elastic.apply_elastic_transform,
    "pixelate": digital.apply_pixelate,
    "jpeg_compression": jpeg.apply_jpeg_compression,
    "speckle_noise": _apply_noise,
    "gaussian_blur": blur.apply_gaussian_blur,
    "spatter": spatter.apply_spatter,
    "saturate": digital.apply_saturate,
}

#: values (H * W * C * n) worked on at once: small enough for the cache, large where images share work
_PIECE = 3072 * 64
_LARGE_PIECE = {"motion_blur": 3072 * 1024, "snow": 3072 * 2048, "jpeg_compression": 3072 * 1024}


def draw(corruption: str, severity: int, indices: NDArray[np.int64], spec: FieldSpec) -> Fields:
    """Draw the random fields of some images.

    Args:
        corruption: one of `NAMES` or `EXTRAS`.
        severity: 1..5.
        indices: int64 (n,), positions in the test set; the only thing that tells images apart.
        spec: shape, seed, profile, frost textures.

    Raises:
        DataError: unknown corruption or severity, malformed indices.
    """
    setting = spec.setting(corruption, severity)
    indices = check_indices(indices)
    stream = Stream(spec.seed, corruption, setting.severity, indices)
    if corruption == "frost":
        return Fields(setting, len(indices), weather.draw_frost(stream, spec))
    drawer = _DRAW.get(corruption)
    return Fields(setting, len(indices), drawer(stream, setting) if drawer else {})


def apply(images: NDArray[np.uint8], corruption: str, severity: int, fields: Fields) -> NDArray[np.uint8]:
    """Corrupt images with fields drawn before; deterministic.

    Args:
        images: uint8 (n, H, W, C), C = 3 (RGB) or 1. Not modified.
        corruption: must be that of `fields`.
        severity: must be that of `fields`.
        fields: of `draw`, for as many images of the same shape.

    Returns:
        uint8 (n, H, W, C), C-contiguous; never the input itself.

    Raises:
        DataError: images and fields do not fit.
    """
    shape, s = check_images(images), fields.setting
    if (corruption, severity) != (s.corruption, s.severity):
        raise DataError(
            f"fields were drawn for {s.corruption} {s.severity}, not {corruption} {severity}", where="fields"
        )
    if shape != (s.height, s.width, s.channels) or len(images) != fields.n:
        expected = (fields.n, s.height, s.width, s.channels)
        raise DataError(f"images are {images.shape}, fields were drawn for {expected}", where="fields")
    if not len(images):
        return images.copy()
    result = _APPLY[corruption](np.ascontiguousarray(images), fields)
    result = np.ascontiguousarray(result)
    return result.copy() if np.shares_memory(result, images) else result


def corrupt(
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    corruption: str,
    severity: int,
    *,
    seed: int = 0,
    profile: Profile | str | None = None,
    frost: FrostBank | None = None,
) -> NDArray[np.uint8]:
    """Corrupt images; the result of each is the same for any batch, order, subset and number of processes.

    Args:
        images: uint8 (n, H, W, C), C = 3 (RGB) or 1.
        indices: int64 (n,), position of each image in its test set.
        corruption: one of `NAMES` or `EXTRAS`.
        severity: 1..5.
        seed: 0 <= seed < 2**63.
        profile: "cifar", "tiny" or "imagenet"; None: by image size.
        frost: textures; None: procedural.

    Returns:
        uint8 (n, H, W, C), C-contiguous.

    Raises:
        DataError: anything of the above does not hold, or an image is below 8 px.

    Example:
        >>> import numpy as np
        >>> image = np.full((1, 32, 32, 3), 128, np.uint8)
        >>> corrupt(image, np.array([7]), "contrast", 5).shape
        (1, 32, 32, 3)
    """
    shape = check_images(images)
    indices = check_indices(indices, len(images))
    spec = FieldSpec(shape, seed, profile, frost)
    setting = spec.setting(corruption, severity)
    out = np.empty(images.shape, np.uint8)
    piece = max(1, _LARGE_PIECE.get(corruption, _PIECE) // setting.values)
    for start in range(0, len(images), piece):
        part = slice(start, start + piece)
        fields = draw(corruption, severity, indices[part], spec)
        out[part] = _APPLY[corruption](np.ascontiguousarray(images[part]), fields)
    return out
