"""The same recipe from two directories, by two copies of the package in two processes: the same bytes and digest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgesafe.files import sha256_file
from edgesafe.study.writer import REPRODUCIBLE

ROOT = Path(__file__).parents[2]
RECIPE = """schema = "edgesafe.recipe/1"
name = "places"
[model]
arch = "smallnet"
[data]
name = "digits"
train_images = 200
test_images = 60
[train]
epochs = 1
milestones = []
[recover]
epochs = 1
images = 64
bn_images = 64
milestones = []
[[compress]]
method = "weight"
ratios = [0.8]
[[compress]]
method = "filter"
ratios = [0.5]
[export]
precisions = ["fp32", "int8"]
[evaluate]
corruptions = ["fog"]
severities = [3]
latency = false
[certify]
sets = ["brightness=1"]
images = 8
"""


def made(place: Path, seed: str, recipe: str = RECIPE) -> Path:
    """The study that a copy of the package in that directory makes, run from there."""
    place.mkdir(parents=True)
    for folder in ("src", "configs"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (place / "recipe.toml").write_text(recipe)
    words = [sys.executable, "-m", "edgesafe.cli", "compress", "recipe.toml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=place, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    return place / "out"


def hashes(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.name in REPRODUCIBLE]
    digest = json.loads((root / "study.json").read_text(encoding="utf-8"))["digest"]
    return {str(path.relative_to(root)): sha256_file(path) for path in files} | {"": digest}


@pytest.mark.slow
def test_the_same_recipe_from_two_directories_gives_the_same_bytes(tmp_path: Path) -> None:
    one = hashes(made(tmp_path / "a", "1"))
    two = hashes(made(tmp_path / "a much longer name of a directory" / "below", "2"))
    assert {
        "baseline-s0/model.onnx",
        "weight-r0.80-int8-s0/model.sparse.onnx",
        "filter-r0.50-int8-s0/evidence.npz",
    } <= set(one)
    assert one == two
    other = hashes(made(tmp_path / "b", "1", RECIPE.replace("epochs = 1", "epochs = 2", 1)))  # the control
    assert set(other) == set(one)
    assert all(other[name] != one[name] for name in ("", "baseline-s0/model.onnx", "filter-r0.50-s0/evidence.npz"))
