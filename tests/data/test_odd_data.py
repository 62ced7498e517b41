"""Data as people bring it: left-overs, odd pixels, copies, leaks, archives that lie about their size."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgesafe import data
from edgesafe.data import npz, pictures
from edgesafe.errors import DataError
from edgesafe.policy import readings
from edgesafe.recipe.sections import DataSection
from edgesafe.records import DataBundle, DataIdentity


def noise(seed: int, size: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    seed = 0
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(6):
                seed += 1
                noise(seed).save(tmp_path / part / name / f"{k}.png")
    return tmp_path


def load(root: Path, **args: Any) -> DataBundle:
    return data.load(DataSection(name="imagefolder", root=str(root), validation=2, args=args))


def loads_with(root: Path, note: str, **args: Any) -> DataBundle:
    bundle = load(root, **args)
    assert any(note in line for line in bundle.notes), bundle.notes
    assert data.identity(bundle).notes[: len(bundle.notes)] == bundle.notes
    return bundle


# ---------------------------------------------------------------------------------------------------------- folders


def test_left_overs_are_skipped_and_said(root: Path) -> None:
    whole = load(root)
    assert whole.notes == ()
    for folder in (".ipynb_checkpoints", "__MACOSX", ".git"):
        (root / "train" / folder).mkdir()
        noise(0).save(root / "train" / folder / "0.png")
    (root / "train" / "ant" / ".ipynb_checkpoints").mkdir()
    noise(1).save(root / "train" / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png")
    noise(1).save(root / "train" / "ant" / "._0.png")
    (root / "train" / "bee" / "Thumbs.db").touch()
    (root / "train" / "bee" / "notes.txt").touch()
    bundle = loads_with(root, ".ipynb_checkpoints")
    assert bundle.task.names == ("ant", "bee")
    assert bundle.train.sha256 == whole.train.sha256
    assert "__MACOSX" in str(bundle.notes)
    assert "*.txt" in str(bundle.notes)


def test_classes_that_differ_in_case_only_are_refused(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "Ant").mkdir()
        noise(3).save(root / part / "Ant" / "0.png")
    with pytest.raises(DataError, match="Ant and ant differ in case only"):
        load(root)


def test_validation_by_its_other_names_is_used_and_said(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / "val" / name).mkdir(parents=True)
        noise(50).save(root / "val" / name / "0.png")
    assert len(loads_with(root, "validation images are those of val/").validation) == 2
    (root / "val").rename(root / "validation")
    assert len(load(root).validation) == 2
    (root / "valid").mkdir()
    with pytest.raises(DataError, match="validation and valid are both there"):
        load(root)


def test_missing_parts_name_what_is_near(root: Path) -> None:
    (root / "test").rename(root / "val")
    with pytest.raises(DataError, match=r"no folder 'test'.*'val' is meant.*test = \"val\""):
        load(root)
    bundle = loads_with(root, "test images are those of val/", test="val")
    assert len(bundle.test) == 12
    assert len(bundle.validation) == 2  # held out of train: val is taken
    (root / "train").rename(root / "Train")
    with pytest.raises(DataError, match=r"no folder 'train'.*'Train' is meant"):
        load(root, test="val")
    assert len(load(root, test="val", train="Train").train) == 10
    with pytest.raises(DataError, match=r"no folder 'vall'.*did you mean 'val'"):
        load(root, test="vall", train="Train")
    with pytest.raises(DataError, match="unknown key 'tset'"):
        load(root, tset="val")


def deep(path: Path, mode: str) -> None:
    values = np.linspace(0, 65535, 144).reshape(12, 12)
    if mode == "F":
        Image.fromarray((values / 65535).astype(np.float32)).save(path)
    else:
        Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32)).save(path)


def sixteen_bit_colour(path: Path) -> None:
    """PNG, 16 bits a channel, RGB, written by hand: Pillow writes none."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.full(36, 40_000, ">u2").tobytes() for _ in range(12))
    head = struct.pack(">IIBBBBB", 12, 12, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.png", lambda path: deep(path, "I;16")),
        ("x.tif", lambda path: deep(path, "I;16")),
        ("x.tiff", lambda path: deep(path, "I")),
        ("x.png", sixteen_bit_colour),
    ],
)
def test_more_than_8_bits_are_refused_by_name_or_scaled_if_asked(
    root: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = root / "train" / "ant" / name
    make(path)
    with pytest.raises(DataError, match=rf"{name}.*more than 8 bits.*depth"):
        load(root)
    bundle = loads_with(root, "16 bits a channel scaled to 8", depth="scale")
    images = np.concatenate([bundle.train.images, bundle.validation.images])
    if make is sixteen_bit_colour:
        assert any((image == 156).all() for image in images)  # 40,000 of 65,535
    else:
        assert any((image[0, 0] == 0).all() and (image[-1, -1] == 255).all() for image in images)  # not clipped


def test_scaling_16_bits_is_exact() -> None:
    """Oracle: rounding v / 257 in floating point, for every value."""
    values = np.arange(65536)
    assert ((values + 128) // 257 == np.round(values / 257)).all()


def test_float_images_are_refused_even_if_scaling_is_asked(root: Path) -> None:
    deep(root / "train" / "ant" / "f.tif", "F")
    for args in ({}, {"depth": "scale"}):
        with pytest.raises(DataError, match=r"f\.tif: has floating-point pixels"):
            load(root, **args)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_applied(root: Path, orientation: int) -> None:
    """Oracle: the upright picture; the file stores it turned, with the tag that turns it back."""
    upright = np.zeros((12, 12, 3), np.uint8)
    upright[:4, :6] = 255  # a corner that no turn or mirror leaves in its place
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # of Image.Transpose, back again
    stored = Image.fromarray(upright).transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = root / "x.png"
    stored.save(path, exif=exif)
    pixels, changes = pictures.pixels_of(path.read_bytes(), "x", pictures.PictureOptions())
    assert (pixels == upright).all()
    assert changes.turned == 1


def test_transparency_shows_the_stated_background(root: Path) -> None:
    """Oracle: alpha times colour plus the rest times background."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 12, 4), dtype=np.uint8)
    pixels[..., 3] = rng.choice([0, 64, 255], (12, 12))
    path = root / "train" / "ant" / "z.png"
    Image.fromarray(pixels).save(path)
    for background in ((255, 255, 255), (10, 200, 30)):
        options = pictures.PictureOptions(background=background)
        got = pictures.pixels_of(path.read_bytes(), "z", options)[0].astype(float)
        alpha = pixels[..., 3:] / 255
        assert np.abs(got - (alpha * pixels[..., :3] + (1 - alpha) * background)).max() <= 1.0
    loads_with(root, "transparent pixels shown over RGB (255, 255, 255)")
    with pytest.raises(DataError, match="no colour"):
        load(root, background=[1, 2])


def test_a_pipe_an_endless_link_and_a_bomb_among_the_images(root: Path) -> None:
    folder = root / "train" / "ant"
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    loads_with(root, "*.png")  # skipped and said
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png.*(20000x20000|cannot be read)"):
        load(root)


# ---------------------------------------------------------------------------------------------- labels, copies, leaks


def arrays(n: int = 40, m: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), "y_train": np.arange(n) % 4,
        "x_test": rng.integers(0, 256, (m, 8, 8, 3), dtype=np.uint8), "y_test": np.arange(m) % 4,
    }  # fmt: skip


def from_npz(path: Path, **changes: Any) -> DataBundle:
    np.savez(path, **(arrays() | changes))
    return data.load(DataSection(name="npz", root=str(path)))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(40) % 4 + 1, "labels run from 1 to 4, but none is 0"),
        (np.arange(40) % 4 * 2, "but none is 1"),
        (np.where(np.arange(40) == 5, 4294967295, np.arange(40) % 4), "none is 4"),
        (np.full(40, 2**63 - 1), "none is 0"),
    ],
)
def test_classes_without_an_image_are_refused(tmp_path: Path, labels: Any, says: str) -> None:
    begin = time.monotonic()
    with pytest.raises(DataError, match=says):
        from_npz(tmp_path / "d.npz", y_train=labels)
    assert time.monotonic() - begin < 2
    named = from_npz(tmp_path / "d.npz", classes=np.array(list("abcdef")))
    assert len(named.task.names) == 6  # named: a class may have no image


def test_copies_and_leaks_are_found_said_and_counted(tmp_path: Path) -> None:
    plain = data.identity(from_npz(tmp_path / "a.npz"))
    assert (plain.test_distinct, plain.test_in_train, plain.notes) == (12, 0, ())
    base = arrays()
    few = np.repeat(base["x_train"][:5], 100, axis=0)
    found = data.identity(from_npz(tmp_path / "b.npz", x_test=few, y_test=np.arange(500) % 4))
    assert (found.test_n, found.test_distinct, found.test_in_train) == (500, 5, 500)
    assert "the 500 test images are 5 different ones" in found.notes[0]
    assert "500 of 500 test images are training or validation images" in found.notes[1]
    leak = base["x_test"].copy()
    leak[3] = base["x_train"][7]
    assert data.identity(from_npz(tmp_path / "c.npz", x_test=leak)).test_in_train == 1
    DataIdentity.model_validate_json(found.model_dump_json())


def test_min_samples_counts_different_images() -> None:
    from edgesafe.metrics import get
    from edgesafe.records import GateStatus

    fields = dict.fromkeys(readings.Reading.__dataclass_fields__)
    item = readings.Reading(**(fields | {"metric": "accuracy", "info": get("accuracy"), "n": 2000}))  # type: ignore[arg-type]
    assert readings.valid(item, 1000, 1.0) is item
    assert readings.valid(item, 20, 20 / 2000) is item
    problem = readings.valid(item, 21, 20 / 2000)
    assert isinstance(problem, readings.Problem)
    assert problem.status is GateStatus.REFUSED
    assert "20 different images (2,000 with copies)" in problem.reason


# --------------------------------------------------------------------------------------------------------- archives


def with_member(path: Path, content: bytes, name: str = "x_train", **more: Any) -> Path:
    with zipfile.ZipFile(path, "w", **more) as archive:
        for key, value in arrays().items():
            out = io.BytesIO()
            np.save(out, value)
            archive.writestr(f"{key}.npy", content if key == name else out.getvalue())
    return path


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header((60_000, 178, 178, 3)) + b"\0" * 100,  # asks for 5.7 GB
        header((2**62, 8, 8, 3)),
        header((-1, 8, 8, 3)) + b"\0" * 100,
        header((1, 8, 8, 3)),  # nothing behind it
        header((4, 8, 8, 3), "|O") + b"\0" * 800,
        b"\x93NUMPY\x09\x00" + b"\0" * 100,
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': '|u1'}",
        b"",
    ],
)
def test_headers_are_not_believed(tmp_path: Path, content: bytes) -> None:
    path = with_member(tmp_path / "d.npz", content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"damaged|holds no"):
            data.load(DataSection(name="npz", root=str(path)))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_BOMB_BYTES", 1 << 20)
    content = header((4000, 32, 32, 3)) + b"\0" * (4000 * 3072)
    path = with_member(tmp_path / "d.npz", content, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="would unpack to"):
        npz.read_npz(path, ())
    monkeypatch.undo()
    assert len(npz.read_npz(path, ("x_train",))["x_train"]) == 4000
    monkeypatch.setattr(npz, "memory_budget", lambda: 1 << 20)
    with pytest.raises(DataError, match="would unpack to"):
        npz.read_npz(path, ())


def test_damaged_archives_of_every_kind_are_one_line(tmp_path: Path) -> None:
    """Each byte of a small compressed archive in turn: read right, or refused; never anything else."""
    path = with_member(tmp_path / "d.npz", header((4, 8, 8, 3)) + bytes(768), compression=zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            npz.read_npz(path, ("x_train",))
        except DataError:
            refused += 1
    assert refused > 200


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = {"a": rng.random((3, 4)), "f": np.asfortranarray(rng.random((3, 4))), "n": np.array(["x", "yz"]),
               "s": np.float32(3), "e": np.zeros((0, 3)), "b": rng.integers(0, 9, 5).astype(">i8")}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **content)
        found = npz.read_npz(tmp_path / "a.npz", ())
        with np.load(tmp_path / "a.npz") as wanted:
            assert set(found) == set(wanted.files)
            for name in wanted.files:
                assert found[name].dtype == wanted[name].dtype
                assert (found[name] == wanted[name]).all()
