"""Shards, packed archives, and objects that are asked image by image: the same sets as folders and arrays give."""

from __future__ import annotations

import builtins
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgesafe import data
from edgesafe.errors import DataError, EdgesafeError, IntegrityError, UsageError
from edgesafe.recipe.sections import DataSection
from edgesafe.records import DataBundle

RNG = np.random.default_rng(5)
CLASSES = ("ant", "bee", "cow")
COUNTS = {"train": 21, "test": 9}
PIXELS = {part: RNG.integers(0, 256, (n, 20, 18, 3), dtype=np.uint8) for part, n in COUNTS.items()}
LABELS = {part: np.arange(n) % 3 for part, n in COUNTS.items()}


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def as_folder(root: Path) -> Path:
    for part, images in PIXELS.items():
        for k, image in enumerate(images):
            place = root / part / CLASSES[LABELS[part][k]] / f"{k:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(png(image))
    return root


def in_folder_order(part: str) -> np.ndarray:
    return np.argsort(LABELS[part], kind="stable")


def parquet_table(part: str, rows: np.ndarray, label: str = "number") -> pa.Table:
    images = [{"bytes": png(PIXELS[part][k]), "path": f"{k}.png"} for k in rows]
    numbers = [int(LABELS[part][k]) for k in rows]
    names = [CLASSES[k] for k in numbers]
    table = pa.table({"image": images, "label": numbers if label == "number" else names})
    told = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(told)} if label == "number" else {})


def as_parquet(root: Path, label: str = "number") -> Path:
    """Two shards of train and one of test, some rows a group, in the order of the folders."""
    root.mkdir()
    for part in PIXELS:
        shards = np.array_split(in_folder_order(part), 2 if part == "train" else 1)
        for k, rows in enumerate(shards):
            file = root / f"{part}-{k:05}-of-{len(shards):05}.parquet"
            pq.write_table(parquet_table(part, rows, label), file, row_group_size=4)
    return root


def tar_of(samples: dict[str, bytes], kind: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=kind) as archive:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def samples_of(part: str, rows: np.ndarray, label: str = "cls") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for k in rows:
        number = int(LABELS[part][k])
        found[f"./{part}/{k:06}.png"] = png(PIXELS[part][k])
        told = {"cls": f"{number}\n".encode(), "json": json.dumps({"what": CLASSES[number]}).encode()}
        found[f"./{part}/{k:06}.{label}"] = told[label]
    return found


def as_tars(root: Path, label: str = "cls", ending: str = "tar") -> Path:
    root.mkdir()
    for part in PIXELS:
        for k, rows in enumerate(np.array_split(in_folder_order(part), 2)):
            content = tar_of(samples_of(part, rows, label), "w:gz" if ending.endswith("gz") else "w")
            (root / f"{part}-{k:06}.{ending}").write_bytes(content)
    return root


def loaded(name: str, root: Path | str, store: str = "memory", **more: Any) -> DataBundle:
    args = {"resize": 18, "crop": 16} | more.pop("args", {})
    section = {
        "name": name, "root": str(root), "args": args, "validation": 4, "store": store,
        "cache_dir": str(Path(root).parent / "cache"),
    }  # fmt: skip
    return data.load(DataSection.model_validate(section | more))


def same(one: DataBundle, other: DataBundle) -> bool:
    """Names, notes and places aside, whether two sets are the same."""
    ids = [data.identity(bundle).model_dump(exclude={"name", "notes"}) for bundle in (one, other)]
    return bool(ids[0] == ids[1]) and all(
        np.array_equal(a.images[:], b.images[:]) and np.array_equal(a.labels, b.labels)
        for a, b in ((one.train, other.train), (one.validation, other.validation), (one.test, other.test))
    )


@pytest.fixture
def folder(tmp_path: Path) -> DataBundle:
    """The oracle: the same images as an image folder."""
    return loaded("imagefolder", as_folder(tmp_path / "f"))


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("label", ["number", "name"])
def test_parquet_is_the_folder(tmp_path: Path, folder: DataBundle, label: str, store: str) -> None:
    bundle = loaded("parquet", as_parquet(tmp_path / "p", label), store)
    assert isinstance(bundle.test.images, np.ndarray) == (store == "memory")
    assert bundle.task.names == CLASSES and same(bundle, folder)
    assert "train: 2 shards, 21 images" in bundle.notes


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize(
    ("label", "ending", "args"),
    [
        ("cls", "tar", {"classes": list(CLASSES)}),
        ("json", "tar", {"label": "json:what"}),
        ("cls", "tar.gz", {"classes": "classnames.txt", "image": "png"}),
    ],
)
def test_webdataset_is_the_folder(
    tmp_path: Path, folder: DataBundle, label: str, ending: str, args: dict[str, Any], store: str
) -> None:
    root = as_tars(tmp_path / "w", label, ending)
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    assert same(loaded("webdataset", root, store, args=args), folder)


