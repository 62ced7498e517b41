from __future__ import annotations

import pytest
from deploy_fixtures import MEAN, STD, tiny

from edgesafe.deploy.export import export_onnx


@pytest.fixture(scope="session")
def exported() -> bytes:
    """`tiny()` as an ONNX file for images (12, 10, 3)."""
    return export_onnx(tiny(), input_shape=(12, 10, 3), mean=MEAN, std=STD)
