"""Keypoint data: exact labels of the procedural aircraft, a user's own files, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgesafe import data
from edgesafe.data import aircraft
from edgesafe.errors import DataError
from edgesafe.recipe.sections import DataSection
from edgesafe.records import Task, TaskKind

GREY = np.full((4, 32, 32, 3), 128, np.uint8)


def test_an_image_is_a_function_of_seed_part_and_index() -> None:
    options = aircraft.AircraftOptions(size=48, seed=3)
    whole = aircraft.part(GREY, "train", 4, options)
    again = aircraft.pictured(GREY[2], "train", 2, options)
    assert (whole[0][2] == again[0]).all()
    assert (whole[1][2] == again[1]).all()
    for other in (("test", options), ("train", aircraft.AircraftOptions(size=48, seed=4))):
        assert (aircraft.pictured(GREY[2], other[0], 2, other[1])[1] != again[1]).any()


def test_the_silhouette_is_where_the_keypoints_say() -> None:
    """The centroid of the changed pixels against that of the polygon, by the shoelace formula: no shift, no flip."""
    options, offsets = aircraft.AircraftOptions(size=64), []
    for i in range(60):
        image, points = aircraft.pictured(np.zeros((32, 32, 3), np.uint8), "train", i, options)
        cover = image.max(axis=2).astype(float)
        y, x = np.mgrid[0.5:64, 0.5:64]
        seen = np.array([(x * cover).sum(), (y * cover).sum()]) / cover.sum()
        offsets.append(seen - centroid(outline_at(points)))
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.02
    assert np.abs(offsets).max() < 0.2


def outline_at(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The outline as the keypoints place it: an affine map found by least squares, not the generator's pose."""
    design = np.column_stack([aircraft._KEYPOINTS, np.ones(6)])
    affine, residual, _, _ = np.linalg.lstsq(design, points.astype(float), rcond=None)
    assert residual.max() < 1e-8
    return np.column_stack([aircraft._OUTLINE, np.ones(len(aircraft._OUTLINE))]) @ affine


def centroid(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    following = np.roll(polygon, -1, axis=0)
    cross = polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]
    centre: NDArray[np.float64] = ((polygon + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return centre


def write_folder(root: Path, part: str, header: str, lines: list[str], sizes: list[tuple[int, int]]) -> None:
    folder = root / part
    (folder / "pictures").mkdir(parents=True)
    for k, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{k}.png")
    (folder / "labels.csv").write_text("\n".join([header, *lines]) + "\n")


def good_folder(root: Path, **args: object) -> DataSection:
    for part in ("train", "test"):
        lines = [f"pictures/{k}.png, 1.5, 2, 10, {k}.25" for k in range(6)]
        write_folder(root, part, "file, eye_x, eye_y, ear_x, ear_y", lines, [(16, 24)] * 6)
    return DataSection(name="keypoints", root=str(root), args=args)


def test_a_folder_with_a_csv(tmp_path: Path) -> None:
    section = good_folder(tmp_path, tolerance=3.0, pairs=[["eye", "ear"]])
    bundle = data.load(section)
    assert bundle.task == Task.keypoints(("eye", "ear"), 3.0, (16, 24), (1, 0))
    assert bundle.task.outputs == 4
    assert bundle.test.images.shape == (6, 16, 24, 3)
    assert bundle.test.labels[5].tolist() == [[1.5, 2.0], [10.0, 5.25]]
    identity = data.identity(bundle)
    assert (identity.kind, identity.noun, identity.classes) == (TaskKind.KEYPOINTS, "keypoints", ("eye", "ear"))
    larger = data.load(section.model_copy(update={"args": {"size": [32, 48]}}))
    assert larger.test.labels[5].tolist() == [[3.0, 4.0], [20.0, 10.5]]
    assert larger.test.images.shape == (6, 32, 48, 3)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("pictures/9.png,1,1,2,2", "line 2: no file '9.png'"),
        ("pictures/0.png,1,1,2", "line 2: 4 cells, the header has 5"),
        ("pictures/0.png,1,x,2,2", "line 2: a place is not a number"),
        ("pictures/0.png,1,nan,2,2", "line 2: a place is not finite"),
        ("../labels.csv,1,1,2,2", "no path within the folder"),
        ("labels.csv,1,1,2,2", "line 2|labels.csv"),
        ("pictures/0.png,1,1,2,99", "outside of their 24x16 pixels"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    section = good_folder(tmp_path)
    write = (tmp_path / "train" / "labels.csv").read_text().splitlines()
    (tmp_path / "train" / "labels.csv").write_text("\n".join([write[0], line, *write[2:]]))
    with pytest.raises(DataError, match=told):
        data.load(section)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"tolerance": -1.0}, "data.args.tolerance"),
        ({"toleranz": 1.0}, "data.args.toleranz"),
        ({"pairs": [["eye", "nose"]]}, "cannot be exchanged"),
        ({"names": ["a", "a"]}, "stands twice"),
        ({"names": ["a"]}, "keypoints of shape"),
        ({"size": [4, 4]}, "data.args.size"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, args: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        data.load(good_folder(tmp_path, **args))


@pytest.mark.parametrize("header", ["name,x1,y1", "file,x1", "file,x1,y1,x2"])
def test_a_wrong_header_is_named(tmp_path: Path, header: str) -> None:
    section = good_folder(tmp_path)
    (tmp_path / "train" / "labels.csv").write_text(f"{header}\na.png,1,1\n")
    with pytest.raises(DataError, match="the header is"):
        data.load(section)


def arrays(n: int = 12) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (n, 8, 8, 3), np.uint8), rng.uniform(0, 8, (n, 3, 2))
    return {"x_train": x, "y_train": y, "x_test": x[:5], "y_test": y[:5]}


def test_an_npz_whose_labels_are_places(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays(), names=np.array(["a", "b", "c"]), tolerance=np.array(1.5))
    bundle = data.load(DataSection(name="npz", root=str(tmp_path / "own.npz"), args={"pairs": [["b", "c"]]}))
    assert bundle.task == Task.keypoints(("a", "b", "c"), 1.5, (8, 8), (0, 2, 1))
    assert bundle.test.labels.dtype == np.float32


def test_seventeen_keypoints_are_too_many(tmp_path: Path) -> None:
    given = arrays()
    given["y_train"], given["y_test"] = (np.zeros((n, 17, 2)) for n in (12, 5))
    np.savez(tmp_path / "own.npz", **given)
    with pytest.raises(DataError, match="17 keypoints"):
        data.load(DataSection(name="npz", root=str(tmp_path / "own.npz")))


@pytest.mark.data
def test_train_lies_over_train_and_test_over_test() -> None:
    """A pixel that hardly any silhouette covers is the photograph's: the corner of the frame, 32 px to 32 px."""
    cifar10_root = Path(os.environ.get("EDGESAFE_DATA", "data"))
    if not (cifar10_root / "cifar10.npz").is_file():
        pytest.skip("CIFAR-10 is not there: edgesafe fetch cifar10")
    args = {"size": 32, "train": 60, "test": 20}
    bundle = data.load(DataSection(name="aircraft", root=str(cifar10_root), args=args))
    photographs = np.load(cifar10_root / "cifar10.npz")
    assert len(bundle.train) + len(bundle.validation) == 60
    assert (bundle.test.images[:, 0, 0] == photographs["x_test"][:20, 0, 0]).mean() > 0.9
    with pytest.raises(DataError, match=r"data\.args\.size"):
        data.load(DataSection(name="aircraft", root=str(cifar10_root), args={"size": 9}))
