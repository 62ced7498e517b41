"""Sets that are not in memory: the same rows, hashes and bytes as in memory; and memory that does not grow."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe import data
from edgesafe.data.cache import Cache
from edgesafe.data.rows import FileImages, Subset, blocks, part
from edgesafe.errors import DataError, IntegrityError
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.sections import DataSection
from edgesafe.records import DataBundle

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 9, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FileImages:
    path = tmp_path_factory.mktemp("rows") / "x.bin"
    path.write_bytes(b"head" + PIXELS.tobytes())
    return FileImages(path, 4, PIXELS.shape, "k")


KEYS = st.one_of(
    st.integers(-60, 59),
    st.slices(60).filter(lambda rows: rows.step is None or rows.step > 0),
    st.lists(st.integers(-60, 59), max_size=20).map(lambda rows: np.array(rows, np.int64)),
    st.lists(st.booleans(), min_size=60, max_size=60).map(np.array),
)


@given(key=KEYS)
@settings(max_examples=200)
def test_a_file_is_indexed_like_numpys_array(stored: FileImages, key: object) -> None:
    assert np.array_equal(stored[key], PIXELS[key])  # type: ignore[index]


@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=30), key=st.data())
def test_a_part_of_a_part_is_indexed_like_numpys(stored: FileImages, rows: list[int], key: st.DataObject) -> None:
    index = np.array(rows)
    inner = np.array(key.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)), np.int64)
    piece = part(part(stored, index), inner)
    assert np.array_equal(piece[:], PIXELS[index][inner])
    assert not isinstance(piece, Subset) or isinstance(piece._base, FileImages)  # one step, however often it is cut


def test_iterating_and_blocks_cover_each_row_once(stored: FileImages) -> None:
    assert np.array_equal(np.stack(list(stored)), PIXELS)
    large = np.broadcast_to(np.zeros((1, 1), np.uint8), (7, 5 << 18)).reshape(7, 5, 1 << 18, 1)
    assert [(rows.start, rows.stop) for rows in blocks(large)] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("row", [60, -61, [1, 60]])
def test_a_row_that_is_not_there_is_an_index_error(stored: FileImages, row: object) -> None:
    with pytest.raises(IndexError):
        stored[row]


def write(folder: Path, **changes: object) -> Path:
    """x_train.npy and so on: 40 and 24 images of four classes."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    content = {
        "x_train": rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8), "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8), "y_test": np.arange(24) % 4,
    } | changes  # fmt: skip
    for name, array in content.items():
        np.save(folder / f"{name}.npy", np.asarray(array))
    return folder


def loaded(folder: Path, store: str, **more: object) -> DataBundle:
    section = DataSection.model_validate(
        {"name": "npy", "root": str(folder), "store": store, "cache_dir": str(folder / "cache"), **more}
    )
    return data.load(section)


@pytest.mark.parametrize("more", [{}, {"validation_from": "test", "validation": 7, "train_images": 33}])
def test_a_set_on_disk_is_the_set_in_memory(tmp_path: Path, more: dict[str, object]) -> None:
    folder = write(tmp_path / "d")
    memory, disk = loaded(folder, "memory", **more), loaded(folder, "disk", **more)
    assert isinstance(memory.test.images, np.ndarray) and not isinstance(disk.test.images, np.ndarray)
    assert data.identity(memory) == data.identity(disk)
    for here, there in zip(
        (memory.train, memory.validation, memory.test), (disk.train, disk.validation, disk.test), strict=True
    ):
        assert here.sha256 == there.sha256 and (here.labels == there.labels).all()
        assert np.array_equal(here.images, there.images[:])
    wanted = hashlib.sha256(repr(memory.test.images.shape).encode())
    wanted.update(memory.test.images.tobytes() + memory.test.labels.tobytes())
    assert disk.test.sha256 == f"sha256:{wanted.hexdigest()}"


def test_where_pixels_are_held_changes_neither_recipe_nor_study() -> None:
    plain = {"name": "x", "model": {"arch": "smallnet"}, "data": {"name": "digits"}}
    other = plain | {"data": {"name": "digits", "store": "disk", "cache_dir": "/elsewhere", "workers": 3}}
    one, two = Recipe.model_validate(plain), Recipe.model_validate(other)
    assert one.sha256 == two.sha256 and one.recorded() == two.recorded()
    assert one.resolved() != two.resolved()  # which --show-recipe prints


