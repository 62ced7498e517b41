"""Images that have to be decoded: by threads, into memory if they fit there, else once into a file of the cache.

The file is named by the content of the images and how they are decoded, so it is found again wherever the originals
lie, and never used for others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import kept
from edgesafe.data.cache import Cache
from edgesafe.data.pictures import Changes, PictureOptions, pixels_of
from edgesafe.errors import DataError
from edgesafe.files import atomic_write, is_file, read_bounded, stage_key
from edgesafe.records import Images

__all__ = ["Encoded", "decoded"]

_AT_ONCE = 64  # images that are decoded before the next are begun


@dataclass(frozen=True)
class Encoded:
    """Images that are still to be decoded, in their order.

    Attributes:
        root: what the files lie in.
        files: that all images come from, in order: one for each, or shards of many.
        count: of the images.
        items: gives them anew, in order, as `content` takes them; called and gone through by one thread.
        content: gives the image file of an item; called from threads.
        place: names an item in messages.
        options: how they are decoded.
    """

    root: Path
    files: Sequence[Path]
    count: int
    items: Callable[[], Iterator[Any]]
    content: Callable[[Any], bytes]
    place: Callable[[Any], str]
    options: PictureOptions

    def pixels(self, item: Any) -> tuple[NDArray[np.uint8], dict[str, int]]:
        """An item's image, uint8 (H, W, 3), and what was changed in it, as counts by name."""
        image, changes = pixels_of(self.content(item), self.place(item), self.options)
        return image, changes.counts


def decoded(source: Encoded, cache: Cache) -> tuple[Images, Changes]:
    """All images, and in how many of them something was changed.

    Raises:
        DataError: an image cannot be decoded, has another size than the first, or all are more than the cache may hold.
        StoreError: the cache cannot be written.
    """
    first, _ = source.pixels(next(source.items()))
    shape = (source.count, *first.shape)
    if int(np.prod(shape, dtype=np.int64)) <= cache.memory_bytes:
        held, counts = np.empty(shape, np.uint8), dict[str, int]()
        with cache.progress.stage(f"decoding {shape[0]:,} images of {source.root.name}/", shape[0]) as advance:
            for start, block, changed in _blocks(source, first.shape, cache.workers):
                held[start : start + len(block)] = block
                _add(counts, changed)
                advance(len(block))
        return held, Changes(**counts)
    images, counts = _stored(source, shape, cache)
    return images, Changes(**counts)


def _stored(source: Encoded, shape: tuple[int, ...], cache: Cache) -> tuple[Images, dict[str, int]]:
    """The images in a file of the cache, which is made if it is not there, and what was changed in how many."""
    key = _content(source, cache)
    wanted = kept.Pixels(key, shape, source.root, f"decoding {shape[0]:,} images of {source.root.name}/")
    note, counts = kept.place(cache, key).with_suffix(".json"), dict[str, int]()

    def decode() -> Iterator[NDArray[np.uint8]]:
        for _, block, changed in _blocks(source, shape[1:], cache.workers):
            _add(counts, changed)
            yield block
        atomic_write(note, json.dumps({"shape": list(shape), "changed": counts}).encode())

    if not is_file(note):
        kept.place(cache, key).unlink(missing_ok=True)
    images = kept.stored(wanted, cache, decode)
    try:
        changed = {
            str(name): int(n) for name, n in json.loads(read_bounded(note, 1 << 20, "a note"))["changed"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError("is damaged", where=str(note), fix="remove it; the images are then decoded anew") from None
    return images, changed


def _blocks(
    source: Encoded, shape: tuple[int, ...], workers: int
) -> Iterator[tuple[int, NDArray[np.uint8], dict[str, int]]]:
    """Position, pixels uint8 (n, H, W, 3) and changes of some images at a time, in order."""
    items, start = source.items(), 0
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(items, _AT_ONCE)):
            changed = dict[str, int]()
            block = np.empty((len(some), *shape), np.uint8)
            for row, (item, (pixels, told)) in enumerate(zip(some, pool.map(source.pixels, some), strict=True)):
                if pixels.shape != shape:
                    fix = "give one size, for example data.args = {resize = 256, crop = 224}"
                    what = f"{pixels.shape[:2]} pixels, others {shape[:2]}"
                    raise DataError(what, where=source.place(item), fix=fix)
                block[row] = pixels
                _add(changed, told)
            yield start, block, changed
            start += len(some)
    if start != source.count:
        what = f"gave {start:,} images, {source.count:,} were counted"
        raise DataError(what, where=str(source.root), fix="do not change it while it is read")


def _content(source: Encoded, cache: Cache) -> str:
    """Identifies the decoded pixels by the content of the files; worked out once for files that nobody has changed."""
    return stage_key(what="decoded/1", files=cache.content_of(source.root, source.files), options=source.options.key)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n
