"""One image file as RGB pixels of 8 bits, as cameras, scanners and drawing programs leave them.

Images are turned as their EXIF tag says, transparent pixels are shown over a stated background, and images of more than
8 bits a channel are refused by name, or scaled if that is asked for: clipping them would make them white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgesafe.data.preprocessing import Preprocessing
from edgesafe.errors import DataError, hint
from edgesafe.files import DAMAGE, read_bounded
from edgesafe.recipe.sections.data import PREPROCESSING

__all__ = ["MOST_BYTES", "SUFFIXES", "Changes", "PictureOptions", "pixels_of", "read_upright"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MOST_BYTES = 256 << 20  #: of an image file
_MOST_PIXELS = 64_000_000  # of an image: a camera's 50 megapixels, not a decompression bomb's
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes of more than 8 bits a channel
_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, Image.DecompressionBombError)


@dataclass(frozen=True)
class PictureOptions:
    """How images are read: the keys of `data.args` that all sets of image files share.

    Attributes:
        preprocessing: how they are resized and cropped; as it stands, all images must have one size already.
        background: RGB colour under transparent pixels.
        scale_deep: bring 16 bits a channel to 8 (divided by 257, rounded) instead of refusing them.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    background: tuple[int, int, int] = (255, 255, 255)
    scale_deep: bool = False

    @classmethod
    def of(cls, args: Mapping[str, Any], also: tuple[str, ...] = ()) -> PictureOptions:
        """From `data.args`: resize, fit, crop, interpolation, size, background, depth = "scale".

        Args:
            args: as the recipe has them.
            also: further keys that the set takes.

        Raises:
            DataError: an unknown or wrong value.
        """
        known = (*PREPROCESSING, "background", "depth", *also)
        unknown = set(args) - set(known)
        if unknown:
            raise DataError(f"unknown key '{min(unknown)}'", where="data.args", fix=hint(min(unknown), known))
        background, depth = args.get("background", (255, 255, 255)), args.get("depth")
        if not _whole(background, 3, 0, 255):
            raise DataError(f"{background!r} is no colour", where="data.args.background", fix="give [255, 255, 255]")
        if depth not in {None, "scale"}:
            raise DataError(f"{depth!r} is unknown", where="data.args.depth", fix='write depth = "scale"')
        return cls(Preprocessing.of(args), tuple(background), depth == "scale")

    def lines(self, where: str) -> tuple[str, ...]:
        """How images are brought to the size of a network, in words: a line, or none where they stay as they are."""
        said = str(self.preprocessing)
        return (f"{where}: images are {said}",) if said else ()

    @property
    def key(self) -> str:
        """All that decoding depends on besides the file."""
        return f"{self!r} Pillow {PIL.__version__}"


def _whole(value: object, count: int, low: int, high: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= high for v in value)
    )


@dataclass
class Changes:
    """In how many images something was changed while they were read."""

    turned: int = 0
    transparent: int = 0
    scaled: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of images by what was done to them, as a `decoded` set counts them."""
        return asdict(self)

    def lines(self, where: str, background: tuple[int, int, int]) -> tuple[str, ...]:
        """What was changed, in words: a line of each kind that there is."""
        texts = (
            (self.turned, "images turned as their EXIF tag says"),
            (self.transparent, f"images with transparent pixels shown over RGB {background}"),
            (self.scaled, "images of 16 bits a channel scaled to 8"),
        )
        return tuple(f"{where}: {n:,} {text}" for n, text in texts if n)


def pixels_of(content: bytes, where: str, options: PictureOptions) -> tuple[NDArray[np.uint8], Changes]:
    """The pixels of an image file, turned, flattened, scaled and resized as `options` say, and what of that was done.

    Args:
        content: of the file.
        where: names it in messages.
        options: how it is read.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        DataError: too large, damaged, or of a depth that is not converted.
    """
    changes = Changes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning of large images: the limit below is lower
            image = Image.open(io.BytesIO(content))
        with image:
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(f"has {image.width}x{image.height} pixels", where=where, fix="make it smaller")
            rgb = _flat(_eight_bits(image, where, options, changes), options, changes)
    except _DAMAGE as error:
        raise DataError(
            f"cannot be read as an image ({' '.join(str(error).split())[:200]})",
            where=where,
            fix="replace or remove the file",
        ) from None
    try:
        return np.asarray(options.preprocessing(rgb, options.background), np.uint8), changes
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None


def read_upright(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """RGB pixels of an image file, uint8 (H, W, 3), and whether an EXIF tag turned it.

    Raises:
        DataError: too large, damaged, or of more than 8 bits a channel.
    """
    content = read_bounded(path, MOST_BYTES, "an image", DataError)
    pixels, changes = pixels_of(content, str(path), PictureOptions())
    return pixels, changes.turned > 0


def _eight_bits(image: Image.Image, where: str, options: PictureOptions, changes: Changes) -> Image.Image:
    """The image, turned as its EXIF tag says, at 8 bits a channel."""
    deep_colour = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode in _DEEP or deep_colour:
        if image.mode == "F" or not options.scale_deep:
            kind = "floating-point pixels" if image.mode == "F" else "more than 8 bits a channel"
            fix = "convert it to 8 bits" + ("" if image.mode == "F" else ', or write data.args = {depth = "scale"}')
            raise DataError(f"has {kind}", where=where, fix=fix)
        changes.scaled += 1
        if image.mode in _DEEP:
            values = np.asarray(image).astype(np.int64)
            if values.min() < 0 or values.max() > 65535:
                raise DataError("has pixels beyond 16 bits", where=where, fix="convert it to 8 bits")
            image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.getexif().get(0x0112, 1) != 1:
        changes.turned += 1
        image = ImageOps.exif_transpose(image)
    return image


def _flat(image: Image.Image, options: PictureOptions, changes: Changes) -> Image.Image:
    """RGB; what is transparent shows the background, not the colour that happens to be stored under it."""
    if image.mode not in {"RGBA", "LA", "PA", "La", "RGBa"} and "transparency" not in image.info:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    if coloured.getchannel("A").getextrema()[0] == 255:
        return coloured.convert("RGB")
    changes.transparent += 1
    under = Image.new("RGBA", coloured.size, (*options.background, 255))
    return Image.alpha_composite(under, coloured).convert("RGB")
