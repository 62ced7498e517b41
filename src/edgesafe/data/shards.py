"""Sets of images in shards: many images in each file, with their labels beside them.

root/train-00000.tar …  root/test-00000.tar …   also root/train/*.tar, root/data/train-*.tar, root/train.tar
root/*.tar              data.args = {split = [0.8, 0.1, 0.1]}

`parquet` and `webdataset` read the files; here parts are found, classes numbered, and images decoded as those of
folders are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import mappings, parts
from edgesafe.data.cache import Cache
from edgesafe.data.decoded import Encoded, decoded
from edgesafe.data.pictures import PictureOptions
from edgesafe.data.raw import ClassImages, RawData
from edgesafe.errors import DataError
from edgesafe.files import MAX_TEXT, is_file, is_folder, read_bounded
from edgesafe.recipe.sections import DataSection

__all__ = ["Columns", "Shards", "load"]

Item = tuple[str, bytes]  # where an image stands, for messages, and its file's content

_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train",), "test": ("test",), "validation": ("validation", "val", "valid", "dev"),
}  # fmt: skip
_KEYS = ("image", "label", "classes", "split", *_NAMES)


@dataclass(frozen=True)
class Columns:
    """Where images and labels stand in a shard; empty: where they usually do."""

    image: str = ""
    label: str = ""


@dataclass(frozen=True)
class Shards:
    """What some shards hold, in their order.

    Attributes:
        labels: of each image: a whole number, or the name of a class.
        names: of each image.
        classes: names of the classes, if the files know them.
        items: gives the images anew, one after another.
    """

    labels: Sequence[int | str]
    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    items: Callable[[], Iterator[Item]]


Reader = Callable[[Sequence[Path], Columns], Shards]


def load(section: DataSection, cache: Cache, suffixes: tuple[str, ...], read: Reader) -> RawData:
    """The parts of a set in shards.

    Args:
        section: the recipe's [data].
        cache: says what is held in memory, and keeps what is decoded.
        suffixes: of the shards.
        read: what some of them hold.

    Raises:
        DataError: a part is missing, a shard is damaged, or labels and classes do not agree.
    """
    root, args = Path(section.root), dict(section.args)
    options = PictureOptions.of(args, _KEYS)
    columns = Columns(*(_text(args, key) for key in ("image", "label")))
    stated = _stated_classes(args.get("classes"), root)
    if "split" in args:
        files = _all(root, suffixes)
        found = {"whole": read(files, columns)}
        place = {"whole": files}
    else:
        place = {name: _part(root, name, args, suffixes) for name in _NAMES}
        place = {name: files for name, files in place.items() if files}
        found = {name: read(files, columns) for name, files in place.items()}
    first = next(iter(found.values()))
    classes = stated or first.classes or _classes_of(first.labels, section.root)
    images = {name: _decode(name, shards, classes, place[name], options, cache) for name, shards in found.items()}
    if "split" in args:
        return parts.divided(images["whole"], args["split"], root if is_folder(root) else root.parent, "set of shards")
    said = (f"{name}: {len(place[name]):,} shards, {len(shards.labels):,} images" for name, shards in found.items())
    return parts.joined(images, tuple(said))


def _decode(
    name: str, shards: Shards, classes: tuple[str, ...], files: Sequence[Path], options: PictureOptions, cache: Cache
) -> ClassImages:
    """The images of a part, and their labels as positions in the classes."""
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    labels = _numbers(shards, classes, where)
    root = files[0].parent
    source = Encoded(root, files, len(labels), shards.items, itemgetter(1), itemgetter(0), options)
    images, changes = decoded(source, cache)
    notes = (*options.lines(name), *changes.lines(name, options.background))
    return ClassImages(images, labels, classes, shards.names, notes)


def _numbers(shards: Shards, classes: tuple[str, ...], where: str) -> NDArray[np.int64]:
    """The labels as positions in the classes.

    Raises:
        DataError: no images, or a label that is no class.
    """
    if not shards.labels:
        raise DataError("no images", where=where, fix="give shards that hold at least one")
    position = {name: k for k, name in enumerate(classes)}
    numbers = np.empty(len(shards.labels), np.int64)
    for row, label in enumerate(shards.labels):
        k = position.get(label, -1) if isinstance(label, str) else label
        if not 0 <= k < len(classes):
            raise DataError(
                f"the label of {shards.names[row]} is {label!r}, there are {len(classes)} classes"
                + (f" ({', '.join(classes[:5])}, …)" if isinstance(label, str) else ""),
                where=where, fix="label classes 0..K-1, or name all of them: data.args.classes",
            )  # fmt: skip
        numbers[row] = k
    return numbers


def _classes_of(labels: Sequence[int | str], where: str) -> tuple[str, ...]:
    """The classes of labels that nothing else is known of: the names in their order, or the numbers from 0."""
    names = sorted({label for label in labels if isinstance(label, str)})
    if names:
        return tuple(names)
    return mappings.numbered(np.asarray(labels, np.int64), where) if labels else ()


def _stated_classes(stated: object, root: Path) -> tuple[str, ...] | None:
    """`data.args.classes`: a list of names, or a text file with a name in each line."""
    if stated is None:
        return None
    if isinstance(stated, str):
        text = read_bounded(root / stated, MAX_TEXT, "a file of class names", DataError).decode("utf-8", "replace")
        stated = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(stated, list | tuple) or not stated or not all(isinstance(name, str) for name in stated):
        fix = 'give the names in their order, or a file: "classnames.txt"'
        raise DataError("is no list of names", where="data.args.classes", fix=fix)
    return tuple(str(name) for name in stated)


def _text(args: Mapping[str, Any], key: str) -> str:
    value = args.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{value!r} is no name", where=f"data.args.{key}", fix="give a text")
    return value


def _part(root: Path, name: str, args: Mapping[str, Any], suffixes: tuple[str, ...]) -> list[Path]:
    """The shards of a part, sorted by name: those that a pattern in `data.args` names, or those that carry its name.

    Raises:
        DataError: train or test has none, or the pattern fits nothing.
    """
    if not is_folder(root):
        raise DataError("no such folder", where=str(root), fix=f"give the folder of the shards (*{suffixes[0]})")
    pattern = _text(args, name)
    if pattern:
        found = _sorted(root, [pattern])
        if not found:
            raise DataError(f"no file fits {pattern!r}", where=f"data.args.{name}", fix=f"there are: {_have(root)}")
        return found
    for word in _NAMES[name]:
        shapes = [shape + end for end in suffixes for shape in _shapes(word)]
        if found := _sorted(root, shapes):
            return found
    if name == "validation":
        return []
    fix = f'name them, such as data.args = {{{name} = "val-*{suffixes[0]}"}}; there are: {_have(root)}'
    raise DataError(f"no shards of '{name}'", where=str(root), fix=fix)


def _shapes(word: str) -> tuple[str, ...]:
    return (word, f"{word}-*", f"{word}_*", f"{word}/*", f"data/{word}-*", f"data/{word}")


def _all(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if is_file(root):
        return [root]
    found = (
        _sorted(root, [f"{folder}*{end}" for end in suffixes for folder in ("", "data/")]) if is_folder(root) else []
    )
    if not found:
        raise DataError("no shards", where=str(root), fix=f"give a folder of shards (*{suffixes[0]})")
    return found


def _sorted(root: Path, patterns: Sequence[str]) -> list[Path]:
    try:
        return sorted({path for pattern in patterns for path in root.glob(pattern) if is_file(path)})
    except (ValueError, NotImplementedError) as error:
        raise DataError(
            f"{patterns[0]!r} is no pattern ({error})", where=str(root), fix='such as "val-*.tar"'
        ) from None


def _have(root: Path) -> str:
    return ", ".join(sorted(path.name for path in root.iterdir())[:12]) or "nothing"
