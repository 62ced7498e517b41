"""Image folders of any size: resized and cropped as torchvision does it, decoded once, alike in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from edgesafe import data
from edgesafe.data import decoded, folders, kept
from edgesafe.data.pictures import PictureOptions
from edgesafe.data.preprocessing import Preprocessing
from edgesafe.errors import DataError
from edgesafe.recipe.sections import DataSection
from edgesafe.records import DataBundle

RNG = np.random.default_rng(3)
WHITE = (255, 255, 255)
MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    height=st.integers(9, 90), width=st.integers(9, 90), resize=st.integers(16, 64), crop=st.integers(8, 16),
    mode=st.sampled_from(sorted(MODES)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_resize_and_crop_are_torchvisions(height: int, width: int, resize: int, crop: int, mode: str) -> None:
    image = picture(height, width)
    oracle = v2.Compose([v2.Resize(resize, interpolation=MODES[mode]), v2.CenterCrop(crop)])
    ours = Preprocessing.of({"resize": resize, "crop": crop, "interpolation": mode})
    assert np.array_equal(np.asarray(ours(image, WHITE)), np.asarray(oracle(image)))
    both = Preprocessing.of({"resize": [resize, crop]})  # two sides: squashed
    assert np.array_equal(np.asarray(both(image, WHITE)), np.asarray(v2.Resize((resize, crop))(image)))


def test_padding_keeps_the_aspect_ratio_and_fills_with_the_background() -> None:
    got = np.asarray(Preprocessing.of({"resize": [40, 40], "fit": "pad"})(picture(20, 40), (1, 2, 3)))
    assert got.shape == (40, 40, 3)
    assert (got[:10] == (1, 2, 3)).all() and (got[30:] == (1, 2, 3)).all()
    assert not (got[10:30] == (1, 2, 3)).all(axis=2).any()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"resize": 4}, "4 is not a size"),
        ({"resize": [224, 224], "fit": "shorter"}, "two sides for the shorter one"),
        ({"resize": 32, "size": [32, 32]}, "both given"),
        ({"crop": True}, "True is not a size"),
        ({"resize": 32, "interpolation": "cubic"}, "'cubic' is unknown"),
        ({"resize": 32, "fit": "stretch"}, "'stretch' is unknown"),
        ({"rezise": 32}, "unknown key 'rezise'"),
    ],
)
def test_what_cannot_be_meant_is_refused(args: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        PictureOptions.of(args)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of odd sizes and kinds in three classes."""
    root = tmp_path / "set"
    for part, count in (("train", 12), ("test", 9)):
        for k in range(count):
            folder = root / part / "abc"[k % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image = picture(20 + k, 40 - k)
            image.convert(["RGB", "L", "RGBA"][k % 3]).save(folder / f"{k}.png")
    return root


def loaded(root: Path, store: str, **more: object) -> DataBundle:
    section = {
        "name": "imagefolder", "root": str(root), "args": {"resize": 18, "crop": 16}, "validation": 3, "store": store,
        "cache_dir": str(root.parent / "cache"),
    }  # fmt: skip
    return data.load(DataSection.model_validate(section | more))


def test_a_folder_on_disk_is_the_folder_in_memory(pictures: Path) -> None:
    memory, disk = loaded(pictures, "memory"), loaded(pictures, "disk")
    assert isinstance(memory.test.images, np.ndarray) and not isinstance(disk.test.images, np.ndarray)
    assert data.identity(memory) == data.identity(disk)
    assert np.array_equal(memory.test.images, disk.test.images[:]) and memory.test.images.shape == (9, 16, 16, 3)
    assert any("shorter side of 18 (bilinear), the middle 16x16" in note for note in memory.notes)


def test_images_are_decoded_once_wherever_they_lie(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = data.identity(loaded(pictures, "disk"))
    seen: list[str] = []
    real = decoded.pixels_of
    monkeypatch.setattr(decoded, "pixels_of", lambda *given: seen.append(given[1]) or real(*given))
    assert data.identity(loaded(pictures, "disk")) == wanted
    assert len(seen) == 2  # the first of each part, for its size
    moved = pictures.rename(pictures.with_name("moved"))
    assert data.identity(loaded(moved, "disk")) == wanted
    assert len(seen) == 4
    picture(30, 30).save(moved / "test" / "a" / "0.png")  # the control: another image under an old name
    assert data.identity(loaded(moved, "disk")).test_sha256 != wanted.test_sha256
    assert len(seen) == 4 + 2 + 9


def test_more_than_the_limit_is_refused_before_it_is_decoded(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_write", None)
    with pytest.raises(
        DataError, match=r"12 decoded images take 0\.00 GB, the limit is 0\.00 GB; raise data\.cache_gb"
    ):
        loaded(pictures, "disk", cache_gb=1e-9)


def test_an_image_that_is_too_small_for_the_crop_is_named(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"\.png: .* pixels cannot be cropped to 39x39; resize"):
        loaded(pictures, "memory", args={"crop": 39})


def test_a_damaged_image_leaves_no_half_file(pictures: Path) -> None:
    (pictures / "train" / "b" / "10.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(DataError, match="cannot be read as an image"):
        loaded(pictures, "disk")
    assert list((pictures.parent / "cache" / "pixels").iterdir()) == []


@pytest.fixture
def one_folder(pictures: Path) -> Path:
    return pictures / "train"


def split(root: Path, how: object, store: str = "memory") -> DataBundle:
    return loaded(root, store, args={"resize": 18, "crop": 16, "split": how}, validation=None)


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_one_folder_is_split_by_shares(one_folder: Path, store: str) -> None:
    bundle = split(one_folder, [0.5, 0.25, 0.25], store)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (6, 3, 3)
    seen = {image.tobytes() for part in (bundle.train, bundle.validation, bundle.test) for image in part.images}
    assert len(seen) == 12  # each image is in one part
    assert any("split by shares" in note and "6 train, 3 validation, 3 test" in note for note in bundle.notes)
    assert data.identity(bundle) == data.identity(split(one_folder, [0.5, 0.25, 0.25]))


def test_one_folder_is_split_by_a_table(one_folder: Path) -> None:
    lines = ["path,part", "a/0.png,train", "./a/3.png,test", "b/1.png,train", "b/4.png,validation", "c/2.png,train"]
    (one_folder / "split.csv").write_text("\n".join(lines))
    bundle = split(one_folder, "split.csv")
    assert bundle.train.labels.tolist() == [0, 1, 2]
    assert (bundle.validation.labels.tolist(), bundle.test.labels.tolist()) == ([1], [0])
    alone = folders.read_folder(one_folder, PictureOptions.of({"resize": 18, "crop": 16}))
    assert np.array_equal(bundle.test.images[0], alone.images[alone.names.index("a/3.png")])
    assert any("7 images that it does not name are left out" in note for note in bundle.notes)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ([0.8, 0.2], "is no split"),
        ([0.8, 0.3, 0.1], "sum to 1.2"),
        ([0.9, 0.1, 0.0], "no image is in test"),
        ("absent.csv", "absent.csv"),
        ("path,part\na/99.png,train", "line 2: there is no image"),
        ("path,part\na/0.png,dev", "'dev' is no part"),
        ("path,part\na/0.png,train\na/0.png,test", "line 3: 'a/0.png' stands twice"),
        ("file;part\na/0.png;train", "no columns path and part"),
        ("path,part\na/0.png,train", "no image is in test"),
    ],
)
def test_a_split_that_cannot_be_used_is_one_line(one_folder: Path, how: object, says: str) -> None:
    if isinstance(how, str) and "\n" in how:
        (one_folder / "split.csv").write_text(how)
        how = "split.csv"
    with pytest.raises(DataError, match=says):
        split(one_folder, how)
