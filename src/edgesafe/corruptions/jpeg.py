"""JPEG compression through Pillow, with the per-image overhead taken out.

Small images are stacked into one tall strip: zero-copy, one encode, and since each coded block lies within one image
(sides divisible by 16) every coefficient is that of the image alone. Decoding differs only where the chroma, which has
half the resolution, is interpolated across the seam between two images: the first and last pixel row of each. Those two
rows are made again from the decoded luma and chroma planes with libjpeg's own whole-number arithmetic ("fancy
upsampling", jdsample.c, and YCC to RGB, jdcolor.c), in which an image's edge repeats. The first image of a strip is
also coded alone and must give the same bytes; else (a codec that computes differently) all images are coded one by one.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe.corruptions import tables
from edgesafe.corruptions.spec import Fields

__all__ = ["apply_jpeg_compression", "code_one", "code_strip"]

_STRIP_ROWS = 65_500  #: libjpeg's limit on the height of an image, less a little
_STRIP_SIDE = 64  #: larger images gain nothing


def code_one(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One image (H, W, C) through JPEG (4:2:0, Pillow's defaults)."""
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded).reshape(image.shape)


def apply_jpeg_compression(images: NDArray[np.uint8], fields: Fields) -> NDArray[np.uint8]:
    """Encode each image, uint8 (n, H, W, C), as JPEG at the severity's quality, and decode it again."""
    s = fields.setting
    quality = int(tables.value("jpeg_compression", s.profile, s.severity))
    fits = s.height % 16 == 0 and s.width % 16 == 0 and max(s.height, s.width) <= _STRIP_SIDE
    if fits and len(images) > 2:
        most = _STRIP_ROWS // s.height
        out = np.concatenate([code_strip(images[i : i + most], quality) for i in range(0, len(images), most)])
        if np.array_equal(out[0], code_one(images[0], quality)) and np.array_equal(
            out[1], code_one(images[1], quality)
        ):
            return out
    return np.stack([code_one(image, quality) for image in images])


def _decode(coded: bytes, mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(coded)) as picture:
        if mode:
            picture.draft(mode, size)
        return np.asarray(picture)


def code_strip(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """All images as one JPEG, seams repaired: the bytes of coding each alone.

    Args:
        images: uint8 (n, H, W, C), H and W divisible by 16, n * H <= 65500.
        quality: 1..95.
    """
    n, height, width, channels = images.shape
    strip = np.ascontiguousarray(images).reshape(n * height, width, channels)
    buffer = io.BytesIO()
    Image.fromarray(strip if channels == 3 else strip[..., 0]).save(buffer, "JPEG", quality=quality)
    coded = buffer.getvalue()
    if channels == 1:
        return _decode(coded, "", (0, 0)).reshape(images.shape)
    out = _decode(coded, "", (0, 0)).reshape(images.shape).copy()
    luma = _decode(coded, "L", (width, n * height)).reshape(n, height, width)
    # at half size, libjpeg gives the chroma planes as coded, without interpolation
    half = _decode(coded, "YCbCr", (width // 2, n * height // 2)).reshape(n, height // 2, width // 2, 3)
    for row, near in ((0, 0), (height - 1, height // 2 - 1)):
        # vertically: 3 * nearer + further, where the further row is the edge itself
        blue = _widen(half[:, near, :, 1].astype(np.int32) * 4)
        red = _widen(half[:, near, :, 2].astype(np.int32) * 4)
        out[:, row] = _rgb(luma[:, row].astype(np.int32), blue - 128, red - 128)
    return out


def _widen(line: NDArray[np.int32]) -> NDArray[np.int32]:
    """Twice as many columns: (3 * nearer + further + 8 or 7) >> 4, edges repeated; input is 4 times the chroma."""
    left = np.concatenate([line[:, :1], line[:, :-1]], axis=1)
    right = np.concatenate([line[:, 1:], line[:, -1:]], axis=1)
    wide = np.empty((len(line), 2 * line.shape[1]), np.int32)
    wide[:, 0::2] = (3 * line + left + 8) >> 4
    wide[:, 1::2] = (3 * line + right + 7) >> 4
    return wide


def _rgb(y: NDArray[np.int32], cb: NDArray[np.int32], cr: NDArray[np.int32]) -> NDArray[np.uint8]:
    """YCC to RGB with libjpeg's 16-bit fixed point; cb, cr centred at 0."""
    red = y + ((91881 * cr + 32768) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    blue = y + ((116130 * cb + 32768) >> 16)
    rgb: NDArray[np.int32] = np.clip(np.stack([red, green, blue], axis=-1), 0, 255)
    return rgb.astype(np.uint8)
