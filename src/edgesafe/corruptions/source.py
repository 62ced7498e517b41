"""Where corrupted test images come from: made on the fly, or read from a CIFAR-10-C directory.

Either way a cell (corruption, severity) is asked for by test-set positions, a batch at a time, and never held whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.cache import CellCache
from edgesafe.corruptions.engine import corrupt
from edgesafe.corruptions.frost import FrostBank, installed_photographs
from edgesafe.corruptions.manifest import GENERATOR, Manifest
from edgesafe.corruptions.spec import FieldSpec, check_images, check_indices
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError, NothingEvaluated, hint
from edgesafe.files import DAMAGE
from edgesafe.records import CorruptionIdentity, DirectoryCorruptions, GeneratedCorruptions, Images

__all__ = [
    "CorruptionSource",
    "DirectorySource",
    "GeneratedSource",
    "frost_bank",
    "open_source",
    "pixel_sha256",
]


class CorruptionSource(Protocol):
    """Anything that gives corrupted test images.

    Attributes:
        identity: what the pixels depend on, for records and reports.
        names: the corruptions it has.
    """

    @property
    def identity(self) -> CorruptionIdentity: ...  # noqa: D102

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    def cell(self, corruption: str, severity: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The corrupted images at some test-set positions: uint8 (n, H, W, C)."""
        ...


