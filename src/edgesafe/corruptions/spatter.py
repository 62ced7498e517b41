"""Spatter: drops of water or mud on the lens. An extra corruption, not part of mPC.

Water needs edges, distances and a histogram: Canny, the 5x5 chamfer distance and equalisation as in OpenCV, on whole
numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions.blur import gaussian
from edgesafe.corruptions.spec import Fields, Setting
from edgesafe.corruptions.streams import Stream
from edgesafe.corruptions.tables import spatter_parameters

__all__ = ["apply_spatter", "draw_spatter"]

_WATER = (175.0, 238.0, 238.0)  #: pale turquoise, R G B as the original has them
_MUD = (63.0, 42.0, 20.0)
_FAR = 20 << 16  #: distances are cut here (16-bit fixed point)
_TAN_22 = round(0.4142135623730950488016887242097 * (1 << 15))


def draw_spatter(stream: Stream, setting: Setting) -> dict[str, NDArray[np.float64]]:
    """drops: float64 (n, H, W), N(loc, scale)."""
    p = spatter_parameters(setting.profile, setting.severity, setting.scale)
    drops = stream.normal(setting.height * setting.width).astype(np.float64) * p.scale + p.loc
    return {"drops": drops.reshape(-1, setting.height, setting.width)}


def apply_spatter(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Blend the image with the colour of water or mud where there are drops."""
    s = fields.setting
    p = spatter_parameters(s.profile, s.severity, s.scale)
    layer = gaussian(fields["drops"][..., None], p.sigma)[..., 0]
    layer[layer < p.threshold] = 0
    x = images.astype(np.float64)
    if p.mud:
        mask = gaussian((layer > p.threshold).astype(np.float64)[..., None], p.blend)
        mask[mask < 0.8] = 0
        total = x * (1 - mask) + mask * _tint(_MUD, s.channels)
    else:
        # where the layer passes 1, the original's conversion to a byte wraps around: kept
        wet = (layer * 255).astype(np.int64).astype(np.uint8)
        strength = wet.astype(np.float64) * np.stack([_relief(surface) for surface in wet])
        peak = strength.max((1, 2), keepdims=True)
        strength = np.divide(strength, peak, out=np.zeros_like(strength), where=peak > 0)
        total = x + (strength * p.blend)[..., None] * _tint(_WATER, s.channels)
    total += 1e-3
    return np.clip(total, 0, 255, out=total).astype(np.uint8)


def _tint(colour: tuple[float, float, float], channels: int) -> NDArray[np.float64]:
    rgb = np.array(colour)
    return rgb if channels == 3 else np.array([rgb @ [0.299, 0.587, 0.114]])


def _relief(wet: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Light and shade of the drops: distance from their edges, equalised and embossed; (H, W), 0..255."""
    away = _distance(_canny(wet, 50, 150)) / 65536.0
    flat = np.floor(_box3(away)).astype(np.int64)
    level = _equalise(flat)
    p = np.pad(level, 1, mode="reflect")
    high, wide = level.shape
    emboss = np.zeros(level.shape, np.int64)
    for (i, j), weight in np.ndenumerate(np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])):
        emboss += int(weight) * p[i : i + high, j : j + wide]
    return np.rint(_box3(np.clip(emboss, 0, 255).astype(np.float64)))


def _box3(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over 3x3 neighbours, (H, W); edges are mirrored."""
    p = np.pad(a, 1, mode="reflect")
    high, wide = a.shape
    total = np.zeros_like(a)
    for i in range(3):
        for j in range(3):
            total += p[i : i + high, j : j + wide]
    return total / 9


def _equalise(level: NDArray[np.int64]) -> NDArray[np.int64]:
    """Histogram equalisation of 0..255 (OpenCV's: the darkest level becomes 0)."""
    count = np.bincount(level.ravel(), minlength=256)
    first = int(np.flatnonzero(count)[0])
    rest = level.size - int(count[first])
    if rest == 0:
        return level
    count[first] = 0
    table: NDArray[np.int64] = np.clip(np.rint(np.cumsum(count) * (255.0 / rest)), 0, 255).astype(np.int64)
    return table.take(level)


def _canny(image: NDArray[np.uint8], low: int, high: int) -> NDArray[np.bool_]:
    """Edges: Sobel 3x3, non-maximum suppression in four directions, hysteresis over eight neighbours."""
    rows, columns = image.shape
    p = np.pad(image, 1, mode="edge").astype(np.int64)
    smooth_y = p[:-2] + 2 * p[1:-1] + p[2:]
    smooth_x = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gx, gy = smooth_y[:, 2:] - smooth_y[:, :-2], smooth_x[2:] - smooth_x[:-2]
    size = np.abs(gx) + np.abs(gy)
    m = np.pad(size, 1)

    def at(dy: int, dx: int) -> NDArray[np.int64]:
        return m[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]

    steep, flat = np.abs(gy) << 15, np.abs(gx) * _TAN_22
    across, upright = steep < flat, steep > flat + (np.abs(gx) << 16)
    falling = (gx ^ gy) < 0
    ridge = np.where(
        across,
        (size > at(0, -1)) & (size >= at(0, 1)),
        np.where(
            upright,
            (size > at(-1, 0)) & (size >= at(1, 0)),
            np.where(falling, (size > at(-1, 1)) & (size > at(1, -1)), (size > at(-1, -1)) & (size > at(1, 1))),
        ),
    )
    weak = ridge & (size > low)
    edge = weak & (size > high)
    while True:
        near = np.pad(edge, 1)
        grown = np.zeros_like(edge)
        for i in range(3):
            for j in range(3):
                grown |= near[i : i + rows, j : j + columns]
        grown &= weak
        if np.array_equal(grown, edge):
            return edge
        edge = grown


def _distance(edge: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Chamfer distance to the nearest edge pixel in 1/65536 px, steps 1, 1.4 and 2.1969, at most 20 px."""
    steps = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    offsets = {}
    for (a, b), cost in steps.items():
        for y, x in {(a, b), (b, a)}:
            for sy in (-1, 1):
                for sx in (-1, 1):
                    offsets[(sy * y, sx * x)] = round(cost * 65536)
    rows, columns = edge.shape
    away = np.where(edge, 0, _FAR).astype(np.int64)
    while True:
        p = np.pad(away, 2, constant_values=_FAR)
        nearer = away.copy()
        for (y, x), cost in offsets.items():
            np.minimum(nearer, p[2 + y : 2 + y + rows, 2 + x : 2 + x + columns] + cost, out=nearer)
        if np.array_equal(nearer, away):
            return away
        away = nearer