def test_shards_that_are_one_set_are_split(tmp_path: Path) -> None:
    root = as_tars(tmp_path / "w")
    bundle = loaded("webdataset", root, args={"split": [0.6, 0.2, 0.2]}, validation=None)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (18, 6, 6)
    one = as_parquet(tmp_path / "p") / "train-00000-of-00002.parquet"
    assert len(loaded("parquet", one, args={"split": [0.5, 0.25, 0.25]}, validation=None).test) == 3


def test_shards_are_decoded_once_and_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = as_tars(tmp_path / "w")
    wanted = data.identity(loaded("webdataset", root, "disk"))
    calls: list[str] = []
    real = data.sets.webdataset._content
    monkeypatch.setattr(data.sets.webdataset, "_content", lambda *given: calls.append(given[1].name) or real(*given))
    moved = root.rename(tmp_path / "moved")
    assert data.identity(loaded("webdataset", moved, "disk")) == wanted
    assert sum(name.endswith("png") for name in calls) == 2  # the first of each part, for its size
    rows = in_folder_order("test")[5:][::-1]  # the control: other images under an old name
    (moved / "test-000001.tar").write_bytes(tar_of(samples_of("test", rows)))
    assert data.identity(loaded("webdataset", moved, "disk")).test_sha256 != wanted.test_sha256


def whole_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(parquet_table("test", np.arange(9)), out, row_group_size=4)
    return out.getvalue()


def changed_parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    table = parquet_table("test", np.arange(9), "name")
    pq.write_table(
        pa.table(
            {
                name: columns.get(name, table.column(name))
                for name in (*table.column_names, *columns)
                if columns.get(name, 0) is not None
            }
        ),
        out,
    )
    return out.getvalue()


def alike(rows: int) -> bytes:
    """A Parquet file of one image and one label, over and over: 38 kB for five million."""
    places = pa.array(np.zeros(rows, np.int8))
    images = pa.DictionaryArray.from_arrays(places, pa.array([png(PIXELS["test"][0])]))
    out = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": pa.array(np.zeros(rows, np.int8))}), out)
    return out.getvalue()


