"""`edgesafe corrupt`: a corrupted test set as files, in CIFAR-10-C's layout.

    DIR/<corruption>.npy   uint8 (S * N, H, W, C), severity after severity
    DIR/labels.npy         (S * N,)
    DIR/manifest.json      generator, seed, profile, frost, severities, hashes of the data and of each file

A run that was interrupted goes on where it stopped: finished files are recognised by their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.engine import corrupt
from edgesafe.corruptions.files import npy_header, write_atomically
from edgesafe.corruptions.source import GENERATOR, frost_bank, pixel_sha256
from edgesafe.corruptions.spec import FieldSpec, check_images
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError, NothingEvaluated, StoreError

__all__ = ["MANIFEST_SCHEMA", "Progress", "write_directory"]

MANIFEST_SCHEMA = "edgesafe.corruptions.manifest/1"

Progress = Callable[[str, int, int], None]
"""Called with (corruption, images done of it, images in it)."""

_PIECE = 1024  #: images made at once


def write_directory(  # noqa: PLR0913
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    out_dir: Path,
    *,
    corruptions: Sequence[str] = tables.NAMES,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    seed: int = 0,
    profile: Profile | str | None = None,
    frost_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a corrupted test set; go on with one that was interrupted.

    Args:
        images: uint8 (n, H, W, C), clean.
        labels: whole numbers (n,).
        out_dir: made if it is missing. A directory that was written with other settings is refused.
        corruptions: names, in any order.
        severities: ascending.
        seed: of the random fields.
        profile: parameter table; None: by image size.
        frost_dir: as in `open_source`.
        progress: told after each piece.

    Returns:
        The manifest's path.

    Raises:
        DataError: images, labels, names, severities or seed are wrong.
        NothingEvaluated: there is nothing to write.
        StoreError: the directory holds something else, or cannot be written.
    """
    shape = check_images(images)
    names, levels = tuple(dict.fromkeys(corruptions)), tuple(severities)
    if not len(images) or not names or not levels:
        raise NothingEvaluated("no image, corruption or severity to write", where=str(out_dir), fix="give at least one")
    for name in names:
        tables.check_name(name)
    for level in levels:
        tables.check_severity(level)
    if list(levels) != sorted(set(levels)):
        raise DataError(f"severities {levels} are not ascending", where="severities", fix="give each once, in order")
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(f"labels are {labels.dtype} {labels.shape} for {len(images)} images", where="labels")
    chosen = Profile(str(FieldSpec(shape, seed, profile).profile))
    spec = FieldSpec(shape, seed, chosen, frost_bank(frost_dir, chosen, shape[0], shape[1]))
    manifest = _Manifest(out_dir, _settings(images, spec, levels), names)
    manifest.open()
    total = len(images) * len(levels)
    for name in names:
        file = out_dir / f"{name}.npy"
        if not manifest.holds(name, file):
            pieces = _pieces(images, name, levels, spec, progress)
            manifest.add(name, write_atomically(file, npy_header((total, *shape), np.uint8), pieces))
        elif progress is not None:
            progress(name, total, total)
    repeated = np.tile(labels.astype(np.uint8 if labels.min() >= 0 and labels.max() < 256 else np.int64), len(levels))
    manifest.labels = write_atomically(
        out_dir / "labels.npy", npy_header(repeated.shape, repeated.dtype), (repeated.tobytes(),)
    )
    return manifest.close()


def _settings(images: NDArray[np.uint8], spec: FieldSpec, levels: tuple[int, ...]) -> dict[str, Any]:
    return {
        "schema": MANIFEST_SCHEMA,
        "generator": GENERATOR,
        "seed": spec.seed,
        "profile": str(spec.profile),
        "frost": spec.textures.kind,
        "frost_sha256": spec.textures.sha256,
        "severities": [int(level) for level in levels],
        "images": len(images),
        "shape": list(spec.shape),
        "data_sha256": pixel_sha256(images),
    }


def _pieces(
    images: NDArray[np.uint8], name: str, levels: tuple[int, ...], spec: FieldSpec, progress: Progress | None
) -> Iterator[bytes]:
    """All images of one corruption, severity after severity, piece by piece."""
    done, total, frost = 0, len(images) * len(levels), spec.textures
    indices = np.arange(len(images), dtype=np.int64)
    for level in levels:
        for start in range(0, len(images), _PIECE):
            part = slice(start, start + _PIECE)
            piece = corrupt(images[part], indices[part], name, level, seed=spec.seed, profile=spec.profile, frost=frost)
            yield piece.tobytes()
            done += len(piece)
            if progress is not None:
                progress(name, done, total)


class _Manifest:
    """manifest.json: what the directory holds, updated after each file."""

    def __init__(self, directory: Path, settings: dict[str, Any], names: tuple[str, ...]) -> None:
        self._directory, self._settings, self._names = directory, settings, names
        self._file = directory / "manifest.json"
        self._hashes: dict[str, str] = {}
        self.labels = ""

    def open(self) -> None:
        """Make the directory, or take over what an earlier run with the same settings has left."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            present = sorted(p.name for p in self._directory.glob("*.npy"))
        except OSError as error:
            raise StoreError(
                f"cannot be made ({error.strerror})", where=str(self._directory), fix="choose another directory"
            ) from error
        if not self._file.is_file():
            if present:
                raise StoreError(
                    f"holds {present[0]} of unknown origin", where=str(self._directory), fix="choose an empty directory"
                )
            return
        try:
            old = json.loads(self._file.read_text("utf-8"))
            self._hashes = {str(k): str(v) for k, v in old.get("files", {}).items()}
        except (ValueError, AttributeError, OSError) as error:
            raise StoreError(
                "not a readable manifest", where=str(self._file), fix="choose an empty directory"
            ) from error
        for key, value in self._settings.items():
            if old.get(key) != value:
                raise StoreError(
                    f"was written with {key} = {old.get(key)!r}, not {value!r}",
                    where=str(self._directory),
                    fix="choose an empty directory",
                )

    def holds(self, name: str, file: Path) -> bool:
        """Whether that file is there and intact."""
        if name not in self._hashes or not file.is_file():
            return False
        with file.open("rb") as stream:
            return self._hashes[name] == f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"

    def add(self, name: str, digest: str) -> None:
        """Note a finished file."""
        self._hashes[name] = f"sha256:{digest}"
        self._write(complete=False)

    def close(self) -> Path:
        """Mark the directory complete."""
        self._write(complete=True)
        return self._file

    def _write(self, *, complete: bool) -> None:
        order = [name for name in tables.ALL if name in self._hashes]
        content = {**self._settings, "files": {name: self._hashes[name] for name in order}, "complete": complete}
        if self.labels:
            content["labels"] = f"sha256:{self.labels}"
        write_atomically(self._file, (json.dumps(content, indent=1) + "\n").encode(), ())
