"""Tar shards as WebDataset has them: members of one name up to its first dot are a sample (000123.jpg, 000123.cls).

The label is a whole number or a name in `.cls` (or what data.args.label says), or a value of the sample's `.json`
(label = "json:KEY"). Read with Python's own tarfile: a set is gone through once, in order, and then decoded; nothing is
written where a member's name says.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgesafe.data import shards
from edgesafe.data.cache import Cache
from edgesafe.data.pictures import MOST_BYTES, SUFFIXES
from edgesafe.data.raw import RawData
from edgesafe.data.shards import Columns, Item, Shards
from edgesafe.errors import DataError
from edgesafe.files import DAMAGE
from edgesafe.recipe.sections import DataSection

__all__ = ["load"]

_MOST_LABEL = 1 << 20  # bytes of a label or of a .json
_END = 1024  # bytes of zeros that end an archive
_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, tarfile.TarError)


def load(section: DataSection, cache: Cache) -> RawData:
    """The parts of a set of tar shards.

    Raises:
        DataError: see `shards.load`; a sample without an image or a label.
    """
    return shards.load(section, cache, (".tar", ".tar.gz", ".tgz"), _read)


def _read(files: Sequence[Path], columns: Columns) -> Shards:
    """Labels and names of all samples; `columns.image` is an ending ("jpg"), `columns.label` one, or "json:KEY"."""
    ending, _, key = (columns.label or "cls").partition(":")
    labels: list[int | str] = []
    names: list[str] = []
    for path in files:
        pictures: dict[str, str] = {}
        found: dict[str, int | str] = {}
        for archive, member in _members(path):
            sample, end = _split(member.name)
            if _is_image(end, columns.image):
                if sample in pictures:
                    raise DataError(f"two images of one sample: {member.name}", where=str(path), fix="say which: image")
                pictures[sample] = member.name
            elif end == ending:
                found[sample] = _label(_content(archive, member, path, _MOST_LABEL), key, f"{path}: {member.name}")
        if alone := next((sample for sample in pictures if sample not in found), None):
            fix = 'give each sample a .cls, or say where labels are: data.args = {label = "json:label"}'
            raise DataError(f"{pictures[alone]} has no .{ending}", where=str(path), fix=fix)
        if not pictures:
            raise DataError("no images", where=str(path), fix="give samples such as 000123.jpg and 000123.cls")
        labels += [found[sample] for sample in pictures]
        names += pictures.values()
    return Shards(labels, tuple(names), None, partial(_items, tuple(files), columns.image))


def _split(name: str) -> tuple[str, str]:
    """A member's name at the first dot of its last part: sample and ending."""
    folder, slash, last = name.rpartition("/")
    stem, _, end = last.partition(".")
    return folder + slash + stem, end.lower()


def _is_image(end: str, stated: str) -> bool:
    return end == stated.lower().lstrip(".") if stated else f".{end}" in SUFFIXES


def _items(files: Sequence[Path], image: str) -> Iterator[Item]:
    for path in files:
        for archive, member in _members(path):
            if _is_image(_split(member.name)[1], image):
                yield f"{path}: {member.name}", _content(archive, member, path, MOST_BYTES)


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files of an archive, in order.

    Raises:
        DataError: it is damaged, or ends before its end.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                    yield archive, member
                archive.members.clear()  # type: ignore[attr-defined]  # which would grow with the archive
            whole = path.suffix != ".tar" or _ends(path)
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if not whole:
        raise _damaged(path, "it ends before its end")


def _ends(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-min(_END, path.stat().st_size), 2)
        return not any(handle.read())


def _damaged(path: Path, why: object) -> DataError:
    return DataError(
        f"damaged, or no tar archive ({' '.join(str(why).split())[:160]})", where=str(path), fix="make it anew"
    )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, limit: int) -> bytes:
    if member.size > limit:
        raise DataError(f"has {member.size:,} bytes", where=f"{path}: {member.name}", fix="make it smaller")
    try:
        stream = archive.extractfile(member)
        content = stream.read() if stream is not None else b""
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if len(content) != member.size:
        raise _damaged(path, "it ends before its end")
    return content


def _label(content: bytes, key: str, where: str) -> int | str:
    """A label as it is stored: a whole number, or a name."""
    fix = "store a whole number or a name"
    try:
        value: Any = content.decode("utf-8").strip()
        if key:
            value = json.loads(value)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        what = f"no '{key}' in it" if key else "not text"
        raise DataError(what, where=where, fix=fix) from None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"the label is {str(value)[:60]!r}", where=where, fix=fix)
    text = str(value)
    return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 12 else text
