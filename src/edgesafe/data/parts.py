"""The parts of an image set: read each by itself, or split off one whole by shares or by a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import arrays
from edgesafe.data.raw import ClassImages, RawData
from edgesafe.data.rows import part
from edgesafe.errors import DataError, hint
from edgesafe.files import read_bounded
from edgesafe.records import Task

__all__ = ["divided", "joined"]

_PARTS = ("train", "validation", "test")
_MOST_TABLE = 256 << 20  # bytes of a split.csv


def joined(parts: Mapping[str, ClassImages], notes: tuple[str, ...] = ()) -> RawData:
    """A set of parts that were read by themselves: train, test, and validation if there is one.

    Args:
        parts: by name; of the same classes.
        notes: said before those of the parts.
    """
    validation = parts.get("validation")
    return RawData(
        train=(parts["train"].images, parts["train"].labels),
        test=(parts["test"].images, parts["test"].labels),
        task=Task.classes(parts["train"].classes),
        validation=None if validation is None else (validation.images, validation.labels),
        hold_out=max(1, len(parts["train"].labels) // 10),
        notes=(*notes, *(line for piece in parts.values() for line in piece.notes)),
    )


def divided(whole: ClassImages, split: object, root: Path, what: str) -> RawData:
    """One set of images in two or three parts.

    Args:
        whole: all images.
        split: the shares of train, validation and test, or the name of a table in `root`.
        root: where the set lies.
        what: the kind of set, for the note: "folder".

    Raises:
        DataError: the split cannot be used, or leaves a part without images.
    """
    n = len(whole.labels)
    rows = _by_table(root / split, whole.names) if isinstance(split, str) else _by_shares(split, n)
    for name in ("train", "test"):
        if not len(rows[name]):
            raise DataError(f"no image is in {name}", where="data.args.split", fix="give each part some")
    parts = {name: (part(whole.images, index), whole.labels[index]) for name, index in rows.items()}
    said = ", ".join(f"{len(index):,} {name}" for name, index in rows.items())
    out = n - sum(map(len, rows.values()))
    how = f"by {split}" if isinstance(split, str) else "by shares, at random with a fixed seed"
    left = f"; {out:,} images that it does not name are left out" if out else ""
    return RawData(
        train=parts["train"],
        test=parts["test"],
        task=Task.classes(whole.classes),
        validation=parts["validation"] if len(rows["validation"]) else None,
        hold_out=max(1, len(rows["train"]) // 10),
        notes=(f"one {what} split {how}: {said}{left}", *whole.notes),
    )


def _by_shares(split: object, n: int) -> dict[str, NDArray[np.int64]]:
    """Rows of train, validation and test, by a permutation that depends on nothing but n."""
    shares = split if isinstance(split, list | tuple) else ()
    if len(shares) != 3 or not all(isinstance(v, int | float) and 0 <= v < 1 for v in shares):
        fix = 'give the shares of train, validation and test, such as [0.8, 0.1, 0.1], or a file "split.csv"'
        raise DataError(f"{split!r} is no split", where="data.args.split", fix=fix)
    if abs(sum(shares) - 1.0) > 1e-6:
        raise DataError(f"the shares sum to {sum(shares):g}, not 1", where="data.args.split", fix="mend them")
    sizes = [round(n * share) for share in shares[1:]]
    return dict(zip(_PARTS, arrays.split(n, sizes, where="data.args.split"), strict=True))


def _by_table(file: Path, paths: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """Rows by a CSV file with the columns path (relative to the root) and part."""
    text = read_bounded(file, _MOST_TABLE, "a table of parts", DataError).decode("utf-8-sig", "replace")
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        lines = list(table)
    except csv.Error as error:
        raise DataError(f"not CSV ({error})", where=f"{file}, line {table.line_num}", fix="mend that line") from None
    if not {"path", "part"} <= set(table.fieldnames or ()):
        raise DataError("has no columns path and part", where=str(file), fix="begin it with the line: path,part")
    known, chosen = {path: row for row, path in enumerate(paths)}, dict[int, str]()
    for line, entry in enumerate(lines, 2):
        row, name = known.get(_plain(entry)), entry["part"] or ""
        where = f"{file}, line {line}"
        if row is None:
            raise DataError(f"there is no image {entry['path']!r}", where=where, fix="give paths from the root")
        if name not in _PARTS:
            raise DataError(f"{name!r} is no part", where=where, fix=hint(name, _PARTS))
        if row in chosen:
            raise DataError(f"{entry['path']!r} stands twice", where=where, fix="name each image once")
        chosen[row] = name
    return {name: np.array(sorted(r for r, p in chosen.items() if p == name), np.int64) for name in _PARTS}


def _plain(entry: Mapping[str, Any]) -> str:
    return str(entry["path"]).removeprefix("./").replace("\\", "/")
