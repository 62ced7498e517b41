"""Defocus, glass and Gaussian blur.

The Gaussian is separable, in float64, with the summation order of scipy's correlate1d (centre first, then pairs from
the outside in), so that truncation to 8 bits gives the reference's bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.spec import Fields, Setting
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import (
    MIN_BLUR_PX,
    defocus_parameters,
    glass_parameters,
    value,
)

__all__ = [
    "apply_defocus_blur",
    "apply_gaussian_blur",
    "apply_glass_blur",
    "draw_glass_blur",
    "gaussian",
    "gaussian_taps",
]

GUARD = 1e-3  #: levels added before truncation, so that float noise does not push an exact integer down by one


def gaussian_taps(sigma: float) -> NDArray[np.float64]:
    """Normalised weights, float64 (2 r + 1,) with r = int(4 sigma + 0.5), as scipy.ndimage has them."""
    radius = int(4.0 * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    # math.exp, not np.exp: NumPy's differs in the last bit from version to version, and flat areas would show it
    weights = np.array([math.exp(-0.5 / (sigma * sigma) * i**2) for i in range(-radius, radius + 1)])
    weights /= weights.sum()
    return weights


def gaussian(a: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur of axes 1 and 2, edges repeated.

    Args:
        a: float64 (n, H, W, ...).
        sigma: standard deviation in pixels.
    """
    weights = gaussian_taps(sigma)
    radius = len(weights) // 2
    for axis in (1, 2) if radius else ():
        size = a.shape[axis]
        padded = a.take(np.clip(np.arange(-radius, size + radius), 0, size - 1), axis=axis)
        lead = (slice(None),) * axis
        total = padded[(*lead, slice(radius, radius + size))] * weights[radius]
        spare = np.empty_like(total)
        for j in range(radius):
            near = padded[(*lead, slice(j, j + size))]
            far = padded[(*lead, slice(2 * radius - j, 2 * radius - j + size))]
            np.add(near, far, out=spare)
            spare *= weights[j]
            total += spare
        a = total
    return a


def apply_gaussian_blur(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Blur images, uint8 (n, H, W, C), as fractions of 255; the result is truncated to uint8, as the original does."""
    s = fields.setting
    return _blur8(images, value("gaussian_blur", s.profile, s.severity, s.scale))


def _blur8(images: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    if int(4.0 * sigma + 0.5) == 0:
        return images
    blurred = gaussian(images / 255.0, sigma)
    blurred *= 255
    return blurred.astype(np.uint8)


# ------------------------------------------------------------------------------------------------------- defocus


@lru_cache(maxsize=32)
def defocus_kernel(radius: float, sigma: float) -> NDArray[np.float64]:
    """The reference's kernel, a disk blurred against aliasing: float64 (2 r + 1, 2 r + 1), zero rim cut off.

    A pixel belongs to the disk if its centre does. The blur folds back at the rim of the original's grid (17x17 up to
    radius 8), as OpenCV's reflect-101 border does.
    """
    line = np.arange(-8, 9) if radius <= 8 else np.arange(-math.floor(radius), math.floor(radius) + 1)
    disk = ((line[:, None] ** 2 + line[None] ** 2) <= radius**2).astype(np.float64)
    return _soften(disk / disk.sum(), sigma, 3 if radius <= 8 else 5)


def _soften(disk: NDArray[np.float64], sigma: float, taps: int) -> NDArray[np.float64]:
    """Blur a kernel with a Gaussian of 3 or 5 taps, edges mirrored, and cut off its zero rim."""
    reach, size, half = taps // 2, len(disk), len(disk) // 2
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma * sigma))
    weights /= weights.sum()
    padded = np.pad(disk, reach, mode="reflect")
    kernel = np.zeros_like(disk)
    for i in range(taps):
        for j in range(taps):
            kernel += weights[i] * weights[j] * padded[i : i + size, j : j + size]
    inner = half
    while inner > 0 and np.abs(kernel[half - inner]).max() < 1e-7:
        inner -= 1
    cut = slice(half - inner, half + inner + 1)
    return kernel[cut, cut]


def spread(kernel: NDArray[np.float64]) -> float:
    """Variance of a kernel along an axis, in square pixels."""
    line = np.arange(len(kernel)) - len(kernel) // 2
    return float((kernel * line**2).sum())


@lru_cache(maxsize=32)
def scaled_kernel(radius: float, sigma: float, scale: float) -> NDArray[np.float64]:
    """The kernel for another size than the anchor: a disk with the reference's spread, scaled; at least 0.3 px.

    Scaling the radius itself would not do: with whole pixels in or out, radius 1 is a cross and 0.99 a single point.
    Here a pixel counts by the share that the disk covers, and the radius is found by bisection.
    """
    anchor = spread(defocus_kernel(radius, sigma))
    wanted = max(anchor * scale**2, min(anchor, MIN_BLUR_PX**2))
    low, high = 0.5, 3 * scale * radius + 3.0
    kernel = np.ones((1, 1))
    for _ in range(30):
        middle = (low + high) / 2
        half = math.ceil(middle - 0.5)
        line = np.arange(-half, half + 1)
        lines = (np.arange(32 * len(line)) + 0.5) / 32 - 0.5 - half  # 32 lines for each row of pixels
        reach = np.sqrt(np.maximum(middle**2 - lines**2, 0))[:, None]
        covered = np.clip(np.minimum(reach, line + 0.5) - np.maximum(-reach, line - 0.5), 0, 1)
        kernel = covered.reshape(len(line), 32, len(line)).mean(1)
        kernel = (kernel + kernel.T) / 2
        kernel /= kernel.sum()
        low, high = (middle, high) if spread(kernel) < wanted else (low, middle)
    return kernel


def apply_defocus_blur(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Correlation with the disk, edges mirrored (reflect-101); taps of equal weight are added before multiplying."""
    s = fields.setting
    radius, sigma = defocus_parameters(s.profile, s.severity)
    kernel = defocus_kernel(radius, sigma) if s.scale == 1.0 else scaled_kernel(radius, sigma, s.scale)
    reach = len(kernel) // 2
    groups: dict[float, list[tuple[int, int]]] = {}
    for (i, j), tap in np.ndenumerate(kernel):
        if tap > 1e-7:
            groups.setdefault(round(float(tap), 9), []).append((i, j))
    around = (reach, reach)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)), mode="reflect").astype(np.uint16)
    total = np.zeros(images.shape, np.float32)
    for weight, taps in groups.items():
        # at most 257 taps of 255 fit into 16 bits
        part = np.zeros(images.shape, np.uint16 if len(taps) <= 257 else np.uint32)
        for i, j in taps:
            part += padded[:, i : i + s.height, j : j + s.width]
        total += part * np.float32(weight)
    total += np.float32(GUARD)
    return np.minimum(total, 255, out=total).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------- glass


