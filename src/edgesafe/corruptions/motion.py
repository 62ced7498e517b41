"""Motion blur along a line, as ImageMagick 6's MotionBlurImage does it; also moves the flakes of snow.

out(y, x) = sum over i of k_i * in(y + dy_i, x + dx_i), i = 0 .. width - 1, edges repeated, result truncated, with
k_i ~ exp(-i^2 / (2 sigma^2)), width = 2 ceil(radius) + 1, dx_i = ceil(i cos a - 0.5), dy_i = ceil(i sin a - 0.5).
Images whose angle gives the same whole-pixel path are blurred together; the arithmetic of one image does not depend on
the others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.spec import Fields, Setting
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import motion_parameters

__all__ = ["apply_motion_blur", "draw_motion_blur", "line_blur"]

_GUARD = 2e-3  #: levels; the taps that are left out weigh less than 2e-4
_TAIL = 2e-4


def line_weights(radius: float, sigma: float) -> NDArray[np.float32]:
    """Weights of the path's points, float32, normalised; the last taps are left out while they weigh below 2e-4."""
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights: NDArray[np.float64] = np.exp(-(steps**2) / (2.0 * sigma * sigma))
    weights /= weights.sum()
    tail = np.cumsum(weights[::-1])[::-1]
    weights = weights[: max(1, int((tail >= _TAIL).sum()))]
    weights = weights / weights.sum()
    return weights.astype(np.float32)


def line_blur(
    planes: NDArray[np.uint8], degrees: NDArray[np.float64], radius: float, sigma: float
) -> NDArray[np.uint8]:
    """Blur each image along its own direction.

    Args:
        planes: uint8 (n, H, W, C).
        degrees: float64 (n,), direction of each image.
        radius: pixels.
        sigma: pixels.
    """
    weights = line_weights(radius, sigma)
    height, width = planes.shape[1:3]
    turn = np.deg2rad(degrees)[:, None]
    step = np.arange(len(weights))[None]
    dx = np.ceil(step * np.cos(turn) - 0.5).astype(np.int64)
    dy = np.ceil(step * np.sin(turn) - 0.5).astype(np.int64)
    paths, member, count = np.unique(np.concatenate([dy, dx], axis=1), axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(member.reshape(-1), kind="stable")
    out = np.empty_like(planes)
    taps = len(weights)
    for path, ids in zip(paths, np.split(order, np.cumsum(count)[:-1]), strict=True):
        down, right = path[:taps], path[taps:]
        top, left = -min(0, int(down.min())), -min(0, int(right.min()))
        rows = np.clip(np.arange(-top, height + max(0, int(down.max()))), 0, height - 1)
        columns = np.clip(np.arange(-left, width + max(0, int(right.max()))), 0, width - 1)
        # images innermost: every shifted view is made of long contiguous runs
        block = planes[ids].transpose(1, 2, 0, 3)
        padded = block.take(rows, axis=0).take(columns, axis=1).astype(np.float32)
        total = padded[top : top + height, left : left + width] * weights[0]
        spare = np.empty_like(total)
        for i in range(1, taps):
            y, x = top + int(down[i]), left + int(right[i])
            np.multiply(padded[y : y + height, x : x + width], weights[i], out=spare)
            total += spare
        total += np.float32(_GUARD)
        out[ids] = total.astype(np.uint8).transpose(2, 0, 1, 3)
    return out


def draw_motion_blur(stream: Stream, _: Setting) -> dict[str, NDArray[np.float64]]:
    """degrees: float64 (n,), uniform in [-45, 45)."""
    return {"degrees": stream.uniform(1)[:, 0] * 90 - 45}


def apply_motion_blur(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Blur each image, uint8 (n, H, W, C), along the direction that was drawn for it."""
    s = fields.setting
    return line_blur(images, fields["degrees"], *motion_parameters(s.profile, s.severity, s.scale))
