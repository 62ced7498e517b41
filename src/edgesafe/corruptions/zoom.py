"""Zoom blur: the mean of the image and of its zoomed copies, as one linear operator; also enlarges the flakes of snow.

A zoomed copy is `clipped_zoom` of the reference: crop the centre, enlarge with linear interpolation (scipy's zoom,
order 1), trim. Per axis that is a matrix with two entries in each row. Up to 64x64 pixels all copies are summed into
one matrix, whose weights are whole multiples of 2**-16: each sum then is a whole number below 2**24, exact in float32,
so a matrix product gives the same bytes in any order, on any BLAS, for any batch. Larger images go copy by copy.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.spec import Fields, Setting
from edgesafe.corruptions.tables import Profile, zoom_factors

__all__ = ["apply_zoom_blur", "zoom_axis", "zoom_planes"]

_GUARD = np.float32(1e-3)
_DENSE_PIXELS = 64 * 64
_UNIT = 65536  #: weights are multiples of 1 / _UNIT


@lru_cache(maxsize=256)
def zoom_axis(size: int, factor: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where each pixel of a zoomed line comes from.

    Returns:
        left: int64 (size,), the pixel on the left; the one on the right is left + 1, at most size - 1.
        share: float64 (size,), weight of the one on the right, in [0, 1).
    """
    crop = math.ceil(size / factor)
    top = (size - crop) // 2
    length = round(crop * factor)
    trim = (length - size) // 2
    where = np.arange(trim, trim + size) * ((crop - 1) / (length - 1) if length > 1 else 0.0)
    left = np.minimum(np.floor(where).astype(np.int64), crop - 1)
    share = np.where(left >= crop - 1, 0.0, where - left)
    return left + top, share


def _axis_matrix(size: int, factor: float) -> NDArray[np.float64]:
    left, share = zoom_axis(size, factor)
    matrix = np.zeros((size, size))
    line = np.arange(size)
    matrix[line, left] += 1 - share
    matrix[line, np.minimum(left + 1, size - 1)] += share
    return matrix


def zoom_planes(planes: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Zoom each plane about its centre: float32 (n, H, W)."""
    for axis in (1, 2):
        size = planes.shape[axis]
        left, share = zoom_axis(size, factor)
        weight = share.astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1))
        lower = planes.take(left, axis=axis)
        upper = planes.take(np.minimum(left + 1, size - 1), axis=axis)
        upper -= lower
        upper *= weight
        lower += upper
        planes = lower
    return planes


@lru_cache(maxsize=8)
def _operator(
    profile: Profile, severity: int, height: int, width: int
) -> tuple[tuple[slice, slice, NDArray[np.float32]], ...]:
    """The mean of all copies in blocks of output rows: (input pixels, output pixels, weights (inputs, outputs))."""
    factors = zoom_factors(profile, severity)
    rows = [_axis_matrix(height, f) for f in (1.0, *factors)]
    columns = [_axis_matrix(width, f) for f in (1.0, *factors)]
    step = max(1, 128 // width)
    blocks = []
    for top in range(0, height, step):
        stop = min(top + step, height)
        used = np.flatnonzero(sum(r[top:stop].sum(0) for r in rows))
        first, last = int(used[0]), int(used[-1]) + 1
        part = sum(np.kron(r[top:stop, first:last], c) for r, c in zip(rows, columns, strict=True))
        weights = _whole(np.asarray(part) / len(rows)).T.astype(np.float32)
        pixels_in = slice(first * width, last * width)
        blocks.append((pixels_in, slice(top * width, stop * width), np.ascontiguousarray(weights)))
    return tuple(blocks)


def _whole(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights as whole numbers whose rows sum to 65,536 (largest remainders are rounded up)."""
    scaled = weights * _UNIT
    low = np.floor(scaled)
    missing = np.rint(_UNIT - low.sum(1)).astype(np.int64)
    rank = np.argsort(np.argsort(low - scaled, axis=1, kind="stable"), axis=1, kind="stable")
    low += rank < missing[:, None]
    return low


def apply_zoom_blur(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Mean of the image, counted twice as in the reference, and of its zoomed copies."""
    s = fields.setting
    if s.height * s.width > _DENSE_PIXELS:
        return np.concatenate([_copy_by_copy(image[None], s) for image in images])
    n, pixels = len(images), s.height * s.width
    planes = images.transpose(0, 3, 1, 2).astype(np.float32, order="C").reshape(n * s.channels, pixels)
    out = np.empty((n * s.channels, pixels), np.uint8)
    for inputs, outputs, weights in _operator(s.profile, s.severity, s.height, s.width):
        total = planes[:, inputs] @ weights
        total *= np.float32(1 / _UNIT)
        total += _GUARD
        out[:, outputs] = total
    return np.ascontiguousarray(out.reshape(n, s.channels, s.height, s.width).transpose(0, 2, 3, 1))


def _copy_by_copy(image: NDArray[np.uint8], s: Setting) -> NDArray[np.uint8]:
    """One large image (1, H, W, C): zoom and add, factor by factor, channel by channel, in buffers that fit the cache.

    Columns are zoomed on the transposed plane, so that both axes move whole lines of memory.
    """
    factors = zoom_factors(s.profile, s.severity)
    out = np.empty_like(image)
    turned, beside = (np.empty((s.width, s.height), np.float32) for _ in range(2))
    upright, zoomed, below = (np.empty((s.height, s.width), np.float32) for _ in range(3))
    for c in range(s.channels):
        plane = image[0, :, :, c].astype(np.float32)
        across = np.ascontiguousarray(plane.T)
        total = plane
        for factor in factors:
            np.copyto(upright, _zoom_lines(across, factor, turned, beside).T)
            total += _zoom_lines(upright, factor, zoomed, below)
        total *= np.float32(1 / (len(factors) + 1))
        total += _GUARD
        out[0, :, :, c] = np.minimum(total, 255, out=total)
    return out


def _zoom_lines(
    plane: NDArray[np.float32], factor: float, out: NDArray[np.float32], near: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Zoom along axis 0 into `out`, with `near` to work in."""
    size = len(plane)
    left, share = zoom_axis(size, factor)
    np.take(plane, left, axis=0, out=out, mode="clip")
    np.take(plane, left + 1, axis=0, out=near, mode="clip")
    near -= out
    near *= share.astype(np.float32)[:, None]
    out += near
    return out
