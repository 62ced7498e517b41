"""Keypoints of a user's own: folders of images with a CSV beside them, and arrays."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edgesafe.data.files import memory_budget
from edgesafe.data.options import validated
from edgesafe.data.pictures import read_upright
from edgesafe.errors import DataError
from edgesafe.files import is_file, read_bounded
from edgesafe.records import MOST_KEYPOINTS, Task

__all__ = ["KeypointImages", "KeypointOptions", "options_of", "read_part", "task_of"]

_MOST_CSV = 256 << 20  # bytes
_FARTHEST = 1e6  # px: a keypoint may lie outside its image, but not anywhere
_LEAST_SIDE, _MOST_SIDE = 8, 1024


class KeypointOptions(BaseModel):
    """data.args of keypoints."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tolerance: float = Field(default=2.0, gt=0.0)  #: a keypoint nearer than so many px to its label is right
    size: list[int] | None = None  #: [height, width] that images are resized to, and keypoints with them
    names: list[str] | None = None  #: of the keypoints; default: of the CSV's columns, or their numbers
    pairs: list[tuple[str, str]] = []  #: names that are exchanged in a mirrored image: [["left eye", "right eye"]]


@dataclass(frozen=True)
class KeypointImages:
    """Decoded images of one part, uint8 (N, H, W, 3), with their keypoints, float32 (N, P, 2), px, and these' names."""

    images: NDArray[np.uint8]
    points: NDArray[np.float32]
    names: tuple[str, ...]


def options_of(args: Mapping[str, Any]) -> KeypointOptions:
    """The options that a recipe gives.

    Raises:
        DataError: an unknown option, or a value that cannot be used.
    """
    plain = dict(args)
    if isinstance(plain.get("pairs"), list):
        plain["pairs"] = [tuple(pair) if isinstance(pair, list) else pair for pair in plain["pairs"]]
    return validated(KeypointOptions, plain, "keypoints take")


def task_of(options: KeypointOptions, names: Sequence[str], shape: tuple[int, int]) -> Task:
    """The task of images (H, W) with keypoints of these names.

    Raises:
        DataError: too many keypoints, a name twice, or pairs of names that are not there.
    """
    names = tuple(options.names or names)
    if not 1 <= len(names) <= MOST_KEYPOINTS:
        raise DataError(f"{len(names)} keypoints", where="data", fix=f"give 1 to {MOST_KEYPOINTS}")
    if len(set(names)) != len(names):
        raise DataError("a keypoint's name stands twice", where="data.args.names", fix="give each its own")
    mirror = list(range(len(names)))
    for pair in options.pairs:
        unknown = [name for name in pair if name not in names]
        if unknown or pair[0] == pair[1] or any(mirror[names.index(name)] != names.index(name) for name in pair):
            raise DataError(
                f"'{pair[0]}' and '{pair[1]}' cannot be exchanged", where="data.args.pairs",
                fix=f"pair two of the names, each in one pair at most: {', '.join(names)}",
            )  # fmt: skip
        a, b = (names.index(name) for name in pair)
        mirror[a], mirror[b] = b, a
    return Task.keypoints(names, options.tolerance, shape, mirror)


