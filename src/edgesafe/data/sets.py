"""The data sets that a recipe can name. Each loader gives arrays; `load` checks, splits and hashes them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import (
    aircraft,
    arrays,
    factories,
    files,
    folders,
    imagefolder,
    keypoints,
    mappings,
    npy,
    npz,
    parquet,
    webdataset,
)
from edgesafe.data.cache import Cache
from edgesafe.data.options import require_none
from edgesafe.data.raw import RawData
from edgesafe.data.rows import blocks, part
from edgesafe.errors import DataError, hint
from edgesafe.progress import Progress
from edgesafe.recipe.sections import DataSection
from edgesafe.records import DataBundle, DataIdentity, Images, ImageSet, Task, TaskKind

__all__ = ["first", "identity", "load"]

_MOST_CLASSES = 1 << 16  # evidence stores labels as uint16
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(section: DataSection, progress: Progress | None = None) -> DataBundle:
    """Load, check, split and hash the data set of a recipe.

    The validation images are chosen by a fixed permutation that depends only on the size of the set that they are held
    out of, so that they are the same for every seed and every run. Held out of test, they are no test images any more:
    the bundle's name says so, since numbers on the rest are not those of the whole test set. `mean` and `std` default
    to the data set's own figures. Parts that are too large for memory stay on disk and are read by rows.

    Args:
        section: the recipe's [data].
        progress: told while a large set is hashed or decoded for the first time.

    Raises:
        DataError: unknown name, missing or damaged files, no images, wrong shapes or labels.
    """
    cache = Cache.of(section, progress)
    raw = _loader(section.name)(section, cache)
    where = f"data '{section.name}'"
    task = raw.task
    if task.outputs < 2:
        raise DataError(f"{task.outputs} class", where=where, fix="a classifier needs at least two")
    if task.outputs > _MOST_CLASSES:
        raise DataError(f"{task.outputs:,} classes", where=where, fix=f"evidence holds at most {_MOST_CLASSES:,}")
    train = _Part(*arrays.checked(*raw.train, task=task, where=f"{where}, train"), task)
    test = _Part(*arrays.checked(*raw.test, task=task, where=f"{where}, test"), task)
    name = section.name
    if raw.validation is not None:
        if section.validation_from == "test":
            raise DataError(
                "the data set brings its own validation images", where="data.validation_from", fix="leave the key out"
            )
        validation = _Part(*arrays.checked(*raw.validation, task=task, where=f"{where}, validation"), task)
    elif section.validation_from == "test":
        whole = len(test.labels)
        test, validation = _held_out(test, section, raw)
        name = f"{name} ({len(validation.labels):,} of {whole:,} test images held out)"
    else:
        train, validation = _held_out(train, section, raw)
    if section.train_images is not None:
        train = _first(train, section.train_images, "data.train_images")
    if section.test_images is not None:
        test = _first(test, section.test_images, "data.test_images")
    shapes = {tuple(piece.images.shape[1:]) for piece in (train, validation, test)}
    if len(shapes) != 1:
        raise DataError(
            f"train, validation and test have different shapes: {sorted(shapes)}", where=where, fix="resize them"
        )
    mean, std = _normalisation(section, raw, train.images)
    hashed = (train.hashed(cache), validation.hashed(cache), test.hashed(cache))
    return DataBundle(name, mean, std, hashed[0], hashed[1], hashed[2], raw.licence, raw.notes)


@dataclass(frozen=True)
class _Part:
    """Checked images and labels that have no hash yet."""

    images: Images
    labels: NDArray[Any]
    task: Task

    def take(self, rows: NDArray[np.int64] | slice) -> _Part:
        return _Part(part(self.images, rows), self.labels[rows], self.task)

    def hashed(self, cache: Cache) -> ImageSet:
        return arrays.image_set(self.images, self.labels, self.task, cache)


def identity(bundle: DataBundle) -> DataIdentity:
    """The record of a data set that goes into the study; copies and leaks are found here, and said in its notes."""
    h, w, c = bundle.test.images.shape[1:]
    copies, n = arrays.repeats(bundle.train, bundle.validation, bundle.test), len(bundle.test)
    notes = list(bundle.notes)
    if copies.distinct < n:
        notes.append(f"the {n:,} test images are {copies.distinct:,} different ones: min_samples counts these")
    if copies.in_train:
        notes.append(f"{copies.in_train:,} of {n:,} test images are training or validation images, too")
    return DataIdentity(
        name=bundle.name, classes=bundle.task.names, shape=(h, w, c),
        task=None if bundle.task.kind is TaskKind.CLASSIFICATION else bundle.task,
        train_n=len(bundle.train), validation_n=len(bundle.validation), test_n=len(bundle.test),
        train_sha256=bundle.train.sha256, validation_sha256=bundle.validation.sha256, test_sha256=bundle.test.sha256,
        mean=bundle.mean, std=bundle.std,
        test_distinct=copies.distinct, test_in_train=copies.in_train, notes=tuple(notes),
    )  # fmt: skip


def _held_out(whole: _Part, section: DataSection, raw: RawData) -> tuple[_Part, _Part]:
    """A set without its validation images, and those; each in the set's order."""
    held = raw.hold_out if section.validation is None else section.validation
    if held == 0:
        fix = f"hold out some of {section.validation_from}, for example 500"
        raise DataError("no validation images", where="data.validation", fix=fix)
    rest, out = arrays.split(len(whole.labels), [held], where="data.validation")
    return whole.take(rest), whole.take(out)


