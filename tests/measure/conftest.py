"""The golden data and a small file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from measure_fixtures import classifier_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = Path(os.environ.get("EDGESAFE_SHARED", str(ROOT.parent / "shared"))) / "data"
    if not (path / "ece_cases.npz").is_file():
        pytest.skip("no golden calibration cases: set EDGESAFE_SHARED")
    return path


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    return classifier_bytes()
