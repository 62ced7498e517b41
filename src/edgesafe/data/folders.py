"""Folders of images, one sub-folder per class, as cameras, notebooks and archives leave them.

What is no image of the data set (`.ipynb_checkpoints`, `__MACOSX`, dot-files, notes) is skipped and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgesafe.data.cache import Cache
from edgesafe.data.decoded import Encoded, decoded
from edgesafe.data.pictures import MOST_BYTES, SUFFIXES, PictureOptions
from edgesafe.data.raw import ClassImages
from edgesafe.errors import DataError, hint, nearest
from edgesafe.files import is_file, is_folder, read_bounded

__all__ = ["find_part", "read_folder", "require_part"]

_VALIDATION = ("val", "valid", "validation")  #: what may be meant where there is no "test"


def find_part(root: Path, names: tuple[str, ...], stated: object = None) -> Path | None:
    """The folder of a part (train, test, validation): the stated one, or the one of these names that is there.

    Raises:
        DataError: the stated one is not there, or two are.
    """
    if stated is not None:
        if not isinstance(stated, str) or not is_folder(root / stated):
            fix = hint(str(stated), _have(root), "give the name of a folder in it")
            raise DataError(f"no folder {stated!r}", where=str(root), fix=fix)
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
    have = _have(root)
    near = nearest(name, have) or next((one for one in _VALIDATION if name == "test" and one in have), None)
    fix = hint(name, have, "an imagefolder has train/<class>/ and test/<class>/")
    if near is not None:
        fix = f"if '{near}' is meant, say so: data.args = {{{name} = \"{near}\"}}"
    raise DataError(f"no folder '{name}'", where=str(root), fix=fix)


def _have(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if is_folder(path))


def _is_left_over(path: Path) -> bool:
    """Whether a name is an editor's, a notebook's or an archive's, not the data set's."""
    return path.name.startswith(".") or path.name in {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"}


def read_folder(root: Path, options: PictureOptions, cache: Cache | None = None) -> ClassImages:
    """Read `root/<class>/**/*.png|jpg|…` as RGB, classes in sorted order.

    Raises:
        DataError: no classes, two that differ in case only, an empty class, an image that cannot be read or has more
            than 8 bits a channel, different sizes, or more images than the cache may hold.
    """
    entries = sorted(root.iterdir())
    skipped = Counter(path.name for path in entries if _is_left_over(path))
    classes = tuple(path.name for path in entries if is_folder(path) and not _is_left_over(path))
    if not classes:
        raise DataError("no class folders", where=str(root), fix="put the images of each class in a folder of its own")
    alike = [name for name, n in Counter(name.casefold() for name in classes).items() if n > 1]
    if alike:
        same = " and ".join(name for name in classes if name.casefold() == alike[0])
        raise DataError(f"classes {same} differ in case only", where=str(root), fix="merge or rename them")
    paths = [(path, label) for label, name in enumerate(classes) for path in _images(root / name, skipped)]
    if not paths:
        raise DataError("no images", where=str(root), fix="put the images of each class in a folder of its own")
    files = [path for path, _ in paths]
    source = Encoded(root, files, len(files), lambda: iter(files), _content, str, options)
    images, changes = decoded(source, cache or Cache.in_memory())
    left = (f"{root.name}: {n:,} skipped that are no images of a class ({name})" for name, n in skipped.items())
    return ClassImages(
        images, np.asarray([label for _, label in paths], np.int64), classes,
        tuple(path.relative_to(root).as_posix() for path in files),
        (*options.lines(root.name), *left, *changes.lines(root.name, options.background)),
    )  # fmt: skip


def _content(path: Path) -> bytes:
    return read_bounded(path, MOST_BYTES, "an image", DataError)


def _images(folder: Path, skipped: Counter[str]) -> list[Path]:
    """The image files of a class, sorted.

    Raises:
        DataError: there are none.
    """
    paths = []
    for path in _walk(folder, skipped):
        if path.suffix.lower() in SUFFIXES and is_file(path):
            paths.append(path)
        else:
            skipped[f"*{path.suffix or path.name}"] += 1
    if not paths:
        raise DataError("no images", where=str(folder), fix="remove the empty class or fill it")
    return sorted(paths)


def _walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _is_left_over(path):
            skipped[path.name if path.is_dir() else "dot-files and the like"] += 1
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, skipped)
        else:
            yield path