def pixel_sha256(images: Images) -> str:
    """Hash of shape and pixels; identifies a test set where the caller has no hash of its own."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    return f"sha256:{digest.hexdigest()}"


def frost_bank(frost_dir: str | Path | None, profile: Profile, height: int, width: int) -> FrostBank:
    """The textures for frost.

    Args:
        frost_dir: None: procedural. "imagecorruptions": the photographs of that installed package. Else a directory.
        profile: decides how much photographs are reduced.
        height: of the images to corrupt.
        width: of the images to corrupt.

    Raises:
        DataError: the directory or the package has no usable photographs.
    """
    if frost_dir is None:
        return FrostBank.procedural(profile, height, width)
    directory = Path(frost_dir)
    if str(frost_dir) == "imagecorruptions" and not directory.is_dir():
        installed = installed_photographs()
        if installed is None:
            raise DataError(
                "the package imagecorruptions is not installed, or has no photographs",
                where="frost_dir",
                fix="pip install imagecorruptions, or give a directory, or leave it out for procedural frost",
            )
        directory = installed
    return FrostBank.from_directory(directory, profile, height, width)


class GeneratedSource:
    """Corruptions made on the fly.

    Args:
        images: uint8 (n, H, W, C), the clean test set.
        names: which corruptions.
        spec: seed, profile, frost textures.
        data_sha256: hash of the test set; enters the identity and the cache's key.
        cache: where to keep finished cells, or None.
    """

    def __init__(
        self,
        images: Images,
        names: tuple[str, ...],
        spec: FieldSpec,
        data_sha256: str,
        cache_dir: str | Path | None = None,
    ) -> None:
        self._images, self._names, self._spec = images, names, spec
        textures = spec.textures
        self._identity = GeneratedCorruptions(
            generator=GENERATOR,
            profile=str(spec.profile),
            seed=spec.seed,
            frost=textures.kind,
            frost_sha256=textures.sha256,
            data_sha256=data_sha256,
            not_meaningful=tuple(tables.not_meaningful(spec.shape[0], spec.shape[1])),
        )
        self._cache = CellCache(Path(cache_dir), self._identity, images.shape) if cache_dir is not None else None

    @property
    def identity(self) -> GeneratedCorruptions:
        """What the pixels depend on: generator, profile, seed, kind and hash of the frost, hash of the clean images."""
        return self._identity

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the corruptions that `cell` makes, in the order in which they were asked for."""
        return self._names

    def cell(self, corruption: str, severity: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Corrupt the test images at `indices`, int64 (n,), anew or from the cache; uint8 (n, H, W, C).

        Raises:
            DataError: a corruption that was not asked for, a bad severity, an index beyond the test set.
        """
        tables.check_severity(severity)
        if corruption not in self._names:
            raise DataError(f"{corruption!r} is not in this source", fix=hint(corruption, self._names))
        wanted = _within(indices, len(self._images))
        if self._cache is None:
            return self._make(corruption, severity, wanted)
        everything = np.arange(len(self._images), dtype=np.int64)
        cell = self._cache.cell(corruption, severity, lambda part: self._make(corruption, severity, everything[part]))
        return np.ascontiguousarray(cell[wanted])

    def _make(self, corruption: str, severity: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        s = self._spec
        frost = s.textures if corruption == "frost" else None
        return corrupt(
            self._images[indices], indices, corruption, severity, seed=s.seed, profile=s.profile, frost=frost
        )


class DirectorySource:
    """A directory in CIFAR-10-C's layout, memory-mapped.

    `<corruption>.npy` is uint8 (S * N, H, W, C), severity after severity; `labels.npy` is (S * N,) or (N,). S = 5
    unless a manifest of `write_directory` says otherwise. The directory's first n images must be the clean test set's,
    which is checked by their labels in every block, and by the manifest's hash of the clean pixels if there is one.

    Args:
        directory: the directory.
        images: uint8 (n, H, W, C), the clean test set.
        labels: int64 (n,).

    Raises:
        DataError: something is missing, misshapen, damaged, or belongs to another test set.
    """

    def __init__(self, directory: Path, images: Images, labels: NDArray[np.int64]) -> None:
        if not directory.is_dir():
            raise DataError("no such directory", where=str(directory), fix="give a CIFAR-10-C directory")
        manifest = Manifest.read(directory)
        if manifest is not None:
            _check_manifest(manifest, directory, images)
        self._severities = manifest.severities if manifest is not None else (1, 2, 3, 4, 5)
        self._names = tuple(manifest.files) if manifest is not None else tables.NAMES
        missing = [name for name in self._names if not (directory / f"{name}.npy").is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._names)} files are missing: {', '.join(f'{m}.npy' for m in missing)}",
                where=str(directory),
                fix="complete the directory; a mean over fewer corruptions is not mPC",
            )
        blocks = len(self._severities)
        self._cells = {name: _map(directory / f"{name}.npy") for name in self._names}
        for name, cells in self._cells.items():
            file = str(directory / f"{name}.npy")
            if cells.dtype != np.uint8 or cells.shape[1:] != tuple(images.shape[1:]) or len(cells) % blocks:
                expected = f"uint8 ({blocks} N, {', '.join(map(str, images.shape[1:]))})"
                raise DataError(f"holds {cells.dtype} {cells.shape}, not {expected}", where=file)
            if len(cells) // blocks < len(images):
                raise DataError(f"has {len(cells) // blocks} images a severity, the test set {len(images)}", where=file)
        self._rows = {name: len(cells) // blocks for name, cells in self._cells.items()}
        if len(set(self._rows.values())) > 1:
            raise DataError(
                "files have different numbers of images", where=str(directory), fix="complete the directory"
            )
        self._n = len(images)
        _check_labels(directory / "labels.npy", labels, next(iter(self._rows.values())), blocks)
        self._identity = DirectoryCorruptions(
            made_by=manifest.generator if manifest is not None else "unknown",
            fingerprint=self._fingerprint(),
            frost=manifest.frost if manifest is not None else "as published",
            seed=manifest.seed if manifest is not None else None,
            profile=manifest.profile if manifest is not None else None,
        )

    def _fingerprint(self) -> str:
        """Hash of 16 images spread over each file, and of all shapes: tells directories apart without reading them."""
        digest = hashlib.sha256()
        for name, cells in self._cells.items():
            digest.update(f"{name} {cells.shape}".encode())
            for row in np.linspace(0, len(cells) - 1, 16).astype(int):
                digest.update(np.ascontiguousarray(cells[row]).data)
        return f"sampled-sha256:{digest.hexdigest()}"

    @property
    def identity(self) -> DirectoryCorruptions:
        """Maker, fingerprint, frost; seed and profile where a manifest has them."""
        return self._identity

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the corruptions that the directory has a file of."""
        return self._names

    @property
    def severities(self) -> tuple[int, ...]:
        """The severities that the directory's files hold, each in 1..5."""
        return self._severities

    def cell(self, corruption: str, severity: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the corrupted images of the test images at `indices`, int64 (n,); uint8 (n, H, W, C).

        Raises:
            DataError: a corruption or severity that the directory does not have, an index beyond the test set.
        """
        tables.check_severity(severity)
        if corruption not in self._cells:
            raise DataError(f"{corruption!r} is not in this directory", fix=hint(corruption, self._names))
        if severity not in self._severities:
            raise DataError(f"severity {severity} is not in this directory", fix=f"it has {self._severities}")
        first = self._severities.index(severity) * self._rows[corruption]
        return np.ascontiguousarray(self._cells[corruption][first + _within(indices, self._n)])


def _within(indices: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    checked = check_indices(indices)
    if checked.size and int(checked.max()) >= n:
        raise DataError(f"index {int(checked.max())} is beyond the test set's {n} images", where="indices")
    return checked


def _map(file: Path) -> NDArray[np.uint8]:
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except DAMAGE as error:
        raise DataError("not a whole NumPy file", where=str(file), fix="download or make it again") from error
    if array.ndim == 0 or not len(array):
        raise DataError("holds no images", where=str(file), fix="download or make it again")
    return cast("NDArray[np.uint8]", array)


def _check_manifest(manifest: Manifest, directory: Path, images: Images) -> None:
    if not manifest.complete or not manifest.files:
        raise DataError("is not finished", where=str(directory), fix="run edgesafe corrupt again to finish it")
    if manifest.images == len(images) and manifest.data_sha256 != pixel_sha256(images):
        raise DataError(
            "was made from other images than the clean test set",
            where=str(directory),
            fix="corrupt this test set, or evaluate on the one it was made from",
        )


def _check_labels(file: Path, labels: NDArray[np.int64], rows: int, blocks: int) -> None:
    if not file.is_file():
        raise DataError("missing", where=str(file), fix="it must hold the labels of every corrupted image")
    stored = _map(file)
    if stored.ndim != 1 or stored.dtype.kind not in "iu" or len(stored) not in (rows, rows * blocks):
        raise DataError(f"holds {stored.dtype} {stored.shape}, not whole numbers ({rows * blocks},)", where=str(file))
    for start in range(0, len(stored), rows):
        differ = np.flatnonzero(stored[start : start + len(labels)] != labels)
        if differ.size:
            raise DataError(
                f"{differ.size} labels differ from the clean test set's, the first at image {int(differ[0])}",
                where=str(file),
                fix="use the corrupted version of this very test set, in its order",
            )


def open_source(
    images: Images,
    labels: NDArray[np.int64],
    *,
    corruptions: str | Sequence[str],
    seed: int = 0,
    frost_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    data_sha256: str = "",
) -> CorruptionSource:
    """Open what a recipe's `evaluate.corruptions` names.

    Args:
        images: uint8 (n, H, W, C), the clean test set.
        labels: one for each image; of a directory they must be int64 (n,), since it holds labels to compare with.
        corruptions: "all" (the 15), a list of names, or "dir:PATH" (a CIFAR-10-C directory).
        seed: of generated corruptions.
        frost_dir: None: procedural; "imagecorruptions": that package's photographs; else a directory of photographs.
        cache_dir: keep generated cells here; None: make them again each time, which is often as fast.
        data_sha256: hash of the test set; "" to have it worked out.

    Raises:
        DataError: anything of the above is wrong.
        NothingEvaluated: an empty test set or an empty list.
    """
    shape = check_images(images)
    if len(images) == 0:
        raise NothingEvaluated("the test set is empty", where="images", fix="give at least one image")
    if np.asarray(labels).shape[:1] != (len(images),):
        raise DataError(f"labels are {np.asarray(labels).shape} for {len(images)} images", where="labels")
    if isinstance(corruptions, str) and corruptions.startswith("dir:"):
        return DirectorySource(Path(corruptions.removeprefix("dir:")).expanduser(), images, labels)
    if corruptions == "all":
        names = tables.NAMES
    elif isinstance(corruptions, str):
        names = (corruptions,)
    else:
        names = tuple(dict.fromkeys(corruptions))
    if not names:
        raise NothingEvaluated("the list of corruptions is empty", where="evaluate.corruptions", fix='use "all"')
    for name in names:
        tables.check_name(name)
    profile = tables.profile_for(shape[0], shape[1])
    spec = FieldSpec(shape, seed, profile, frost_bank(frost_dir, profile, shape[0], shape[1]))
    return GeneratedSource(images, names, spec, data_sha256 or pixel_sha256(images), cache_dir)
