"""A small finished study to attack, with everything that a study can hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign import POLICY, SETS

from edgesafe import cli


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished study that passes `POLICY`."""
    root = tmp_path_factory.mktemp("attacked") / "study"
    assert cli.run(["compress", "--out", str(root), *(part for item in SETS for part in ("--set", item))]) == 0
    return root


@pytest.fixture
def judged(study: Path, tmp_path: Path) -> Callable[[], int]:
    """Copies the study and judges the copy."""
    (tmp_path / "p.toml").write_text(POLICY, encoding="utf-8")
    shutil.copytree(study, tmp_path / "s")
    return lambda: cli.run(["gate", str(tmp_path / "s"), "--policy", str(tmp_path / "p.toml")])