def test_a_large_set_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "d")
    first = loaded(folder, "disk")
    reads = []
    real = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, rows: reads.append(len(rows)) or real(self, rows))
    again = loaded(folder, "disk", mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])
    assert again.test.sha256 == first.test.sha256 and data.identity(again).test_distinct == 24
    assert reads == []
    os.utime(folder / "x_test.npy", (1, 1))  # the control: a file that was touched is hashed anew
    loaded(folder, "disk", mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])
    assert sum(reads) == 48


def test_an_image_that_changed_after_it_was_hashed_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    bundle = loaded(folder, "disk")
    assert bundle.test.images[5].shape == (16, 16, 3)
    path = folder / "x_test.npy"
    content = bytearray(path.read_bytes())
    content[-24 * 768 + 5 * 768 + 100] ^= 1
    path.write_bytes(content)
    bundle.test.images[4], bundle.test.images[6]  # its neighbours are as they were
    with pytest.raises(IntegrityError, match="image 5 is not what it was"):
        bundle.test.images[5]
    path.write_bytes(content[:-200])
    with pytest.raises(DataError, match="became shorter"):
        bundle.test.images[-1]


def test_damaged_hashes_are_refused_or_made_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    wanted = loaded(folder, "disk").test.sha256
    kept = sorted((folder / "cache" / "hashes").iterdir())
    for path in kept:
        if path.suffix == ".npy":
            path.write_bytes(path.read_bytes()[:50])
    assert loaded(folder, "disk").test.sha256 == wanted
    for path in kept:
        if path.suffix == ".json":
            path.write_bytes(b"{}")
    with pytest.raises(DataError, match="is damaged"):
        loaded(folder, "disk")


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "cache").write_text("a file")
    assert len(loaded(folder, "disk").test) == 24


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_test": np.zeros((24, 16, 16, 3), np.float32)}, "float32, not uint8"),
        ({"x_test": np.zeros((24, 3, 16, 16), np.uint8)}, "channels first"),
        ({"y_test": np.arange(23) % 4}, "24 images but labels"),
        ({"y_train": np.arange(40) % 4 + 1}, "none is 0"),
    ],
)
@pytest.mark.parametrize("store", ["memory", "disk"])
def test_bad_arrays_are_refused_alike(tmp_path: Path, store: str, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded(write(tmp_path / "d", **changes), store)


def test_missing_pickled_and_turned_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    np.save(folder / "x_test.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a whole NumPy file"):
        loaded(folder, "disk")
    np.save(folder / "x_test.npy", np.asfortranarray(np.zeros((24, 16, 16, 3), np.uint8)))
    with pytest.raises(DataError, match="Fortran order"):
        loaded(folder, "disk")
    (folder / "x_test.npy").unlink()
    with pytest.raises(DataError, match="x_test"):
        loaded(folder, "disk")


def test_greyscale_without_a_channel_axis_gets_one(tmp_path: Path) -> None:
    changes = {"x_train": PIXELS[:40, :8, :, 0], "x_test": PIXELS[:24, :8, :, 1]}
    folder = write(tmp_path / "d", **changes)
    assert loaded(folder, "disk").test.images.shape == (24, 8, 8, 1)
    assert data.identity(loaded(folder, "disk")) == data.identity(loaded(folder, "memory"))


_CLIMB = """
import sys
from edgesafe import data
from edgesafe.recipe.sections import DataSection
bundle = data.load(DataSection(name="npy", root=sys.argv[1], store=sys.argv[2], cache_dir=sys.argv[1] + "/cache"))
data.identity(bundle)
print(sum(int(image[0, 0, 0]) for image in bundle.test.images))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # KiB
"""


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """120 MB of pixels: loaded, hashed, gone through; the control holds them in memory."""
    folder = tmp_path / "d"
    folder.mkdir()
    for name, n in (("x_train", 400), ("x_test", 400)):
        held = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (n, 224, 224, 3))
        held[:, :8, :8] = RNG.integers(0, 256, (n, 8, 8, 3))
        held.flush()
        np.save(folder / f"y{name[1:]}.npy", np.arange(n) % 4)
    peak, total = {}, {}
    for store in ("memory", "disk"):
        done = subprocess.run(
            [sys.executable, "-c", _CLIMB, str(folder), store], capture_output=True, text=True, check=True
        )
        total[store], peak[store] = (int(line) for line in done.stdout.split())
    assert total["memory"] == total["disk"]
    assert peak["memory"] - peak["disk"] > 80_000  # KiB
    assert peak["disk"] < 250_000


def test_the_cache_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.of(DataSection(name="digits")).directory == tmp_path / "edgesafe"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the convention says to ignore
    assert Cache.of(DataSection(name="digits")).directory == Path.home() / ".cache" / "edgesafe"
