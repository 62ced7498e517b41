from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bundle_fixtures import POLICY, linear

from edgesafe.commands import bundle as bundles
from edgesafe.commands import evaluate
from edgesafe.study.study import read


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return linear(folder / "small.onnx", ridge=50.0), linear(folder / "base.onnx", ridge=1.0)


@pytest.fixture(scope="session")
def audited(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two linear classifiers; do not change it."""
    request = evaluate.AuditRequest(
        *models, "digits",
        overrides=("data.test_images=200", "evaluate.corruptions=none", "evaluate.latency=false"),
    )  # fmt: skip
    return evaluate.evaluate(request, tmp_path_factory.mktemp("audited") / "study").root


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="session")
def made(audited: Path, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; do not change it."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    bundles.bundle(read(audited), bundles.BundleRequest("candidate-s0", "host-1t", out, policy))
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))