def draw_glass_blur(stream: Stream, setting: Setting) -> dict[str, NDArray[np.int8]]:
    """offsets: int8 (n, iterations, rows, columns, 2), (dx, dy) in [-delta, delta), for rows delta + 1 .. H - delta."""
    p = glass_parameters(setting.profile, setting.severity, setting.scale)
    rows, columns = setting.height - 2 * p.delta, setting.width - 2 * p.delta
    bits = stream.bits16(p.iterations * rows * columns * 2)
    if p.delta == 1:
        offsets = -(bits & 1).astype(np.int8)
    else:
        offsets = ((bits.astype(np.uint32) * (2 * p.delta) >> 16).astype(np.int8)) - np.int8(p.delta)
    return {"offsets": offsets.reshape(len(bits), p.iterations, rows, columns, 2)}


def apply_glass_blur(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Blur, let each pixel take a neighbour's value, blur.

    The reference means to swap two pixels, but numpy's views make it a copy: x[h, w] takes the value that x[h', w']
    has at that moment, and x[h', w'] keeps it. Pixels are visited from the bottom right. This is CIFAR-10-C, so it is
    kept; it is the same for greyscale, where the reference would really swap.
    """
    s = fields.setting
    p = glass_parameters(s.profile, s.severity, s.scale)
    n, size = len(images), s.height * s.width
    x = _blur8(images, p.sigma)
    offsets = fields["offsets"]
    here = np.arange(size, dtype=np.int64).reshape(s.height, s.width)
    first = (np.arange(n, dtype=np.int64) * size)[:, None, None]
    rows, columns = slice(p.delta + 1, s.height - p.delta + 1), slice(p.delta + 1, s.width - p.delta + 1)
    for i in range(p.iterations):
        source = np.broadcast_to(here, (n, s.height, s.width)).copy()
        source[:, rows, columns] += np.multiply(offsets[:, i, :, :, 1], s.width, dtype=np.int64)
        source[:, rows, columns] += offsets[:, i, :, :, 0]
        if p.delta > 1:
            _resolve(source.reshape(n, size))
        source += first
        x = x.reshape(n * size, s.channels).take(source.reshape(-1), axis=0).reshape(images.shape)
    return _blur8(x, p.sigma)


def _resolve(source: NDArray[np.int64]) -> None:
    """Follow copies of copies, in place: (n, pixels), where each pixel copies from.

    A pixel that copies from one after it in reading order gets what that one has already become (it was visited
    earlier); from one before it, or from itself, the original. Chains are followed by doubling.
    """
    place = np.arange(source.shape[1], dtype=np.int64)
    for image in source:
        image[:] = _follow(image, place)


def _follow(source: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    forward = source > place
    if not forward.any():
        return source
    # where a chain of forward copies ends: the first pixel on it that copies backwards
    target = np.where(forward, source, place)
    while True:
        further = target[target]
        if np.array_equal(further, target):
            return source[target]
        target = further
