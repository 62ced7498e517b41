"""How images of any size come to the size of a network: resized, then cropped, as torchvision's transforms do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from PIL import Image

from edgesafe.errors import DataError, hint

__all__ = ["Fit", "Preprocessing"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST, "box": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip
_LEAST, _MOST = 8, 1 << 14


class Fit(StrEnum):
    """What resizing does with an image of another aspect ratio."""

    SHORTER = "shorter"  #: the shorter side gets the size, the longer one follows
    SQUASH = "squash"  #: both sides get the size: the image is distorted
    PAD = "pad"  #: the longer side gets the size, the rest is background


@dataclass(frozen=True)
class Preprocessing:
    """Resize, then crop the middle. As it stands: images stay as they are.

    Attributes:
        size: (H, W) of `squash` and `pad`; (s, s) of `shorter`; None: not resized.
        fit: see `Fit`.
        crop: (H, W) of the middle that is kept; None: all.
        interpolation: a filter of Pillow, which always smooths when it shrinks.
    """

    size: tuple[int, int] | None = None
    fit: Fit = Fit.SQUASH
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> Preprocessing:
        """From `data.args`: resize, fit, crop, interpolation; or size = [H, W], which squashes.

        Raises:
            DataError: a value that cannot be used, or `size` beside `resize`.
        """
        if "size" in args and "resize" in args:
            raise DataError(
                "size and resize are both given", where="data.args", fix='size is resize with fit = "squash"'
            )
        resize, crop = args.get("resize", args.get("size")), args.get("crop")
        single = isinstance(resize, int) and not isinstance(resize, bool)
        fit = args.get("fit", "shorter" if single else "squash")
        if fit not in set(Fit):
            raise DataError(f"{fit!r} is unknown", where="data.args.fit", fix=hint(str(fit), Fit))
        if fit == Fit.SHORTER and resize is not None and not single:
            raise DataError("two sides for the shorter one", where="data.args.resize", fix="give one number")
        interpolation = args.get("interpolation", "bilinear")
        if interpolation not in _FILTERS:
            fix = hint(str(interpolation), list(_FILTERS))
            raise DataError(f"{interpolation!r} is unknown", where="data.args.interpolation", fix=fix)
        key = "size" if "size" in args else "resize"
        return cls(_sides(resize, key), Fit(fit), _sides(crop, "crop"), interpolation)

    def __call__(self, image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
        """The image resized and cropped; `background` fills what `pad` leaves open.

        Raises:
            DataError: the image is smaller than the crop.
        """
        if self.size is not None:
            image = self._resized(image, self.size, background)
        if self.crop is None:
            return image
        height, width = self.crop
        if image.height < height or image.width < width:
            what = f"{image.height}x{image.width} pixels cannot be cropped to {height}x{width}"
            raise DataError(what, fix="resize to at least that first: data.args.resize")
        top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
        return image.crop((left, top, left + width, top + height))

    def _resized(self, image: Image.Image, size: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
        kernel = _FILTERS[self.interpolation]
        if self.fit is Fit.SQUASH:
            return image.resize((size[1], size[0]), kernel)
        short, long = sorted((image.height, image.width))
        if self.fit is Fit.SHORTER:
            length = int(size[0] * long / short)
            sides = (size[0], length) if image.width <= image.height else (length, size[0])
            return image.resize(sides, kernel)
        scale = min(size[0] / image.height, size[1] / image.width)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        whole = Image.new("RGB", (size[1], size[0]), background)
        whole.paste(image.resize(inner, kernel), ((size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2))
        return whole

    def __str__(self) -> str:
        """In words, for people: "resized to a shorter side of 256 (bilinear), the middle 224x224"."""
        said = []
        if self.size is not None:
            to = {
                Fit.SHORTER: f"a shorter side of {self.size[0]}", Fit.SQUASH: f"{self.size[0]}x{self.size[1]}",
                Fit.PAD: f"fit {self.size[0]}x{self.size[1]}, padded",
            }[self.fit]  # fmt: skip
            said.append(f"resized to {to} ({self.interpolation})")
        if self.crop is not None:
            said.append(f"the middle {self.crop[0]}x{self.crop[1]}")
        return ", ".join(said)


def _sides(value: object, key: str) -> tuple[int, int] | None:
    """One number or two as (H, W)."""
    if value is None:
        return None
    both = [value, value] if isinstance(value, int) else value
    if (
        not isinstance(both, list | tuple)
        or len(both) != 2
        or not all(isinstance(v, int) and not isinstance(v, bool) and _LEAST <= v <= _MOST for v in both)
    ):
        fix = "give [height, width], at least 8 each" + ("" if key == "size" else ", or one number for both")
        raise DataError(f"{value!r} is not a size", where=f"data.args.{key}", fix=fix)
    return int(both[0]), int(both[1])