TAR = tar_of(samples_of("test", np.arange(9)))
BAD_PARQUET: dict[str, tuple[bytes, str]] = {
    "cut short": (whole_parquet()[:-200], "damaged, or no Parquet file"),
    "not one": (b"PAR1 no", "damaged, or no Parquet file"),
    "millions in nothing": (alike(2_000_000), "claims 2,000,000 images in .* bytes"),
    "no label": (changed_parquet(label=None), "no column label or labels.*there are image"),
    "no image": (changed_parquet(image=None), "no column image or img"),
    "numbers for images": (changed_parquet(image=list(range(9))), "is int64, not encoded images"),
    "paths for images": (changed_parquet(image=[{"bytes": None, "path": "x"}] * 9), "not encoded images|only where"),
    "an empty image": (changed_parquet(image=[b""] * 9), "row 0: holds no image"),
    "a label is missing": (changed_parquet(label=[0, None, *range(7)]), "label of row 1 is None"),
    "labels are fractions": (changed_parquet(label=[0.5] * 9), "label of row 0 is 0.5"),
    "a label beyond": (changed_parquet(label=[7] * 9), "label of .*row 0 is 7, there are 3 classes"),
    "a negative label": (changed_parquet(label=[-1] * 9), "row 0 is -1"),
    "an unknown name": (changed_parquet(label=["wasp"] * 9), "is 'wasp', there are 3 classes"),
    "a damaged image": (changed_parquet(image=[b"\x89PNG no"] * 9), "row 0: cannot be read as an image"),
}
BAD_TARS: dict[str, tuple[bytes, str]] = {
    "cut within an image": (TAR[:3000], "damaged, or no tar archive"),
    "cut between members": (TAR[: -(-len(TAR.rstrip(b"\0")) // 512) * 512], "ends before its end"),
    "not one": (b"no tar" * 400, "damaged, or no tar archive"),
    "without labels": (tar_of({"a.png": png(PIXELS["test"][0])}), "a.png has no .cls"),
    "without images": (tar_of({"a.cls": b"1"}), "no images"),
    "a damaged image": (tar_of({"a.png": b"no", "a.cls": b"1"}), "a.png: cannot be read as an image"),
    "a label beyond": (tar_of({"a.png": png(PIXELS["test"][0]), "a.cls": b"3"}), "label of a.png is 3, there are 3"),
    "no label in it": (tar_of({"a.png": png(PIXELS["test"][0]), "a.cls": b" "}), "a.cls: the label is ''"),
    "two images": (tar_of({"a.png": png(PIXELS["test"][0]), "a.jpg": b"", "a.cls": b"1"}), "two images of one sample"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_PARQUET)
def test_parquet_that_cannot_be_used_is_one_line(tmp_path: Path, kind: str) -> None:
    content, says = BAD_PARQUET[kind]
    root = as_parquet(tmp_path / "p")
    (root / "test-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match=says):
        loaded("parquet", root)


@pytest.mark.parametrize("kind", BAD_TARS)
def test_tars_that_cannot_be_used_are_one_line(tmp_path: Path, kind: str) -> None:
    content, says = BAD_TARS[kind]
    root = as_tars(tmp_path / "w")
    (root / "test-000001.tar").write_bytes(content)
    with pytest.raises(DataError, match=says):
        loaded("webdataset", root)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"test": "none-*"}, "no file fits 'none-\\*'"),
        ({"label": "category"}, "no column 'category'.*known: image, label"),
        ({"classes": ["ant", "bee"]}, "is 2, there are 2 classes"),
        ({"classes": []}, "no list of names"),
        ({"classes": "absent.txt"}, "absent.txt"),
        ({"label": 3}, "3 is no name"),
        ({"colour": "grey"}, "unknown key 'colour'; known: size, resize"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, args: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded("parquet", as_parquet(tmp_path / "p"), args=args)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    root = as_parquet(tmp_path / "p")
    (root / "test-00000-of-00001.parquet").rename(root / "validation-0.parquet")
    with pytest.raises(DataError, match=r"no shards of 'test'.*validation-0\.parquet"):
        loaded("parquet", root)
    bundle = loaded("parquet", root, args={"test": "validation-*", "validation": "train-00001*"}, validation=None)
    assert (len(bundle.test), len(bundle.validation)) == (9, 10)
    with pytest.raises(DataError, match="no such folder"):
        loaded("parquet", tmp_path / "none")


def test_a_missing_extra_is_said_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"pyarrow is not installed.*pip install 'edgesafe\[parquet\]'"):
        loaded("parquet", tmp_path)


# ------------------------------------------------------------------------------------------------------------- npz


def as_npz(path: Path, save: Any, **changes: Any) -> Path:
    images = {f"x_{part}": PIXELS[part] for part in PIXELS}
    save(path, **images, **{f"y_{part}": LABELS[part] for part in PIXELS}, **changes)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_on_disk_is_the_archive_in_memory(tmp_path: Path, save: Any) -> None:
    path = as_npz(tmp_path / "a.npz", save)
    section = {"name": "npz", "root": str(path), "cache_dir": str(tmp_path / "cache")}
    memory, disk, again = (
        data.load(DataSection.model_validate(section | {"store": store})) for store in ("memory", "disk", "disk")
    )
    assert not isinstance(disk.test.images, np.ndarray)
    assert data.identity(memory) == data.identity(disk) == data.identity(again) and same(memory, disk)
    unpacked = list((tmp_path / "cache").glob("pixels/*.u8"))
    assert len(unpacked) == (2 if save is np.savez_compressed else 0)  # stored members are read where they are


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_in_an_archive_on_disk_is_found(tmp_path: Path, save: Any) -> None:
    path = as_npz(tmp_path / "a.npz", save)
    section = DataSection(name="npz", root=str(path), store="disk", cache_dir=str(tmp_path / "cache"))
    bundle = data.load(section)
    content = bytearray(path.read_bytes())
    at = content.index(PIXELS["test"].tobytes()[:64]) if save is np.savez else len(content) // 3
    content[at] ^= 1
    path.write_bytes(content)
    if save is np.savez:
        with pytest.raises(IntegrityError, match="image 0 is not what it was"):
            bundle.test.images[:2]
    else:
        with pytest.raises(DataError, match="damaged"):
            data.load(section)
        assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 2  # those of the first load, and no half one


# ------------------------------------------------------------------------------------------------- module:factory


class Asked:
    """Images that are given one by one, and how often they were asked for."""

    def __init__(self, part: str, version: str | None = None, pillow: bool = False) -> None:
        self.part, self.pillow, self.asked = part, pillow, 0
        self.pixels = PIXELS[part].copy()
        if version is not None:
            self.version = version

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, k: int) -> Any:
        self.asked += 1
        return Image.fromarray(self.pixels[k]) if self.pillow else self.pixels[k]


class Pairs(Asked):
    classes = CLASSES

    def __getitem__(self, k: int) -> Any:
        return super().__getitem__(k), int(LABELS[self.part][k])


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Loads what a factory returns, and the same as arrays."""
    module = ModuleType("of_a_user")
    monkeypatch.setitem(sys.modules, "of_a_user", module)

    def load(result: dict[str, Any], store: str = "disk") -> DataBundle:
        module.make = lambda: result  # type: ignore[attr-defined]
        return data.load(
            DataSection(name="of_a_user:make", store=store, cache_dir=str(tmp_path / "cache"))  # type: ignore[arg-type]
        )

    return load


def arrays(**images: Any) -> dict[str, Any]:
    plain = {f"x_{part}": PIXELS[part] for part in PIXELS} | {f"y_{part}": LABELS[part] for part in PIXELS}
    return plain | {"classes": CLASSES} | images


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("pillow", [False, True])
def test_images_that_are_asked_for_are_the_arrays(given: Any, store: str, pillow: bool) -> None:
    wanted = given(arrays())
    asked = given(arrays(**{f"x_{part}": Asked(part, pillow=pillow) for part in PIXELS}), store)
    pairs = given({part: Pairs(part, pillow=pillow) for part in PIXELS}, store)
    assert isinstance(asked.test.images, np.ndarray) == (store == "memory")
    assert data.identity(asked) == data.identity(pairs) == data.identity(wanted)
    assert same(asked, wanted) and same(pairs, wanted)


def test_a_version_says_that_hashes_may_be_kept(given: Any) -> None:
    def asked_for(version: str | None) -> int:
        sources = {f"x_{part}": Asked(part, version) for part in PIXELS}
        section = arrays(**sources)
        data.identity(given(section))
        return sources["x_test"].asked

    first, again, other = asked_for("1"), asked_for("1"), asked_for("2")
    assert first > 9 and again == 1 and other > 9  # the first image is always looked at, for its size
    assert asked_for(None) > 9 and asked_for(None) > 9


def test_an_object_that_gives_other_images_later_is_refused(given: Any) -> None:
    source = Asked("test")
    bundle = given(arrays(x_test=source))
    source.pixels[4, 0, 0, 0] ^= 1
    assert len(bundle.test.images[:4]) == 4
    with pytest.raises(IntegrityError, match="image 4 is not what it was"):
        bundle.test.images[4]


class Wrong(Asked):
    def __init__(self, item: Any) -> None:
        super().__init__("test")
        self.item = item

    def __getitem__(self, k: int) -> Any:
        if isinstance(self.item, Exception) and k == 3:
            raise self.item
        return self.item if k == 3 or not isinstance(self.item, np.ndarray) else self.pixels[k]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (np.zeros((20, 18, 3), np.float32), r"x_test\[3\]: is float32 \(20, 18, 3\), not uint8"),
        (np.zeros((19, 18, 3), np.uint8), r"x_test\[3\]: has shape \(19, 18, 3\), the first \(20, 18, 3\)"),
        ("text", r"x_test\[0\]: is <U4"),
    ],
)
@pytest.mark.parametrize("store", ["memory", "disk"])
def test_items_that_are_no_images_are_named(given: Any, item: Any, says: str, store: str) -> None:
    with pytest.raises(DataError, match=says):
        given(arrays(x_test=Wrong(item)), store)


class Failing(Asked):
    def __getitem__(self, k: int) -> Any:
        if k == 3:
            raise OSError("no disk")
        return super().__getitem__(k)


def test_an_object_that_fails_or_is_empty_is_one_line(given: Any) -> None:
    with pytest.raises(DataError, match=r"x_test\[3\]: fails: OSError: no disk"):
        given(arrays(x_test=Failing("test")))
    empty = Asked("test")
    empty.pixels = empty.pixels[:0]
    with pytest.raises(EdgesafeError, match="no images"):
        given(arrays(x_test=empty))
    with pytest.raises(DataError, match=r"test\[0\]: is a ndarray, no \(image, label\)"):
        given({"train": Pairs("train"), "test": Asked("test")})
