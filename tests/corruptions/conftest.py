"""Images and data that several tests of the corruptions use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from corruption_fixtures import picture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 (24, 32, 32, 3)."""
    return picture(24, 32, 32)


def shared_directory() -> Path:
    """Where the golden data lie, or skip."""
    root = Path(os.environ.get("EDGESAFE_SHARED", ROOT.parent / "shared"))
    folder = root / "data"
    if not (folder / "cifar10c_reference.npz").is_file():
        pytest.skip("golden data absent: set EDGESAFE_SHARED to the folder that holds data/cifar10c_reference.npz")
    return folder


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """The reference's output on the first 64 test images."""
    with np.load(shared_directory() / "cifar10c_reference.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files if name != "meta"}
        assert json.loads(str(data["meta"]))["order"][0] == "gaussian_noise"
    return arrays


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The reference's frost photographs, from an installed imagecorruptions."""
    from edgesafe.corruptions import installed_photographs

    found = installed_photographs()
    if found is None:
        pytest.skip("no frost photographs: pip install --no-deps imagecorruptions")
    return found