def read_part(folder: Path, options: KeypointOptions) -> KeypointImages:
    """A folder with labels.csv and the images that it names.

    labels.csv has a header (file, x1, y1, x2, y2, … or file, nose_x, nose_y, …) and a line for each image: its path
    within the folder, then x and y in px of each keypoint from the upper left corner, before any resizing.

    Raises:
        DataError: anything else; it names the line.
    """
    path = folder / "labels.csv"
    if not is_file(path):
        raise DataError("no such file", where=str(path), fix="keypoints need train/labels.csv and test/labels.csv")
    names, rows = _table(path)
    shape = _size(options)
    images: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
    points = np.empty((len(rows), len(names), 2), np.float32)
    for i, (file, values) in enumerate(rows):
        where = f"{path}, line {i + 2}"
        whole = _image(folder / file, where)
        pixels = _resized(whole, shape)
        if i == 0:
            if len(rows) * pixels.nbytes > memory_budget():
                fix = "resize them: data.args = {size = [96, 96]}"
                raise DataError(f"{len(rows):,} images of {pixels.shape[:2]} do not fit", where=str(path), fix=fix)
            images = np.empty((len(rows), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            fix = "resize all to one size: data.args = {size = [height, width]}"
            raise DataError(f"{pixels.shape[:2]} pixels, others {images.shape[1:3]}", where=where, fix=fix)
        images[i] = pixels
        scale = np.array([pixels.shape[1] / whole.shape[1], pixels.shape[0] / whole.shape[0]])
        points[i] = np.array(values).reshape(-1, 2) * scale
    return KeypointImages(images, points, names)


def _table(path: Path) -> tuple[tuple[str, ...], list[tuple[str, list[float]]]]:
    """Names of the keypoints, and of each line the file and its numbers."""
    try:
        text = read_bounded(path, _MOST_CSV, "a CSV file", DataError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", where=str(path), fix="save it as CSV with UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise DataError(f"not CSV ({error})", where=f"{path}, line {reader.line_num}", fix="mend that line") from None
    if len(lines) < 2:
        raise DataError("no line below the header", where=str(path), fix="give file, x1, y1, … and a line per image")
    header = [cell.strip() for cell in lines[0]]
    if header[0].lower() != "file" or len(header) < 3 or len(header) % 2 == 0:
        raise DataError(
            f"the header is {', '.join(header)[:80]!r}", where=str(path), fix="begin with: file,x1,y1,x2,y2"
        )
    names = tuple(_name(x, y, k) for k, (x, y) in enumerate(zip(header[1::2], header[2::2], strict=True), 1))
    return names, [_row(line, len(header), f"{path}, line {k}") for k, line in enumerate(lines[1:], 2)]


def _name(x: str, y: str, number: int) -> str:
    """The name that two columns share (nose of nose_x and nose_y), or the number of the keypoint."""
    same = x.lower().endswith("_x") and y.lower().endswith("_y") and x[:-2] == y[:-2]
    return x[:-2] if same and x[:-2] else str(number)


def _row(line: Sequence[str], columns: int, where: str) -> tuple[str, list[float]]:
    if len(line) != columns:
        raise DataError(
            f"{len(line)} cells, the header has {columns}", where=where, fix="give x and y of each keypoint"
        )
    file = line[0].strip()
    if not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"'{file}' is no path within the folder", where=where, fix="name a file of the folder")
    try:
        values = [float(cell) for cell in line[1:]]
    except ValueError:
        raise DataError("a place is not a number", where=where, fix="give x and y in px, as 12.5") from None
    if not all(abs(value) <= _FARTHEST for value in values):  # NaN is not, either
        raise DataError(
            "a place is not finite, or far from any image", where=where, fix="leave out images without labels"
        )
    return file, values


def _size(options: KeypointOptions) -> tuple[int, int] | None:
    """(H, W) that is asked for; None: images keep theirs."""
    if options.size is None:
        return None
    if len(options.size) != 2 or not all(_LEAST_SIDE <= side <= _MOST_SIDE for side in options.size):
        fix = f"give [height, width], each {_LEAST_SIDE} to {_MOST_SIDE}"
        raise DataError(f"size = {options.size}", where="data.args.size", fix=fix)
    return options.size[0], options.size[1]


def _image(file: Path, where: str) -> NDArray[np.uint8]:
    """Its pixels, uint8 (H, W, 3), as they lie in the file."""
    if not is_file(file):
        raise DataError(f"no file '{file.name}'", where=where, fix="mend the path, which is within the folder")
    pixels, turned = read_upright(file)
    if turned:
        raise DataError(
            f"'{file.name}' is turned by an EXIF tag, so that its x and y are not certain", where=where,
            fix="store it upright, without the tag",
        )  # fmt: skip
    return pixels


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    if shape is None or pixels.shape[:2] == shape:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BILINEAR), np.uint8)
