"""Reading data files: npz archives (never pickled), folders of images, and CIFAR-10's hashes."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgesafe.errors import DataError

__all__ = ["CIFAR10_SHA256", "Folder", "check_cifar10", "read_folder", "read_npz"]

# SHA-256 of the C-contiguous uint8 arrays, order as in the original data set.
CIFAR10_SHA256 = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Folder:
    """Images of a folder with one sub-folder per class."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_npz(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file.

    Raises:
        DataError: the file is missing, truncated, damaged, holds Python objects, or lacks a required array.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="data.root must name the npz file")
    found: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                found[name] = archive[name]
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DataError(
            f"damaged, truncated or not an npz of plain arrays ({error})", where=str(path), fix="make it anew"
        ) from None
    missing = [name for name in required if name not in found]
    if missing:
        raise DataError(
            f"holds no {', '.join(missing)} (has: {', '.join(found)})", where=str(path), fix="name the arrays so"
        )
    return found


def check_cifar10(found: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Refuse anything that is not CIFAR-10 to the bit.

    Raises:
        DataError: an array's hash differs.
    """
    for name, expected in CIFAR10_SHA256.items():
        if (
            found[name].dtype != np.uint8
            or hashlib.sha256(np.ascontiguousarray(found[name]).tobytes()).hexdigest() != expected
        ):
            raise DataError(
                f"{name} is not CIFAR-10's", where=str(path), fix="delete the file and run: edgesafe fetch cifar10"
            )


def read_folder(root: Path, size: object = None) -> Folder:
    """Read `root/<class>/*.png|jpg|…` as RGB, classes in sorted order.

    Args:
        root: the folder.
        size: (H, W) to resize to (bilinear); None: all images must have one size already.

    Raises:
        DataError: no such folder, no classes, an empty class, an unreadable image, or different sizes.
    """
    if not root.is_dir():
        raise DataError("no such folder", where=str(root), fix="an imagefolder has train/<class>/ and test/<class>/")
    wanted = _size(size)
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    if not classes:
        raise DataError("no class folders", where=str(root), fix="put the images of each class in a folder of its own")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not paths:
            raise DataError("no images", where=str(root / name), fix="remove the empty class or fill it")
        for path in paths:
            images.append(_read_image(path, wanted))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                fix = "give one size, for example data.args = {size = [32, 32]}"
                raise DataError(
                    f"{images[-1].shape[:2]} pixels, others {images[0].shape[:2]}", where=str(path), fix=fix
                )
    return Folder(np.stack(images), np.asarray(labels, np.int64), classes)


def _size(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(v, int) and v >= 8 for v in size)):
        raise DataError(f"{size!r} is not a size", where="data.args.size", fix="give [height, width], at least 8 each")
    return int(size[0]), int(size[1])


def _read_image(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot be read as an image ({error})", where=str(path), fix="replace or remove the file"
        ) from None
    if size is not None:
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(rgb, np.uint8)
