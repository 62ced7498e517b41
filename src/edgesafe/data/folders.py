"""Folders of images, one sub-folder per class, as cameras, notebooks and archives leave them.

What is no image of the data set (`.ipynb_checkpoints`, `__MACOSX`, dot-files, notes) is skipped and said. Images are
turned as their EXIF tag says, transparent pixels are shown over a stated background, and images of more than 8 bits a
channel are refused by name, or scaled if that is asked for: clipping them would make them white.
"""

from __future__ import annotations

import difflib
import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgesafe.data.cache import Cache
from edgesafe.data.decoded import Decoder, decoded
from edgesafe.data.preprocessing import KEYS, Preprocessing
from edgesafe.errors import DataError
from edgesafe.files import is_file, is_folder, read_bounded
from edgesafe.records import Images

__all__ = ["Folder", "FolderOptions", "find_part", "read_folder", "read_upright", "require_part"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_MOST_BYTES = 256 << 20  # of an image file
_MOST_PIXELS = 64_000_000  # of an image: a camera's 50 megapixels, not a decompression bomb's
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes of more than 8 bits a channel
_DAMAGE = (
    OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError, TypeError, KeyError,
    IndexError, EOFError, OverflowError, MemoryError, struct.error, zlib.error, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """Images of a folder with one sub-folder per class; `notes` say what was skipped or changed."""

    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...]  #: of the images, from the folder, with "/"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderOptions:
    """How images are read: `data.args` of an imagefolder.

    Attributes:
        preprocessing: how they are resized and cropped; as it stands, all images must have one size already.
        background: RGB colour under transparent pixels.
        scale_deep: bring 16 bits a channel to 8 (divided by 257, rounded) instead of refusing them.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    background: tuple[int, int, int] = (255, 255, 255)
    scale_deep: bool = False

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> FolderOptions:
        """From `data.args`: size, background, depth = "scale".

        Raises:
            DataError: an unknown or wrong value.
        """
        known = ("size", *KEYS, "background", "depth", "train", "test", "validation", "split")
        unknown = set(args) - set(known)
        if unknown:
            fix = f"an imagefolder has {', '.join(known)}"
            raise DataError(f"unknown key '{min(unknown)}'", where="data.args", fix=fix)
        background, depth = args.get("background", (255, 255, 255)), args.get("depth")
        if not _whole(background, 3, 0, 255):
            raise DataError(f"{background!r} is no colour", where="data.args.background", fix="give [255, 255, 255]")
        if depth not in {None, "scale"}:
            raise DataError(f"{depth!r} is unknown", where="data.args.depth", fix='write depth = "scale"')
        return cls(Preprocessing.of(args), tuple(background), depth == "scale")


def _whole(value: object, count: int, low: int, high: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= high for v in value)
    )


def find_part(root: Path, names: tuple[str, ...], stated: object = None) -> Path | None:
    """The folder of a part (train, test, validation): the stated one, or the one of these names that is there.

    Raises:
        DataError: the stated one is not there, or two are.
    """
    if stated is not None:
        if not isinstance(stated, str) or not is_folder(root / stated):
            raise DataError(f"no folder {stated!r}", where=str(root), fix=f"there are: {_have(root)}")
        return root / stated
    there = [root / name for name in names if is_folder(root / name)]
    if len(there) > 1:
        both = " and ".join(path.name for path in there)
        raise DataError(f"{both} are both there", where=str(root), fix=f'say which: data.args = {{{names[0]} = "…"}}')
    return there[0] if there else None


def require_part(root: Path, name: str, stated: object = None) -> Path:
    """As `find_part`, for a part that must be there; near names are named.

    Raises:
        DataError: it is not there.
    """
    if not is_folder(root):
        raise DataError("no such folder", where=str(root), fix="an imagefolder has train/<class>/ and test/<class>/")
    place = find_part(root, (name,), stated)
    if place is not None:
        return place
    have = [path.name for path in root.iterdir() if is_folder(path)]
    near = [other for other in have if other.lower() == name] or difflib.get_close_matches(name, have, 1, 0.7)
    near = near or [other for other in have if name == "test" and other in {"val", "valid", "validation"}]
    fix = f"there are: {_have(root)}" if have else "an imagefolder has train/<class>/ and test/<class>/"
    if near:
        fix = f"if '{near[0]}' is meant, say so: data.args = {{{name} = \"{near[0]}\"}}"
    raise DataError(f"no folder '{name}'", where=str(root), fix=fix)


def _have(root: Path) -> str:
    return ", ".join(sorted(path.name for path in root.iterdir() if is_folder(path))[:12]) or "none"


def _is_left_over(path: Path) -> bool:
    """Whether a name is an editor's, a notebook's or an archive's, not the data set's."""
    return path.name.startswith(".") or path.name in {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"}


@dataclass
class _Notes:
    """What was skipped, turned or converted while a folder was read: names and counts of images."""

    skipped: Counter[str] = field(default_factory=Counter)
    turned: int = 0
    transparent: int = 0
    scaled: int = 0

    def lines(self, where: str, background: tuple[int, int, int]) -> tuple[str, ...]:
        skipped = [f"{where}: {n:,} skipped that are no images of a class ({name})" for name, n in self.skipped.items()]
        texts = (
            (self.turned, "images turned as their EXIF tag says"),
            (self.transparent, f"images with transparent pixels shown over RGB {background}"),
            (self.scaled, "images of 16 bits a channel scaled to 8"),
        )
        return (*skipped, *(f"{where}: {n:,} {text}" for n, text in texts if n))


def read_folder(root: Path, options: FolderOptions, cache: Cache | None = None) -> Folder:
    """Read `root/<class>/**/*.png|jpg|…` as RGB, classes in sorted order.

    Raises:
        DataError: no classes, two that differ in case only, an empty class, an image that cannot be read or has more
            than 8 bits a channel, different sizes, or more images than the cache may hold.
    """
    notes = _Notes()
    entries = sorted(root.iterdir())
    notes.skipped.update(path.name for path in entries if _is_left_over(path))
    classes = tuple(path.name for path in entries if is_folder(path) and not _is_left_over(path))
    if not classes:
        raise DataError("no class folders", where=str(root), fix="put the images of each class in a folder of its own")
    alike = [name for name, n in Counter(name.casefold() for name in classes).items() if n > 1]
    if alike:
        same = " and ".join(name for name in classes if name.casefold() == alike[0])
        raise DataError(f"classes {same} differ in case only", where=str(root), fix="merge or rename them")
    paths = [(path, label) for label, name in enumerate(classes) for path in _images(root / name, notes)]
    if not paths:
        raise DataError("no images", where=str(root), fix="put the images of each class in a folder of its own")

    def pixels(path: Path) -> tuple[NDArray[np.uint8], dict[str, int]]:
        seen = _Notes()
        image = _read_image(path, options, seen)
        return image, {"turned": seen.turned, "transparent": seen.transparent, "scaled": seen.scaled}

    source = Decoder(root, [path for path, _ in paths], pixels, f"{options!r} Pillow {PIL.__version__}")
    images, changed = decoded(source, cache or Cache.in_memory())
    notes.turned, notes.transparent, notes.scaled = (changed.get(k, 0) for k in ("turned", "transparent", "scaled"))
    labels = np.asarray([label for _, label in paths], np.int64)
    told = str(options.preprocessing)
    lines = notes.lines(root.name, options.background)
    names = tuple(path.relative_to(root).as_posix() for path, _ in paths)
    return Folder(images, labels, classes, names, (*([f"{root.name}: images are {told}"] if told else []), *lines))


def _images(folder: Path, notes: _Notes) -> list[Path]:
    """The image files of a class, sorted.

    Raises:
        DataError: there are none.
    """
    paths = []
    for path in _walk(folder, notes):
        if path.suffix.lower() in _SUFFIXES and is_file(path):
            paths.append(path)
        else:
            notes.skipped[f"*{path.suffix or path.name}"] += 1
    if not paths:
        raise DataError("no images", where=str(folder), fix="remove the empty class or fill it")
    return sorted(paths)


def _walk(folder: Path, notes: _Notes) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _is_left_over(path):
            notes.skipped[path.name if path.is_dir() else "dot-files and the like"] += 1
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, notes)
        else:
            yield path


def _read_image(path: Path, options: FolderOptions, notes: _Notes) -> NDArray[np.uint8]:
    """RGB pixels of an image file, uint8 (H, W, 3), turned, flattened, scaled and resized as `options` say.

    Raises:
        DataError: too large, damaged, or of a depth that is not converted.
    """
    content = read_bounded(path, _MOST_BYTES, "an image", DataError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning of large images: the limit below is lower
            image = Image.open(io.BytesIO(content))
        with image:
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(f"has {image.width}x{image.height} pixels", where=str(path), fix="make it smaller")
            rgb = _flat(_eight_bits(image, path, options, notes), options, notes)
    except _DAMAGE as error:
        raise DataError(
            f"cannot be read as an image ({' '.join(str(error).split())[:200]})",
            where=str(path),
            fix="replace or remove the file",
        ) from None
    try:
        return np.asarray(options.preprocessing(rgb, options.background), np.uint8)
    except DataError as error:
        raise DataError(error.what, where=str(path), fix=error.fix) from None


def read_upright(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """RGB pixels of an image file, uint8 (H, W, 3), and whether an EXIF tag turned it.

    Raises:
        DataError: too large, damaged, or of more than 8 bits a channel.
    """
    notes = _Notes()
    pixels = _read_image(path, FolderOptions(), notes)
    return pixels, notes.turned > 0


def _eight_bits(image: Image.Image, path: Path, options: FolderOptions, notes: _Notes) -> Image.Image:
    """The image, turned as its EXIF tag says, at 8 bits a channel."""
    deep_colour = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode in _DEEP or deep_colour:
        if image.mode == "F" or not options.scale_deep:
            kind = "floating-point pixels" if image.mode == "F" else "more than 8 bits a channel"
            fix = "convert it to 8 bits" + ("" if image.mode == "F" else ', or write data.args = {depth = "scale"}')
            raise DataError(f"has {kind}", where=str(path), fix=fix)
        notes.scaled += 1
        if image.mode in _DEEP:
            values = np.asarray(image).astype(np.int64)
            if values.min() < 0 or values.max() > 65535:
                raise DataError("has pixels beyond 16 bits", where=str(path), fix="convert it to 8 bits")
            image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.getexif().get(0x0112, 1) != 1:
        notes.turned += 1
        image = ImageOps.exif_transpose(image)
    return image


def _flat(image: Image.Image, options: FolderOptions, notes: _Notes) -> Image.Image:
    """RGB; what is transparent shows the background, not the colour that happens to be stored under it."""
    if image.mode not in {"RGBA", "LA", "PA", "La", "RGBa"} and "transparency" not in image.info:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    if coloured.getchannel("A").getextrema()[0] == 255:
        return coloured.convert("RGB")
    notes.transparent += 1
    under = Image.new("RGBA", coloured.size, (*options.background, 255))
    return Image.alpha_composite(under, coloured).convert("RGB")
