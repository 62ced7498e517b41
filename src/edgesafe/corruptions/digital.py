"""The corruptions of pixel values and resolution that need no random numbers: contrast, pixelate and saturate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.spec import Fields

__all__ = ["apply_contrast", "apply_pixelate", "apply_saturate"]

_GUARD = np.float32(1e-3)
_BITS = 22  #: Pillow's fixed-point precision of resampling weights


def apply_contrast(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """(x - mean) * c + mean, with the mean of each image and channel."""
    s = fields.setting
    c = np.float32(tables.value("contrast", s.profile, s.severity))
    n, pixels = len(images), s.height * s.width
    # sums of bytes are whole numbers: exact in any order
    sums = images.reshape(n, pixels, s.channels).sum(1, dtype=np.uint32)
    lift = (sums / pixels).astype(np.float32) * (1 - c) + _GUARD
    total = images.reshape(n, pixels * s.channels) * c
    total += np.tile(lift, (1, pixels))
    np.minimum(total, 255, out=total)
    return total.astype(np.uint8).reshape(images.shape)


@lru_cache(maxsize=64)
def box_weights(size: int, reduced: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pillow's BOX filter from `size` to `reduced` <= size pixels.

    Returns:
        source: int64 (taps, reduced), which pixels.
        weight: int32 (taps, reduced), in 2**-22; the sum over taps is about 2**22.
    """
    ratio = size / reduced
    half = 0.5 * ratio
    rows: list[tuple[int, list[float]]] = []
    for i in range(reduced):
        centre = (i + 0.5) * ratio
        low, high = max(0, int(centre - half + 0.5)), min(size, int(centre + half + 0.5))
        inside = [1.0 if -0.5 < (j - centre + 0.5) / ratio <= 0.5 else 0.0 for j in range(low, high)]
        rows.append((low, [w / sum(inside) for w in inside]))
    taps = max(len(weights) for _, weights in rows)
    source = np.zeros((taps, reduced), np.int64)
    weight = np.zeros((taps, reduced), np.int32)
    for i, (low, weights) in enumerate(rows):
        source[:, i] = low
        for t, w in enumerate(weights):
            source[t, i] = low + t
            weight[t, i] = int(w * (1 << _BITS) + 0.5)
    return source, weight


def _reduce(a: NDArray[np.uint8], axis: int, reduced: int) -> NDArray[np.uint8]:
    """BOX along one axis, rounded to bytes, as Pillow does between its two passes."""
    source, weight = box_weights(a.shape[axis], reduced)
    shape = [1] * a.ndim
    shape[axis] = reduced
    total: NDArray[np.int32] | None = None
    for where, w in zip(source, weight, strict=True):
        part = a.take(where, axis=axis).astype(np.int32)
        part *= w.reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None  # noqa: S101
    total += 1 << (_BITS - 1)
    total >>= _BITS
    return total.astype(np.uint8)


def apply_pixelate(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Reduce with a box filter, enlarge with repeated pixels: Pillow's BOX in both directions."""
    s = fields.setting
    c = tables.value("pixelate", s.profile, s.severity)
    high, wide = max(1, int(s.height * c)), max(1, int(s.width * c))
    small = _reduce(_reduce(images, 2, wide), 1, high)
    rows = ((np.arange(s.height) + 0.5) * (high / s.height)).astype(np.int64)
    columns = ((np.arange(s.width) + 0.5) * (wide / s.width)).astype(np.int64)
    return small.take(rows, axis=1).take(columns, axis=2)


def apply_saturate(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """S of HSV becomes S * a + b; hue and V stay. Grey pixels have hue 0 (red), as in scikit-image. Greyscale stays.

    The detour over HSV follows scikit-image's order of operations: results are often exact half or whole levels, where
    another order would truncate differently.
    """
    s = fields.setting
    if s.channels == 1:
        return images
    a, b = tables.pair("saturate", s.profile, s.severity)
    red, green, blue = np.ascontiguousarray(images.transpose(3, 0, 1, 2)) / 255.0
    top = np.maximum(np.maximum(red, green), blue)
    spread = top - np.minimum(np.minimum(red, green), blue)
    grey = spread == 0
    safe = np.where(grey, 1.0, spread)
    hue = np.where(red == top, (green - blue) / safe, 0.0)
    hue = np.where(green == top, 2.0 + (blue - red) / safe, hue)
    hue = np.where(blue == top, 4.0 + (red - green) / safe, hue)
    hue = np.where(grey, 0.0, (hue / 6.0) % 1.0)
    saturation = np.where(grey, 0.0, spread / np.where(grey, 1.0, top))
    saturation = np.clip(saturation * a + b, 0, 1)
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    p = top * (1 - saturation)
    q = top * (1 - part * saturation)
    t = top * (1 - (1 - part) * saturation)
    choice = sector.astype(np.uint8) % 6
    out = np.empty_like(images)
    for channel, options in enumerate(((top, q, p, p, t, top), (t, top, top, q, p, p), (p, p, t, top, top, q))):
        out[..., channel] = np.clip(np.choose(choice, options), 0, 1) * 255
    return out
