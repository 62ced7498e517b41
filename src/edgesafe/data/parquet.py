"""Parquet files of encoded images, as Hugging Face's `datasets` and others write them. Needs the extra `parquet`.

A column holds the content of image files (binary, or a struct with the field `bytes`), another the labels (whole
numbers or names). Files are read some rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgesafe.data import shards
from edgesafe.data.cache import Cache
from edgesafe.data.pictures import MOST_BYTES
from edgesafe.data.raw import RawData
from edgesafe.data.shards import Columns, Item, Shards
from edgesafe.errors import DataError, UsageError, hint
from edgesafe.recipe.sections import DataSection

__all__ = ["load"]

_ROWS = 32  # that are read together
_IMAGES, _LABELS = ("image", "img", "jpg", "png"), ("label", "labels", "fine_label", "cls")


def load(section: DataSection, cache: Cache) -> RawData:
    """The parts of a set of Parquet files.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: see `shards.load`; no such column, or one of another type.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(
            "pyarrow is not installed", where="data.name = 'parquet'", fix="pip install 'edgesafe[parquet]'"
        ) from None
    return shards.load(section, cache, (".parquet",), _read)


def _read(files: Sequence[Path], columns: Columns) -> Shards:
    labels: list[int | str] = []
    names: list[str] = []
    classes: tuple[str, ...] | None = None
    places: list[tuple[Path, str]] = []
    for path in files:
        file = _open(path)
        image = _column(file, path, columns.image, _IMAGES, "image")
        label = _column(file, path, columns.label, _LABELS, "label")
        _require_images(file.schema_arrow.field(image).type, path, image)
        own = _labels(file, path, label)
        labels += own
        names += [f"{path.name} row {row}" for row in range(len(own))]
        classes = classes or _class_names(file.schema_arrow.metadata, label)
        places.append((path, image))
    return Shards(labels, tuple(names), classes, partial(_items, places))


def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        rows, size = file.metadata.num_rows, path.stat().st_size
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if rows > size:  # rows that are all alike take no place: millions fit into some kB
        raise DataError(f"claims {rows:,} images in {size:,} bytes", where=str(path), fix="store each image once")
    return file


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"damaged, or no Parquet file ({' '.join(str(error).split())[:160]})", where=str(path), fix="make it anew"
    )


def _column(file: Any, path: Path, stated: str, usual: tuple[str, ...], key: str) -> str:
    """The name of a column: as stated, or the first usual one that is there.

    Raises:
        DataError: there is none.
    """
    have = list(file.schema_arrow.names)
    found = next((name for name in ((stated,) if stated else usual) if name in have), None)
    if found is None:
        what = f"no column '{stated}'" if stated else f"no column {' or '.join(usual)}"
        fix = f'there are {", ".join(have[:20])}: name one, data.args = {{{key} = "…"}}'
        fix = hint(stated, have, fix) if stated else fix
        raise DataError(what, where=str(path), fix=fix)
    return found


def _require_images(kind: Any, path: Path, column: str) -> None:
    """Refuse a column that does not hold the content of image files."""
    from pyarrow import types

    inner = (
        next((kind.field(k).type for k in range(kind.num_fields) if kind.field(k).name == "bytes"), None)
        if types.is_struct(kind)
        else kind
    )
    if inner is None or not (types.is_binary(inner) or types.is_large_binary(inner)):
        raise DataError(
            f"column '{column}' is {str(kind)[:80]}, not encoded images", where=str(path),
            fix="store the content of PNG or JPEG files (binary, or a struct with the field bytes)",
        )  # fmt: skip


def _labels(file: Any, path: Path, column: str) -> list[int | str]:
    import pyarrow

    try:
        values = file.read(columns=[column], use_threads=False).column(column).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | str):
            what = f"the label of row {row} is {value!r}"
            raise DataError(what, where=f"{path}, column '{column}'", fix="give a whole number or a name in each row")
    return values  # type: ignore[no-any-return]


def _class_names(metadata: Any, column: str) -> tuple[str, ...] | None:
    """The names of the classes, where Hugging Face's `datasets` left them in the file."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _items(places: Sequence[tuple[Path, str]]) -> Iterator[Item]:
    """The content of all images, some rows in memory at a time."""
    import pyarrow

    for path, column in places:
        row = 0
        try:
            for batch in _open(path).iter_batches(_ROWS, columns=[column], use_threads=False):
                for value in batch.column(0):
                    yield _content(value.as_py(), f"{path} row {row}")
                    row += 1
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, error) from None


def _content(value: Any, where: str) -> Item:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise DataError(
            "holds no image, only where one lay" if value else "holds no image",
            where=where,
            fix="store the content of the image files, not their paths",
        )
    if len(content) > MOST_BYTES:
        raise DataError(f"has {len(content):,} bytes", where=where, fix="make it smaller")
    return where, content
