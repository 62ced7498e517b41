"""Faults of cameras and of what comes after them, as finite lists of images: shifts, dead pixels, patches, JPEG.

Images are numbered place by place (row by row), and at each place value by value.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from edgesafe.errors import DataError

__all__ = ["Fault", "Shape", "dead_line", "dead_pixel", "jpeg", "occlusion", "shift"]

Shape = tuple[int, int, int]  #: (H, W, C)
Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]
_VALUES = np.array([0, 255], np.uint8)  # of a dead pixel or line
_GREY = 127  # of a patch


@dataclass(frozen=True)
class Fault:
    """A finite list of images that one image may turn into.

    Attributes:
        definition: what its images depend on, in words: part of a set's hash.
        size: how many images it makes of one of a shape, some of them perhaps equal. Raises DataError: it does not fit.
        make: those of one image (H, W, C) with the given numbers: uint8 (len(numbers), H, W, C).
        describe: says which image a number is.
        distance: how far each number is from "no fault", in `unit`: float64 (size,); None: it has no range.
        unit: as words.
    """

    definition: str
    size: Callable[[Shape], int]
    make: Callable[[Pixels, Numbers], Pixels]
    describe: Callable[[int, Shape], str]
    distance: Callable[[Shape], NDArray[np.float64]] | None = None
    unit: str = ""


def shift(most: int) -> Fault:
    """Every shift by whole pixels, up to `most` >= 1 down, up, right and left; the edge repeats."""
    side = 2 * most + 1

    def size(shape: Shape) -> int:
        if most >= min(shape[:2]):
            raise DataError(f"a shift of {most} pixels leaves nothing", where=_text(shape), fix="give a smaller one")
        return side * side

    def make(image: Pixels, numbers: Numbers) -> Pixels:
        height, width, _ = image.shape
        rows = np.clip(np.arange(height)[None] - (numbers // side - most)[:, None], 0, height - 1)
        columns = np.clip(np.arange(width)[None] - (numbers % side - most)[:, None], 0, width - 1)
        moved: Pixels = image[rows[:, :, None], columns[:, None, :]]
        return moved

    def distance(shape: Shape) -> NDArray[np.float64]:
        numbers = np.arange(size(shape))
        return np.maximum(np.abs(numbers // side - most), np.abs(numbers % side - most)).astype(np.float64)

    def describe(number: int, _: Shape) -> str:
        return f"{number // side - most:+d} pixels down, {number % side - most:+d} right"

    return Fault(f"shift {most}, edge repeated", size, make, describe, distance, "pixels")


def dead_pixel() -> Fault:
    """Any one pixel black or white in all channels."""

    def make(image: Pixels, numbers: Numbers) -> Pixels:
        out = np.repeat(image[None], len(numbers), axis=0)
        place = numbers // 2
        out[np.arange(len(numbers)), place // image.shape[1], place % image.shape[1]] = _VALUES[numbers % 2][:, None]
        return out

    def describe(number: int, shape: Shape) -> str:
        row, column = divmod(number // 2, shape[1])
        return f"pixel in row {row}, column {column} at {_VALUES[number % 2]}"

    return Fault("dead pixel, 0 or 255 in all channels", lambda shape: 2 * shape[0] * shape[1], make, describe)


def dead_line() -> Fault:
    """Any one row, then any one column, black or white in all channels."""

    def make(image: Pixels, numbers: Numbers) -> Pixels:
        out = np.repeat(image[None], len(numbers), axis=0)
        for k, number in enumerate(numbers.tolist()):
            line, value = number // 2, _VALUES[number % 2]
            if line < image.shape[0]:
                out[k, line] = value
            else:
                out[k, :, line - image.shape[0]] = value
        return out

    def describe(number: int, shape: Shape) -> str:
        line = number // 2
        where = f"row {line}" if line < shape[0] else f"column {line - shape[0]}"
        return f"{where} at {_VALUES[number % 2]}"

    definition = "dead row or column, 0 or 255 in all channels"
    return Fault(definition, lambda shape: 2 * (shape[0] + shape[1]), make, describe)


def occlusion(side: int) -> Fault:
    """A grey square of `side` >= 1 pixels at every place inside the image."""

    def size(shape: Shape) -> int:
        if side > min(shape[:2]):
            raise DataError(f"a patch of {side} pixels does not fit", where=_text(shape), fix="give a smaller one")
        return (shape[0] - side + 1) * (shape[1] - side + 1)

    def make(image: Pixels, numbers: Numbers) -> Pixels:
        out = np.repeat(image[None], len(numbers), axis=0)
        for k, number in enumerate(numbers.tolist()):
            top, left = divmod(number, image.shape[1] - side + 1)
            out[k, top : top + side, left : left + side] = _GREY
        return out

    def describe(number: int, shape: Shape) -> str:
        top, left = divmod(number, shape[1] - side + 1)
        return f"patch at row {top}, column {left}"

    return Fault(f"occlusion {side} x {side}, grey {_GREY}", size, make, describe)


def jpeg(low: int, high: int) -> Fault:
    """Coded and decoded at every quality, 1 <= `low` <= `high` <= 100, by Pillow at its defaults (4:2:0)."""

    def size(shape: Shape) -> int:
        if shape[2] not in (1, 3):
            raise DataError(f"JPEG of {shape[2]} channels", where=_text(shape), fix="give grey or RGB images")
        return high - low + 1

    def make(image: Pixels, numbers: Numbers) -> Pixels:
        picture = Image.fromarray(np.ascontiguousarray(image if image.shape[2] == 3 else image[..., 0]))
        out = np.empty((len(numbers), *image.shape), np.uint8)
        for k, number in enumerate(numbers.tolist()):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=low + number)
            with Image.open(buffer) as decoded:
                out[k] = np.asarray(decoded).reshape(image.shape)
        return out

    def distance(_: Shape) -> NDArray[np.float64]:
        return 100.0 - np.arange(low, high + 1, dtype=np.float64)

    definition = f"JPEG {low}..{high}, libjpeg {features.version_codec('jpg')}, 4:2:0"
    return Fault(definition, size, make, lambda number, _: f"JPEG quality {low + number}", distance, "of quality lost")


def _text(shape: Shape) -> str:
    return f"images of {shape[0]} x {shape[1]}"
