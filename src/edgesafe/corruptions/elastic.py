"""Elastic transform: a random affine map, then smoothed random displacements, both with bilinear interpolation.

The smoothing is a matrix product on whole numbers (displacements in 2**-16, weights in 2**-17 pixels): all sums stay
below 2**53, so float64 is exact and the bytes do not depend on the BLAS or on the batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.spec import Fields, Setting
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import elastic_parameters

__all__ = ["apply_elastic_transform", "draw_elastic_transform"]

_GUARD = np.float32(1e-3)
_STEP = 2.0**-16  #: displacements are multiples of this
_WEIGHT = 2.0**-17  #: smoothing weights are multiples of this


def draw_elastic_transform(stream: Stream, setting: Setting) -> dict[str, NDArray[np.float64]]:
    """corners: float64 (n, 3, 2), shifts of three points (x, y) in pixels; push: float64 (n, 2, H, W) in (-1, 1)."""
    affine = elastic_parameters(setting.profile, setting.severity, setting.scale)[2]
    corners = (stream.uniform(6) * (2 * affine) - affine).reshape(-1, 3, 2)
    bits = stream.bits16(2 * setting.height * setting.width)
    push = bits.astype(np.float64) * (2.0 * _STEP) + (_STEP - 1.0)
    return {"corners": corners, "push": push.reshape(-1, 2, setting.height, setting.width)}


@lru_cache(maxsize=16)
def _smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian smoothing of a line, edges mirrored (… b a | a b …), truncated at 3 sigma: whole multiples of _WEIGHT.

    Returns:
        float64 (size, size), to be multiplied from the right; each column sums to 2**17.
    """
    radius = int(3.0 * sigma + 0.5)
    weights: NDArray[np.float64] = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for i in range(size):
        place = np.arange(i - radius, i + radius + 1) % (2 * size)
        np.add.at(matrix[i], np.where(place < size, place, 2 * size - 1 - place), weights)
    whole = np.rint(matrix / _WEIGHT)
    whole[np.arange(size), whole.argmax(1)] += 1 / _WEIGHT - whole.sum(1)
    return np.ascontiguousarray(whole.T)


def _displacements(push: NDArray[np.float64], alpha: float, sigma: float) -> NDArray[np.float32]:
    """Displacements alpha * gaussian(push): float32 (n, 2, H, W), in pixels."""
    n, _, height, width = push.shape
    whole = np.rint(push * (1 / _STEP))
    along = (whole.reshape(-1, width) @ _smoothing(width, sigma)).reshape(2 * n, height, width)
    turned = np.ascontiguousarray(along.transpose(0, 2, 1)).reshape(-1, height)
    both = (turned @ _smoothing(height, sigma)).reshape(2 * n, width, height)
    both *= alpha * _STEP * _WEIGHT * _WEIGHT
    return both.transpose(0, 2, 1).astype(np.float32).reshape(n, 2, height, width)


def _bilinear(
    planes: NDArray[Any],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    mode: str,
) -> NDArray[np.float32]:
    """Sample planes (C, n, H, W) at x, y (n, H, W), in pixels; `mode` is numpy's name of the border."""
    _, n, height, width = planes.shape
    left, upper = np.floor(x), np.floor(y)
    tx, ty = x - left, y - upper
    before = (max(0, -int(upper.min())), max(0, -int(left.min())))
    after = (max(0, int(upper.max()) + 2 - height), max(0, int(left.max()) + 2 - width))
    padded = planes
    for axis, size in ((2, height), (3, width)):
        lead, trail = before[axis - 2], after[axis - 2]
        if lead or trail:
            padded = padded.take(np.pad(np.arange(size), (lead, trail), mode=mode), axis=axis)  # type: ignore[call-overload]
    high, wide = padded.shape[2:]
    padded = padded.astype(np.float32, copy=False)
    index = upper.astype(np.int64)
    index += np.arange(n, dtype=np.int64)[:, None, None] * high + before[0]
    index *= wide
    index += left.astype(np.int64)
    index += before[1]
    out = np.empty(planes.shape, np.float32)
    for plane, result in zip(padded.reshape(len(padded), -1), out, strict=True):
        # the four neighbours are the same index into four shifted views
        a = plane.take(index)
        b = plane[1:].take(index)
        b -= a
        b *= tx
        a += b
        c = plane[wide:].take(index)
        d = plane[wide + 1 :].take(index)
        d -= c
        d *= tx
        c += d
        c -= a
        c *= ty
        np.add(a, c, out=result)
    return out


def apply_elastic_transform(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Affine map (edges mirrored without repeating), then displacements (edges mirrored with repeating)."""
    s = fields.setting
    alpha, sigma, _ = elastic_parameters(s.profile, s.severity, s.scale)
    shift = fields["corners"]
    half = float(min(s.height, s.width) // 3)
    centre = np.array([s.width // 2, s.height // 2], np.float64)
    # the corners are centre + (half, half), centre + (half, -half), centre - (half, half)
    along_y = (shift[:, 0] - shift[:, 1]) / (2 * half) + [0.0, 1.0]
    along_x = (shift[:, 1] - shift[:, 2]) / (2 * half) + [1.0, 0.0]
    origin = centre + [half, -half] + shift[:, 1] - along_x * (centre[0] + half) - along_y * (centre[1] - half)
    det = along_x[:, 0] * along_y[:, 1] - along_y[:, 0] * along_x[:, 1]
    xx, xy = along_y[:, 1] / det, -along_y[:, 0] / det  # the inverse map, row by row
    yx, yy = -along_x[:, 1] / det, along_x[:, 0] / det
    columns, rows = np.arange(s.width, dtype=np.float64), np.arange(s.height, dtype=np.float64)
    x0, y0 = -(xx * origin[:, 0] + xy * origin[:, 1]), -(yx * origin[:, 0] + yy * origin[:, 1])
    x = (xx[:, None] * columns + x0[:, None])[:, None, :] + (xy[:, None] * rows)[:, :, None]
    y = (yx[:, None] * columns + y0[:, None])[:, None, :] + (yy[:, None] * rows)[:, :, None]
    planes = _bilinear(
        np.ascontiguousarray(images.transpose(3, 0, 1, 2)), x.astype(np.float32), y.astype(np.float32), "reflect"
    )
    if alpha > 0:
        move = _displacements(fields["push"], alpha, sigma)
        x_to = move[:, 0] + columns.astype(np.float32)
        y_to = move[:, 1] + rows.astype(np.float32)[:, None]
        planes = _bilinear(planes, x_to, y_to, "symmetric")
    planes += _GUARD
    return np.ascontiguousarray(np.clip(planes, 0, 255, out=planes).astype(np.uint8).transpose(1, 2, 3, 0))
