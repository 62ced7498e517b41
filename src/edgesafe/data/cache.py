"""What is kept between runs of image sets that are too large for memory: hashes, and decoded pixels.

A set is hashed once. Its hashes are found again by what identifies its pixels, and each image that is read later is
compared with its own hash, so that evidence never names pixels that were not measured.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgesafe.data.files import memory_budget
from edgesafe.data.rows import DIGEST_BYTES, HashedImages, LazyImages, blocks, pixel_digest
from edgesafe.errors import DataError, StoreError
from edgesafe.files import (
    DAMAGE,
    atomic_write,
    cache_directory,
    is_file,
    read_bounded,
    sha256_bytes,
    sha256_file,
    stage_key,
)
from edgesafe.progress import Progress, Silent
from edgesafe.recipe.sections import DataSection

__all__ = ["Cache", "digests_of", "text_of"]

_GB = 1 << 30
_H = TypeVar("_H", bound=HashedImages)
_MOST_KEPT = 1 << 30  # bytes of a kept file of hashes: those of 64 million images


@dataclass(frozen=True)
class Cache:
    """Hashes and decoded pixels on disk; without it everything is worked out anew.

    Attributes:
        directory: made when something is kept.
        memory_bytes: a part of a data set that is larger is not held in memory.
        disk_bytes: decoded pixels of a part that would be larger are refused.
        workers: threads that decode.
        progress: told of long work.
    """

    directory: Path
    memory_bytes: int
    disk_bytes: int
    workers: int
    progress: Progress = field(default_factory=Silent)

    @classmethod
    def in_memory(cls) -> Cache:
        """One that keeps nothing: everything is held in memory, up to half of the machine's."""
        return cls(cache_directory(), memory_budget(), 0, len(os.sched_getaffinity(0)))

    @classmethod
    def of(cls, section: DataSection, progress: Progress | None = None) -> Cache:
        """As a recipe's [data] says."""
        limit = {"memory": memory_budget(), "disk": 0, "auto": int(section.memory_gb * _GB)}[section.store]
        return cls(
            directory=cache_directory() if section.cache_dir is None else Path(section.cache_dir).expanduser(),
            memory_bytes=limit,
            disk_bytes=int(section.cache_gb * _GB),
            workers=section.workers or len(os.sched_getaffinity(0)),
            progress=progress or Silent(),
        )

    def sha256(self, images: LazyImages, head: bytes, tail: bytes) -> str:
        """SHA-256 over a head, the pixels and a tail, worked out once for the same three.

        Args:
            images: uint8 (n, H, W, C).
            head: what stands before the pixels: the shape.
            tail: what stands behind them: the labels.
        """
        key = stage_key(what="set", pixels=images.key, head=head.decode(), tail=sha256_bytes(tail))
        kept = self.kept_text(f"{key}.json")
        if kept is not None:
            return kept
        digest = hashlib.sha256(head)
        with self.progress.stage(f"hashing {len(images):,} images", len(images)) as advance:
            for rows in blocks(images):
                digest.update(images[rows].data)
                advance(rows.stop - rows.start)
        digest.update(tail)
        named = f"sha256:{digest.hexdigest()}"
        self.keep_text(f"{key}.json", named)
        return named

    def checked(self, images: _H) -> _H:
        """The same images, each compared with its hash whenever it is read; the hashes are worked out once."""
        name = None if images.stamp is None else f"{stage_key(what='images', pixels=images.stamp)}.npy"
        kept = None if name is None else self._kept(name)
        known = None if kept is None else digests_of(kept, len(images))
        if known is None:
            known = np.empty((len(images), DIGEST_BYTES), np.uint8)
            with self.progress.stage(
                f"hashing {len(images):,} images of {Path(images.place).name}", len(images)
            ) as advance:
                for rows in blocks(images):
                    hashes = b"".join(pixel_digest(image) for image in images[rows])
                    known[rows] = np.frombuffer(hashes, np.uint8).reshape(-1, DIGEST_BYTES)
                    advance(rows.stop - rows.start)
            if name is not None:
                buffer = io.BytesIO()
                np.save(buffer, known)
                self._keep(name, buffer.getvalue())
        return images.with_digests(known)

    def content_of(self, root: Path, files: Sequence[Path]) -> str:
        """One hash over the names and the content of files below a root; worked out once while nobody changes them."""
        stamps: list[Any] = []
        for path in files:
            status = path.stat()
            stamps.append([str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
        place = stage_key(root=str(root.resolve()), stamps=sha256_bytes(json.dumps(stamps).encode()))
        kept = self.kept_text(f"{place}.json")
        if kept is not None:
            return kept
        with (
            self.progress.stage(f"hashing {len(files):,} files", len(files)) as advance,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            lines = []
            for path, named in zip(files, pool.map(sha256_file, files), strict=True):
                lines.append(f"{path.relative_to(root)} {named}\n")
                advance(1)
        kept = sha256_bytes("".join(lines).encode())
        self.keep_text(f"{place}.json", kept)
        return kept

    def kept_text(self, name: str) -> str | None:
        """A hash that was kept under a name; None: none was.

        Raises:
            DataError: the file is damaged.
        """
        kept = self._kept(name)
        return None if kept is None else text_of(kept, self.directory / "hashes" / name)

    def keep_text(self, name: str, named: str) -> None:
        """Keep a hash under a name."""
        self._keep(name, json.dumps({"sha256": named}).encode())

    def _kept(self, name: str) -> bytes | None:
        file = self.directory / "hashes" / name
        return read_bounded(file, _MOST_KEPT, "kept hashes", DataError) if is_file(file) else None

    def _keep(self, name: str, content: bytes) -> None:
        """Keep a file; a directory that cannot be written costs the next run its time, not this one its result."""
        folder = self.directory / "hashes"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / name, content)
        except (OSError, StoreError) as error:
            self.progress.note(f"data: hashes cannot be kept in {folder} ({' '.join(str(error).split())})")


def text_of(kept: bytes, file: Path) -> str:
    """The hash that a kept file names.

    Raises:
        DataError: it is damaged.
    """
    try:
        named = json.loads(kept)["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        named = None
    if not isinstance(named, str) or not named.startswith("sha256:"):
        raise DataError("is damaged", where=str(file), fix="remove it; the set is then hashed anew")
    return named


def digests_of(kept: bytes, n: int) -> NDArray[np.uint8] | None:
    """Hashes as they were kept; None: they are damaged, and are worked out anew."""
    try:
        known = np.load(io.BytesIO(kept), allow_pickle=False)
    except DAMAGE:
        return None
    return (
        known
        if isinstance(known, np.ndarray) and known.dtype == np.uint8 and known.shape == (n, DIGEST_BYTES)
        else None
    )
