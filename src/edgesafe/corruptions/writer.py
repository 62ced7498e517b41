"""`edgesafe corrupt`: a corrupted test set as files, in CIFAR-10-C's layout.

    DIR/<corruption>.npy   uint8 (S * N, H, W, C), severity after severity
    DIR/labels.npy         (S * N,)
    DIR/manifest.json      generator, seed, profile, frost, severities, hashes of the data and of each file

A run that was interrupted goes on where it stopped: finished files are recognised by their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.engine import corrupt
from edgesafe.corruptions.files import npy_header, write_atomically
from edgesafe.corruptions.manifest import Manifest
from edgesafe.corruptions.source import frost_bank, pixel_sha256
from edgesafe.corruptions.spec import FieldSpec, check_images
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError, NothingEvaluated, StoreError
from edgesafe.records import Images

__all__ = ["Progress", "write_directory"]

Progress = Callable[[str, int, int], None]
"""Called with (corruption, images done of it, images in it)."""

_PIECE = 1024  #: images made at once


def write_directory(  # noqa: PLR0913
    images: Images,
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
    manifest = _take_over(out_dir, _new_manifest(images, spec, levels))
    total = len(images) * len(levels)
    for name in names:
        file = out_dir / f"{name}.npy"
        if not _intact(file, manifest.files.get(name)):
            pieces = _pieces(images, name, levels, spec, progress)
            digest = write_atomically(file, npy_header((total, *shape), np.uint8), pieces)
            files = {**manifest.files, name: f"sha256:{digest}"}
            manifest = replace(manifest, files=files, complete=False)
            manifest.write(out_dir)
        elif progress is not None:
            progress(name, total, total)
    small = labels.min() >= 0 and labels.max() < 256
    repeated = np.tile(labels.astype(np.uint8 if small else np.int64), len(levels))
    head = npy_header(repeated.shape, repeated.dtype)
    digest = write_atomically(out_dir / "labels.npy", head, (repeated.tobytes(),))
    return replace(manifest, labels=f"sha256:{digest}", complete=True).write(out_dir)


def _new_manifest(images: Images, spec: FieldSpec, levels: tuple[int, ...]) -> Manifest:
    return Manifest(
        seed=spec.seed,
        profile=str(spec.profile),
        frost=spec.textures.kind,
        frost_sha256=spec.textures.sha256,
        severities=tuple(int(level) for level in levels),
        images=len(images),
        shape=spec.shape,
        data_sha256=pixel_sha256(images),
    )


def _take_over(directory: Path, wanted: Manifest) -> Manifest:
    """Make the directory, or take over what an earlier run with the same settings has left."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = sorted(p.name for p in directory.glob("[!.]*"))
        for half in directory.glob(".*.npy.*.part"):  # left by a run that was killed
            half.unlink()
    except OSError as error:
        raise StoreError(
            f"cannot be made ({error.strerror})", where=str(directory), fix="choose another directory"
        ) from error
    old = Manifest.read(directory)
    if old is None:
        if present:
            problem = f"holds {present[0]}, which is no part of a corrupted test set"
            raise StoreError(problem, where=str(directory), fix="choose an empty directory")
        wanted.write(directory)
        return wanted
    before, now = old.settings(), wanted.settings()
    for key in before:
        if before[key] != now[key]:
            raise StoreError(
                f"was written with {key} = {before[key]!r}, not {now[key]!r}",
                where=str(directory),
                fix="choose an empty directory",
            )
    return old


def _intact(file: Path, digest: str | None) -> bool:
    """Whether that file is there and has that hash."""
    if digest is None or not file.is_file():
        return False
    with file.open("rb") as stream:
        return digest == f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _pieces(
    images: Images, name: str, levels: tuple[int, ...], spec: FieldSpec, progress: Progress | None
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