def first(images: ImageSet, n: int) -> ImageSet:
    """The first n images (all, if there are not so many).

    The order of a training set may be by class: the images are taken along the fixed permutation, in their own order.
    """
    if n >= len(images):
        return images
    index = np.sort(arrays.shuffled(len(images))[:n])
    return arrays.image_set(part(images.images, index), images.labels[index], images.task)


def _first(whole: _Part, n: int, where: str) -> _Part:
    there = len(whole.labels)
    if n > there:
        raise DataError(f"{n} images asked for, {there} there", where=where, fix=f"ask for at most {there}")
    return whole.take(slice(n))


def _normalisation(section: DataSection, raw: RawData, train: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = train.shape[3]
    mean, std = section.mean or raw.mean, section.std or raw.std
    if mean is None or std is None:
        counts = np.zeros((channels, 256), np.int64)  # of each value: exact, whatever the blocks
        for rows in blocks(train):
            pixels = train[rows]
            counts += [np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(channels)]
        shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255.0
        average = shares @ values
        spread = np.sqrt(np.maximum(shares @ values**2 - average**2, 1e-12))
        mean = mean or tuple(round(float(v), 4) for v in average)
        std = std or tuple(max(round(float(v), 4), 1e-4) for v in spread)
    if len(mean) != channels or len(std) != channels:
        raise DataError(
            f"{len(mean)} means and {len(std)} standard deviations for {channels} channels",
            where="data.mean, data.std",
            fix=f"give {channels} of each",
        )
    return mean, std


# ------------------------------------------------------------------------------------------------------- loaders


def _digits(_: DataSection, _cache: Cache) -> RawData:
    """Handwritten digits of the UCI repository (as in scikit-learn): 1,797 images of 8x8, shown as 32x32x3."""
    with (
        resources.files("edgesafe.data").joinpath("digits.npz").open("rb") as handle,
        np.load(handle, allow_pickle=False) as archive,
    ):
        small, labels = archive["images"], archive["labels"]
    large = _upscale(small, 4)
    rest, test = arrays.split(len(large), [600], where="digits")
    return RawData(
        train=(large[rest], labels[rest]), test=(large[test], labels[test]),
        task=Task.classes(tuple("0123456789")), hold_out=197,
        licence="Optical Recognition of Handwritten Digits, E. Alpaydin & C. Kaynak, UCI repository, CC BY 4.0",
    )  # fmt: skip


def _upscale(small: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """(N, h, w) with values 0..16 to (N, h*factor, w*factor, 3), 0..255, bilinear, in exact integer arithmetic."""
    n = small.shape[1]
    centre = 2 * np.arange(n * factor) + 1 - factor  # position of a fine pixel in units of 1/(2*factor)
    low = np.clip(centre // (2 * factor), 0, n - 1)
    high = np.clip(low + 1, 0, n - 1)
    part = np.clip(centre - low * 2 * factor, 0, 2 * factor)
    a = small.astype(np.int64)
    rows = a[:, low] * (2 * factor - part)[:, None] + a[:, high] * part[:, None]
    both = rows[:, :, low] * (2 * factor - part) + rows[:, :, high] * part
    whole = 16 * (2 * factor) ** 2
    grey = ((both * 255 * 2 + whole) // (2 * whole)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def _cifar10(section: DataSection, _cache: Cache) -> RawData:
    path = Path(section.root) / "cifar10.npz"
    if not path.is_file():
        raise DataError(
            "CIFAR-10 is not there", where=str(path), fix=f"run: edgesafe fetch cifar10 --root {section.root}"
        )
    found = npz.read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    files.check_cifar10(found, path)
    return RawData(
        train=(found["x_train"], found["y_train"]), test=(found["x_test"], found["y_test"]),
        task=Task.classes(CIFAR10_CLASSES), hold_out=5000, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
        licence="CIFAR-10, A. Krizhevsky, 2009",
    )  # fmt: skip


def _aircraft(section: DataSection, cache: Cache) -> RawData:
    """Silhouettes over CIFAR-10's photographs, see `aircraft`."""
    options, photographs = aircraft.options_of(section.args), _cifar10(section, cache)
    parts = {
        name: aircraft.part(np.asarray(pictures), name, n, options)
        for name, pictures, n in (
            ("train", photographs.train[0], options.train), ("test", photographs.test[0], options.test)
        )
    }  # fmt: skip
    return RawData(
        train=parts["train"], test=parts["test"], task=aircraft.task_of(options), hold_out=max(1, options.train // 20),
        licence=f"silhouettes: edgesafe's own; photographs: {photographs.licence}",
        notes=("synthetic: silhouettes drawn over photographs, so that their keypoints are known exactly",),
    )  # fmt: skip


def _keypoints(section: DataSection, _cache: Cache) -> RawData:
    """train/ and test/ with a labels.csv each, and validation/ if there is one, see `keypoints`."""
    root, options = Path(section.root), keypoints.options_of(section.args)
    places = {name: folders.require_part(root, name) for name in ("train", "test")}
    others = folders.find_part(root, ("validation", "val", "valid"))
    if others is not None:
        places["validation"] = others
    parts = {name: keypoints.read_part(place, options) for name, place in places.items()}
    names = parts["train"].names
    for name, found in parts.items():
        if found.names != names:
            what = f"keypoints {', '.join(found.names)}; train has {', '.join(names)}"
            raise DataError(what, where=str(places[name] / "labels.csv"), fix="use the same columns in all parts")
    held = parts.get("validation")
    height, width = parts["train"].images.shape[1:3]
    return RawData(
        train=(parts["train"].images, parts["train"].points),
        test=(parts["test"].images, parts["test"].points),
        task=keypoints.task_of(options, names, (height, width)),
        validation=None if held is None else (held.images, held.points),
        hold_out=max(1, len(parts["train"].images) // 10),
    )


def _npz(section: DataSection, cache: Cache) -> RawData:
    found = npz.read_npz(Path(section.root), ("x_train", "y_train", "x_test", "y_test"), cache)
    return mappings.raw_data(found, section.root, section.args)


def _npy(section: DataSection, cache: Cache) -> RawData:
    return mappings.raw_data(npy.read_folder(Path(section.root), cache), section.root, section.args)


_Loader = Callable[[DataSection, Cache], RawData]


def _without_options(load: _Loader) -> _Loader:
    """The loader of a set that takes no `data.args`: it refuses them."""

    def checked(section: DataSection, cache: Cache) -> RawData:
        require_none(section.args, section.name)
        return load(section, cache)

    return checked


_LOADERS: Mapping[str, _Loader] = {
    "digits": _without_options(_digits),
    "cifar10": _without_options(_cifar10),
    "aircraft": _aircraft,
    "keypoints": _keypoints,
    "imagefolder": imagefolder.load,
    "npy": _npy,
    "npz": _npz,
    "parquet": parquet.load,
    "webdataset": webdataset.load,
}


def _loader(name: str) -> _Loader:
    if name in _LOADERS:
        return _LOADERS[name]
    if ":" in name:
        return factories.load
    fix = hint(name, [*_LOADERS, "module:factory"])
    raise DataError(f"unknown data set '{name}'", where="data.name", fix=fix)
