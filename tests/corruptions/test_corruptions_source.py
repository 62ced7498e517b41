"""Sources, the cache, `edgesafe corrupt`'s directories, frost textures and the contact sheet; and attacks on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from corruption_fixtures import picture
from PIL import Image

from edgesafe import corruptions
from edgesafe.corruptions import frost as frost_module
from edgesafe.corruptions import writer
from edgesafe.corruptions.cache import CellCache
from edgesafe.corruptions.files import npy_header, write_atomically
from edgesafe.corruptions.manifest import GENERATOR, Manifest
from edgesafe.corruptions.source import frost_bank, pixel_sha256
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError, NothingEvaluated, StoreError

N = 12
IMAGES = picture(N, 32, 32)
LABELS = (np.arange(N) % 10).astype(np.int64)
SOME = np.array([7, 0, 3])


def published(folder, names=corruptions.NAMES, n=N):
    """A directory like the published CIFAR-10-C."""
    folder.mkdir(exist_ok=True)
    for name in names:
        blocks = [corruptions.corrupt(IMAGES[:n], np.arange(n), name, s) for s in range(1, 6)]
        np.save(folder / f"{name}.npy", np.concatenate(blocks))
    np.save(folder / "labels.npy", np.tile(LABELS[:n], 5).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return published(tmp_path_factory.mktemp("corrupted") / "c")


# ------------------------------------------------------------------------------------------------------- generated


def test_generated_source_is_corrupt():
    source = corruptions.open_source(IMAGES, LABELS, corruptions="all", seed=3)
    assert source.names == corruptions.NAMES
    assert source.identity.generator == GENERATOR
    assert source.identity.profile == "cifar"
    assert source.identity.seed == 3
    assert source.identity.frost == "procedural"
    assert source.identity.data_sha256 == pixel_sha256(IMAGES)
    for name in ("fog", "frost"):
        expected = corruptions.corrupt(IMAGES[SOME], SOME, name, 2, seed=3)
        assert np.array_equal(source.cell(name, 2, SOME), expected)


def test_small_images_carry_a_warning_in_the_identity():
    source = corruptions.open_source(picture(2, 12, 12), np.zeros(2, np.int64), corruptions="all")
    assert "defocus_blur" in source.identity.not_meaningful


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"corruptions": "frog"}, DataError, "frog"),
        ({"corruptions": ["fog", "frog"]}, DataError, "frog"),
        ({"corruptions": []}, NothingEvaluated, "empty"),
        ({"corruptions": "all", "seed": -1}, DataError, "seed"),
        ({"corruptions": "all", "frost_dir": "nowhere"}, DataError, "nowhere"),
        ({"corruptions": "dir:nowhere"}, DataError, "nowhere"),
    ],
)
def test_open_source_refuses(options, error, says):
    with pytest.raises(error, match=says):
        corruptions.open_source(IMAGES, LABELS, **options)


def test_open_source_refuses_other_nonsense():
    with pytest.raises(NothingEvaluated):
        corruptions.open_source(IMAGES[:0], LABELS[:0], corruptions="all")
    with pytest.raises(DataError):
        corruptions.open_source(IMAGES, LABELS[:3], corruptions="all")
    source = corruptions.open_source(IMAGES, LABELS, corruptions=["fog", "fog", "snow"])
    assert source.names == ("fog", "snow")
    for bad in (("frost", 1, SOME), ("fog", 6, SOME), ("fog", 1, np.array([N])), ("fog", 1, np.array([-1]))):
        with pytest.raises(DataError):
            source.cell(*bad)


# ----------------------------------------------------------------------------------------------------------- cache


def test_cache_gives_the_same_and_is_used(tmp_path, monkeypatch):
    plain = corruptions.open_source(IMAGES, LABELS, corruptions=["fog"])
    expected = plain.cell("fog", 4, SOME)
    cached = corruptions.open_source(IMAGES, LABELS, corruptions=["fog"], cache_dir=tmp_path)
    assert np.array_equal(cached.cell("fog", 4, SOME), expected)
    files = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["fog-4.npy", "fog-4.sha256"]
    again = corruptions.open_source(IMAGES, LABELS, corruptions=["fog"], cache_dir=tmp_path)
    monkeypatch.setattr(again, "_make", lambda *_: pytest.fail("made again"))
    assert np.array_equal(again.cell("fog", 4, SOME), expected)


def test_damaged_cache_is_made_again(tmp_path):
    source = corruptions.open_source(IMAGES, LABELS, corruptions=["fog"], cache_dir=tmp_path)
    expected = source.cell("fog", 4, SOME)
    file = next(tmp_path.rglob("fog-4.npy"))
    for damage in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:100], lambda _: b""):
        file.write_bytes(damage(file.read_bytes()))
        again = corruptions.open_source(IMAGES, LABELS, corruptions=["fog"], cache_dir=tmp_path)
        assert np.array_equal(again.cell("fog", 4, SOME), expected)


def test_seeds_and_data_do_not_share_a_cache(tmp_path):
    for options in ({"seed": 0}, {"seed": 1}, {"seed": 0, "data_sha256": "sha256:other"}):
        corruptions.open_source(IMAGES, LABELS, corruptions=["fog"], cache_dir=tmp_path, **options).cell("fog", 1, SOME)
    assert len(list(tmp_path.iterdir())) == 3


def test_unwritable_cache_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="writable"):
        CellCache(tmp_path / "file", corruptions.open_source(IMAGES, LABELS, corruptions="all").identity, IMAGES.shape)


# ------------------------------------------------------------------------------------------------------- directory


def test_directory_is_read_by_severity(directory):
    source = corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{directory}")
    assert source.names == corruptions.NAMES
    assert source.identity.source == "directory"
    assert source.identity.frost == "as published"
    for severity in range(1, 6):
        expected = corruptions.corrupt(IMAGES[SOME], SOME, "snow", severity)
        assert np.array_equal(source.cell("snow", severity, SOME), expected)


def test_directory_may_be_larger_than_the_test_set(directory):
    source = corruptions.open_source(IMAGES[:5], LABELS[:5], corruptions=f"dir:{directory}")
    expected = corruptions.corrupt(IMAGES[:5], np.arange(5), "snow", 4)
    assert np.array_equal(source.cell("snow", 4, np.arange(5)), expected)
    with pytest.raises(DataError):
        source.cell("snow", 4, np.array([5]))


def test_directory_is_memory_mapped(directory):
    source = corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{directory}")
    assert all(isinstance(cells, np.memmap) for cells in source._cells.values())


def _resave(name, change):
    def damage(folder):
        file = folder / name
        np.save(file, change(np.load(file)))

    return damage


def _bytes(name, change):
    def damage(folder):
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return damage


def _one_more(labels):
    labels[N * 3 + 2] += 1
    return labels


DAMAGE = {
    "missing": lambda folder: (folder / "fog.npy").unlink(),
    "truncated": _bytes("fog.npy", lambda b: b[:-1]),
    "empty": _bytes("fog.npy", lambda _: b""),
    "header only": _bytes("fog.npy", lambda _: npy_header((60, 32, 32, 3), np.uint8)),
    "absurd shape": _bytes("fog.npy", lambda _: npy_header((10**9, 10**6, 32, 3), np.uint8) + b"0"),
    "pickle": lambda folder: np.save(folder / "fog.npy", np.array([{"a": 1}], object), allow_pickle=True),
    "dtype": _resave("fog.npy", lambda cells: cells.astype(np.float32)),
    "shape": _resave("fog.npy", lambda cells: cells[:, :, :16]),
    "rows": _resave("fog.npy", lambda cells: cells[:-1]),
    "fewer images": _resave("fog.npy", lambda cells: cells[: 5 * (N - 1)]),
    "more images": _resave("fog.npy", lambda cells: np.concatenate([cells, cells])),
    "no labels": lambda folder: (folder / "labels.npy").unlink(),
    "other labels": _resave("labels.npy", _one_more),
    "float labels": _resave("labels.npy", lambda labels: labels.astype(float)),
    "short labels": _resave("labels.npy", lambda labels: labels[:3]),
    "bad manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "manifest of a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest of another schema": lambda folder: (folder / "manifest.json").write_text('{"schema": "x/9"}'),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_directories_are_refused(tmp_path, directory, what):
    folder = tmp_path / "c"
    folder.mkdir()
    for file in directory.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    DAMAGE[what](folder)
    with pytest.raises(DataError) as error:
        corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{folder}")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


# ----------------------------------------------------------------------------------------------------------- writer


def write(folder, **options):
    options = {"corruptions": ("fog", "contrast"), "seed": 5} | options
    return corruptions.write_directory(IMAGES, LABELS, folder, **options)


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_written_layout_and_manifest(tmp_path):
    told = []
    path = write(tmp_path / "c", progress=lambda *step: told.append(step))
    assert path == tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["schema"] == "edgesafe.corruptions.manifest/1"
    assert (manifest["seed"], manifest["profile"], manifest["frost"]) == (5, "cifar", "procedural")
    assert manifest["complete"] is True
    assert list(manifest["files"]) == ["fog", "contrast"]
    fog, labels = np.load(tmp_path / "c" / "fog.npy"), np.load(tmp_path / "c" / "labels.npy")
    assert fog.shape == (5 * N, 32, 32, 3)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.tile(LABELS, 5))
    for severity in range(1, 6):
        expected = corruptions.corrupt(IMAGES, np.arange(N), "fog", severity, seed=5)
        assert np.array_equal(fog[(severity - 1) * N : severity * N], expected)
    assert told[0] == ("fog", N, 5 * N)
    assert told[-1] == ("contrast", 5 * N, 5 * N)
    source = corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{tmp_path / 'c'}")
    assert source.names == ("fog", "contrast")
    assert source.identity.seed == 5
    assert source.identity.made_by == GENERATOR


def test_some_severities_only(tmp_path):
    write(tmp_path / "c", severities=(2, 4))
    source = corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{tmp_path / 'c'}")
    assert source.severities == (2, 4)
    assert np.array_equal(source.cell("fog", 4, SOME), corruptions.corrupt(IMAGES[SOME], SOME, "fog", 4, seed=5))
    with pytest.raises(DataError, match="severity 3"):
        source.cell("fog", 3, SOME)


def test_interrupted_and_run_again_gives_the_same_bytes(tmp_path, monkeypatch):
    write(tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop_at(name, done):
        def progress(*step):
            if step[:2] == (name, done):
                raise StopError

        return progress

    for name, done in (("fog", N), ("fog", 5 * N), ("contrast", 3 * N)):
        with pytest.raises(StopError):
            write(tmp_path / "parts", progress=stop_at(name, done))
        assert not any(p.suffix == ".part" for p in (tmp_path / "parts").iterdir())
        with pytest.raises(DataError, match="not finished"):
            corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{tmp_path / 'parts'}")
    made = []
    real = writer.corrupt
    monkeypatch.setattr(writer, "corrupt", lambda *a, **k: made.append(a[2]) or real(*a, **k))
    write(tmp_path / "parts")
    assert set(made) == {"contrast"}  # fog was finished and is not made again
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    """kill -9 in the middle leaves no file that looks finished, and the next run tidies up."""
    write(tmp_path / "whole")
    code = (
        "import sys, time, numpy as np; sys.path.insert(0, sys.argv[2]);"
        "from test_corruptions_source import IMAGES, LABELS; from edgesafe import corruptions;"
        "from pathlib import Path;"
        "slow = lambda name, done, total: (print(name, done, flush=True), time.sleep(5 if name == 'contrast' else 0));"
        "corruptions.write_directory(IMAGES, LABELS, Path(sys.argv[1]), corruptions=('fog', 'contrast'), seed=5,"
        " progress=slow)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "parts"), os.path.dirname(__file__)]  # noqa: PTH120
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            line = process.stdout.readline()
            if line.startswith("contrast"):
                break
        process.kill()
    left = {p.name for p in (tmp_path / "parts").iterdir()}
    assert "fog.npy" in left
    assert "contrast.npy" not in left
    write(tmp_path / "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_damaged_file_is_written_again(tmp_path):
    write(tmp_path / "c")
    before = content(tmp_path / "c")
    (tmp_path / "c" / "fog.npy").write_bytes(before["fog.npy"][:-5])
    write(tmp_path / "c")
    assert content(tmp_path / "c") == before


def test_more_corruptions_can_be_added(tmp_path):
    write(tmp_path / "c")
    write(tmp_path / "c", corruptions=("snow",))
    assert list(Manifest.read(tmp_path / "c").files) == ["snow", "fog", "contrast"]


@pytest.mark.parametrize("options", [{"seed": 6}, {"severities": (1,)}, {"profile": "tiny"}])
def test_other_settings_in_the_same_directory_are_refused(tmp_path, options):
    write(tmp_path / "c")
    before = content(tmp_path / "c")
    with pytest.raises(StoreError, match="was written with"):
        write(tmp_path / "c", **options)
    assert content(tmp_path / "c") == before


def test_a_foreign_directory_is_not_overwritten(tmp_path, directory):
    with pytest.raises(StoreError, match="no part of a corrupted test set"):
        write(directory)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    with pytest.raises(StoreError, match=r"holds study\.json, which is no part"):
        write(tmp_path / "study")
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["study.json"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        write(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"corruptions": ()}, NothingEvaluated),
        ({"severities": ()}, NothingEvaluated),
        ({"corruptions": ("frog",)}, DataError),
        ({"severities": (2, 1)}, DataError),
        ({"severities": (1, 1)}, DataError),
        ({"severities": (0,)}, DataError),
        ({"seed": -1}, DataError),
        ({"frost_dir": "nowhere"}, DataError),
    ],
)
def test_writer_refuses(tmp_path, options, error):
    with pytest.raises(error):
        write(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_directory_of_other_images_is_refused(tmp_path):
    write(tmp_path / "c")
    with pytest.raises(DataError, match="other images"):
        corruptions.open_source(255 - IMAGES, LABELS, corruptions=f"dir:{tmp_path / 'c'}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("severities", []),
        ("severities", [2, 1]),
        ("severities", [1, 9]),
        ("severities", ["1"]),
        ("severities", [True, 2]),
        ("images", 0),
        ("images", "12"),
        ("shape", [32, 32]),
        ("files", {"../fog": "x"}),
        ("files", ["fog"]),
        ("complete", 1),
        ("surplus", 1),
        ("seed", None),
    ],
)
def test_damaged_manifests_are_refused(tmp_path, key, value):
    file = write(tmp_path / "c")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(DataError, match=key):
        corruptions.open_source(IMAGES, LABELS, corruptions=f"dir:{tmp_path / 'c'}")
    with pytest.raises(DataError, match=key):
        write(tmp_path / "c")


def test_full_disk_leaves_nothing(tmp_path):
    def pieces():
        yield b"abc"
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        write_atomically(tmp_path / "a.npy", b"head", pieces())
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ frost


def test_procedural_frost_is_the_same_everywhere():
    bank = corruptions.FrostBank.procedural(Profile.CIFAR, 32, 32)
    assert bank.kind == "procedural"
    assert bank.sha256 == "sha256:741e2990af6b7d2713032a97a4349c7ee41462d8d2fe6acfeeca8977e0e70c87"
    assert len(bank.textures) == 5


@pytest.mark.parametrize(("profile", "side"), [(Profile.CIFAR, 8), (Profile.TINY, 64), (Profile.IMAGENET, 130)])
def test_procedural_frost_covers_every_size(profile, side):
    for texture in corruptions.FrostBank.procedural(profile, side, side * 2).textures:
        assert min(texture.shape[:2]) > side * 2
        assert texture.std() > 5


def test_photographs_are_known_by_their_hashes(photographs, tmp_path):
    bank = frost_bank("imagecorruptions", Profile.CIFAR, 32, 32)
    assert bank.kind == "photographs"
    assert np.array_equal(bank.textures[1], bank.textures[2])  # a quirk of the original: one of them twice
    for name in frost_module.PHOTOGRAPHS:
        (tmp_path / name).write_bytes((photographs / name).read_bytes())
    assert corruptions.FrostBank.from_directory(tmp_path, Profile.CIFAR, 32, 32).sha256 == bank.sha256
    with Image.open(tmp_path / "frost1.png") as image:
        image.convert("RGB").rotate(1).save(tmp_path / "frost1.png")
    assert corruptions.FrostBank.from_directory(tmp_path, Profile.CIFAR, 32, 32).kind == "images"


def test_own_pictures_make_frost(tmp_path):
    for i, name in enumerate(("b.png", "a.jpg")):
        Image.fromarray(picture(1, 300, 400)[0] // (i + 1)).save(tmp_path / name)
    source = corruptions.open_source(IMAGES, LABELS, corruptions=["frost"], frost_dir=tmp_path)
    assert source.identity.frost == "images"
    plain = corruptions.open_source(IMAGES, LABELS, corruptions=["frost"])
    assert not np.array_equal(source.cell("frost", 5, SOME), plain.cell("frost", 5, SOME))


def test_unusable_frost_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no PNG or JPEG"):
        frost_bank(tmp_path, Profile.CIFAR, 32, 32)
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="readable picture"):
        frost_bank(tmp_path, Profile.CIFAR, 32, 32)
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="does not cover"):
        frost_bank(tmp_path, Profile.CIFAR, 32, 32)
    monkeypatch.setattr("edgesafe.corruptions.source.installed_photographs", lambda: None)
    with pytest.raises(DataError, match="not installed"):
        frost_bank("imagecorruptions", Profile.CIFAR, 32, 32)


def test_reduction_is_opencvs():
    """By a fifth, linear interpolation without smoothing hits pixel centres: every fifth pixel from the third."""
    image = picture(1, 100, 155)[0]
    assert np.array_equal(frost_module.resize_bilinear(image, 0.2), image[2::5, 2::5])
    assert frost_module.resize_bilinear(image, 1.0) is image
    cv2 = pytest.importorskip("cv2")
    for factor in (0.3, 0.25, 0.7):
        theirs = cv2.resize(image, (0, 0), fx=factor, fy=factor)
        ours = frost_module.resize_bilinear(image, factor)
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1


# ------------------------------------------------------------------------------------------------------------ sheet


def test_contact_sheet(tmp_path):
    sheet = corruptions.contact_sheet(IMAGES[3], seed=2, index=3)
    sheet.save(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape[2] == 3
    tile = corruptions.corrupt(IMAGES[3:4], np.array([3]), "contrast", 5, seed=2)[0]
    row = corruptions.NAMES.index("contrast")
    top, left = 22 + row * 100, 150 + 5 * 100
    assert np.array_equal(pixels[top : top + 96 : 3, left : left + 96 : 3], tile)
    again = corruptions.contact_sheet(IMAGES[3], seed=2, index=3)
    assert sheet.tobytes() == again.tobytes()
    assert corruptions.contact_sheet(IMAGES[0, ..., :1], corruptions=["snow"]).size[0] == 150 + 6 * 100
    with pytest.raises(NothingEvaluated):
        corruptions.contact_sheet(IMAGES[0], corruptions=[])
    with pytest.raises(DataError):
        corruptions.contact_sheet(IMAGES[0].astype(float))
