"""Images that have to be decoded: by threads, into memory if they fit there, else once into a file of the cache.

The file is named by the content of the images and how they are decoded, so it is found again wherever the originals
lie, and never used for others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data.cache import Cache
from edgesafe.data.rows import FileImages
from edgesafe.errors import DataError, StoreError
from edgesafe.files import atomic_write, is_file, read_bounded, sha256_bytes, sha256_file, stage_key
from edgesafe.records import Images

__all__ = ["Decoder", "decoded"]

_AT_ONCE = 64  # images that are decoded before the next are begun
_GB = 1 << 30


@dataclass(frozen=True)
class Decoder:
    """Image files, and how one is decoded.

    Attributes:
        root: of the files.
        paths: of the images, in order.
        pixels: gives uint8 (H, W, 3) of a file and what was changed in it, as counts by name; called from threads.
        options: all that decoding depends on besides the file.
    """

    root: Path
    paths: Sequence[Path]
    pixels: Callable[[Path], tuple[NDArray[np.uint8], dict[str, int]]]
    options: str


def decoded(source: Decoder, cache: Cache) -> tuple[Images, dict[str, int]]:
    """All images, and what was changed in how many of them.

    Raises:
        DataError: an image cannot be decoded, has another size than the first, or all are more than the cache may hold.
        StoreError: the cache cannot be written.
    """
    first, _ = source.pixels(source.paths[0])
    shape = (len(source.paths), *first.shape)
    size = int(np.prod(shape, dtype=np.int64))
    if size <= cache.memory_bytes:
        images, counts = np.empty(shape, np.uint8), dict[str, int]()
        with cache.progress.stage(f"decoding {shape[0]:,} images of {source.root.name}/", shape[0]) as advance:
            for start, block, changed in _blocks(source, first.shape, cache.workers):
                images[start : start + len(block)] = block
                _add(counts, changed)
                advance(len(block))
        return images, counts
    return _stored(source, shape, size, cache)


def _stored(source: Decoder, shape: tuple[int, ...], size: int, cache: Cache) -> tuple[Images, dict[str, int]]:
    """The images in a file of the cache, which is made if it is not there."""
    key = _content(source, cache)
    folder = cache.directory / "pixels"
    file, note = folder / f"{key}.u8", folder / f"{key}.json"
    if not (is_file(file) and is_file(note) and file.stat().st_size == size):
        _require_room(size, folder, source, cache)
        cache.progress.note(f"data: {shape[0]:,} images of {source.root.name}/ take {size / _GB:.1f} GB in {folder}")
        counts = _write(source, file, shape, cache)
        atomic_write(note, json.dumps({"shape": list(shape), "changed": counts}).encode())
    try:
        changed = {
            str(name): int(n) for name, n in json.loads(read_bounded(note, 1 << 20, "a note"))["changed"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError("is damaged", where=str(note), fix="remove it; the images are then decoded anew") from None
    return cache.checked(FileImages(file, 0, shape, key)), changed


def _require_room(size: int, folder: Path, source: Decoder, cache: Cache) -> None:
    fix = "raise data.cache_gb, give fewer images, or smaller ones (data.args.resize)"
    _require(size, cache.disk_bytes, "the limit is", source, fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StoreError(f"cannot be made ({error.strerror})", where=str(folder), fix="give data.cache_dir") from error
    _require(size, free, "the disk has", source, "give another data.cache_dir")


def _require(size: int, limit: int, what: str, source: Decoder, fix: str) -> None:
    if size > limit:
        raise DataError(
            f"{len(source.paths):,} decoded images take {size / _GB:.2f} GB, {what} {limit / _GB:.2f} GB",
            where=str(source.root), fix=fix,
        )  # fmt: skip


def _write(source: Decoder, file: Path, shape: tuple[int, ...], cache: Cache) -> dict[str, int]:
    """Decode into a file that gets its name when it is whole; gives what was changed."""
    counts: dict[str, int] = {}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with (
            temporary.open("wb") as stream,
            cache.progress.stage(f"decoding {shape[0]:,} images of {source.root.name}/", shape[0]) as advance,
        ):
            for _, block, changed in _blocks(source, shape[1:], cache.workers):
                stream.write(block.data)
                _add(counts, changed)
                advance(len(block))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})", where=str(file), fix="free space, or give data.cache_dir"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _blocks(
    source: Decoder, shape: tuple[int, ...], workers: int
) -> Iterator[tuple[int, NDArray[np.uint8], dict[str, int]]]:
    """Position, pixels uint8 (n, H, W, 3) and changes of some images at a time, in order."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(source.paths), _AT_ONCE):
            paths, changed = source.paths[start : start + _AT_ONCE], dict[str, int]()
            block = np.empty((len(paths), *shape), np.uint8)
            for row, (path, (pixels, told)) in enumerate(zip(paths, pool.map(source.pixels, paths), strict=True)):
                if pixels.shape != shape:
                    fix = "give one size, for example data.args = {resize = 256, crop = 224}"
                    raise DataError(f"{pixels.shape[:2]} pixels, others {shape[:2]}", where=str(path), fix=fix)
                block[row] = pixels
                _add(changed, told)
            yield start, block, changed


def _content(source: Decoder, cache: Cache) -> str:
    """Identifies the decoded pixels by the content of the files; worked out once for files that nobody has changed."""
    stamps: list[Any] = []
    for path in source.paths:
        status = path.stat()
        stamps.append([str(path.relative_to(source.root)), status.st_size, status.st_mtime_ns])
    place = stage_key(root=str(source.root.resolve()), stamps=sha256_bytes(json.dumps(stamps).encode()))
    kept = cache.kept_text(f"{place}.json")
    if kept is None:
        with (
            cache.progress.stage(f"hashing {len(source.paths):,} files", len(source.paths)) as advance,
            ThreadPoolExecutor(cache.workers) as pool,
        ):
            hashes = []
            for path, named in zip(source.paths, pool.map(sha256_file, source.paths), strict=True):
                hashes.append(f"{path.relative_to(source.root)} {named}\n")
                advance(1)
        kept = sha256_bytes("".join(hashes).encode())
        cache.keep_text(f"{place}.json", kept)
    return stage_key(what="decoded/1", files=kept, options=source.options)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n
