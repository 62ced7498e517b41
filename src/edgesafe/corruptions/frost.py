"""The textures that frost lays over an image: made by rule, or cut from photographs that the user supplies.

The photographs of the reference have no stated origin or licence, so none is shipped. They are used where the user
names a directory that holds them (`frost1.png` .. `frost5.jpg`), for instance that of an installed `imagecorruptions`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe.corruptions.ice import procedural_textures
from edgesafe.corruptions.tables import Profile, scale_of
from edgesafe.errors import DataError
from edgesafe.files import DAMAGE, read_bounded

__all__ = ["PHOTOGRAPHS", "FrostBank", "installed_photographs"]

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The five files that the reference draws from. It never draws its sixth, and its second and third are alike."""

_PHOTOGRAPH_MD5 = ("6ead634a", "98f0d2b1", "b3ed8eb1", "d70b9d6a", "50984ae2")  #: how the originals' hashes begin

_MOST_BYTES, _MOST_PIXELS = 1 << 28, 64_000_000  # of a photograph: a camera's, not a decompression bomb's
_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, Image.DecompressionBombError)
_REDUCTION = {Profile.CIFAR: 0.2, Profile.TINY: 0.3, Profile.IMAGENET: 1.0}


@dataclass(frozen=True)
class FrostBank:
    """Textures to cut frost from.

    Attributes:
        kind: "procedural", "photographs" (the reference's own files), or "images" (others, from a directory).
        textures: uint8 (h, w, 3) each, larger than the images in both directions.
        sha256: over shapes and pixels.
    """

    kind: str
    textures: tuple[NDArray[np.uint8], ...]
    sha256: str

    @classmethod
    def procedural(cls, profile: Profile, height: int, width: int) -> FrostBank:
        """Textures made by rule, the same everywhere; see `ice`."""
        return _procedural(profile, height, width)

    @classmethod
    def from_directory(cls, directory: Path, profile: Profile, height: int, width: int) -> FrostBank:
        """Photographs, reduced as the profile's generator does (x0.2, x0.3 or not at all).

        Args:
            directory: holds the five files of `PHOTOGRAPHS`, or else any PNG and JPEG files (used in name order).
            profile: decides the reduction.
            height: of the images to corrupt.
            width: of the images to corrupt.

        Raises:
            DataError: no such directory, no picture in it, a damaged picture, or one that is too small.
        """
        if not directory.is_dir():
            raise DataError("no such directory", where=str(directory), fix="give a directory with frost photographs")
        files = [directory / name for name in PHOTOGRAPHS]
        if not all(f.is_file() for f in files):
            files = sorted(f for f in directory.iterdir() if f.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not files:
            raise DataError("no PNG or JPEG file here", where=str(directory), fix=f"put {', '.join(PHOTOGRAPHS)} there")
        factor = _REDUCTION[profile] * scale_of(profile, height, width)
        contents = [read_bounded(f, _MOST_BYTES, "a photograph", DataError) for f in files]
        textures = tuple(resize_bilinear(_decode(c, f), factor) for c, f in zip(contents, files, strict=True))
        for file, texture in zip(files, textures, strict=True):
            if texture.shape[0] <= height or texture.shape[1] <= width:
                size = f"{texture.shape[0]}x{texture.shape[1]}"
                raise DataError(f"{size} px after reduction does not cover {height}x{width}", where=str(file))
        digests = tuple(hashlib.md5(c, usedforsecurity=False).hexdigest()[:8] for c in contents)
        return cls("photographs" if digests == _PHOTOGRAPH_MD5 else "images", textures, _sha256(textures))

    def crops(
        self,
        which: NDArray[np.int64],
        top: NDArray[np.int64],
        left: NDArray[np.int64],
        shape: tuple[int, int, int],
    ) -> NDArray[np.uint8]:
        """Cut one piece for each image: uint8 (n, H, W, C); for C = 1, luminance."""
        height, width, channels = shape
        out = np.empty((len(which), height, width, 3), np.uint8)
        textures = self.textures
        places = zip(out, which.tolist(), top.tolist(), left.tolist(), strict=True)
        for piece, t, y, x in places:
            piece[...] = textures[t][y : y + height, x : x + width]
        if channels == 3:
            return out
        red, green, blue = out.astype(np.uint32).transpose(3, 0, 1, 2)
        grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
        return grey.astype(np.uint8)[..., None]


@lru_cache(maxsize=4)
def _procedural(profile: Profile, height: int, width: int) -> FrostBank:
    textures = procedural_textures(profile, height, width)
    return FrostBank("procedural", textures, _sha256(textures))


def _sha256(textures: Sequence[NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for texture in textures:
        digest.update(repr(texture.shape).encode())
        digest.update(np.ascontiguousarray(texture).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _decode(content: bytes, file: Path) -> NDArray[np.uint8]:
    """RGB pixels of a photograph, uint8 (h, w, 3).

    Raises:
        DataError: over 64 million pixels, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning of large images: the limit below is lower
            picture = Image.open(io.BytesIO(content))
        with picture:
            if picture.width * picture.height > _MOST_PIXELS:
                size = f"{picture.width}x{picture.height}"
                raise DataError(f"has {size} pixels", where=str(file), fix="make it smaller")
            return np.asarray(picture.convert("RGB"))
    except _DAMAGE as error:
        raise DataError("not a readable picture", where=str(file), fix="replace it with a PNG or JPEG file") from error


def installed_photographs() -> Path | None:
    """The directory of the photographs in an installed `imagecorruptions`, or None. The package is not imported."""
    spec = importlib.util.find_spec("imagecorruptions")
    for place in (spec.submodule_search_locations or []) if spec else []:
        directory = Path(place) / "frost"
        if all((directory / name).is_file() for name in PHOTOGRAPHS):
            return directory
    return None


def resize_bilinear(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """OpenCV's `resize` by a factor, linear, 8 bits: no anti-aliasing, weights in 1/2048.

    Args:
        image: uint8 (H, W, C).
        factor: new size / old size; 1 returns the image.
    """
    if factor == 1.0:
        return image
    lines = []
    for size in image.shape[:2]:
        new = max(1, round(size * factor))
        where = ((np.arange(new) + 0.5) / factor - 0.5).astype(np.float32)
        left = np.floor(where).astype(np.int64)
        share = where - left
        share[(left < 0) | (left >= size - 1)] = 0
        left = np.clip(left, 0, size - 1)
        upper = np.rint(share * 2048).astype(np.int64)
        lower = np.rint((1 - share) * 2048).astype(np.int64)
        lines.append((left, np.minimum(left + 1, size - 1), lower, upper))
    (top, bottom, up, down), (left, right, west, east) = lines
    wide = image[:, left] * west[:, None] + image[:, right] * east[:, None]
    both = wide[top] * up[:, None, None] + wide[bottom] * down[:, None, None]
    level: NDArray[np.int64] = np.clip((both + (1 << 21)) >> 22, 0, 255)
    return level.astype(np.uint8)
