"""docs/ci.md: its steps are in both examples, and they run as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgesafe.recipe import shipped
from edgesafe.recipe.shipped import Kind

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")

RECIPE = """
schema = "edgesafe.recipe/1"
name = "tiny"
[model]
arch = "smallnet"
[data]
name = "digits"
[[compress]]
method = "filter"
ratios = [0.3]
[train]
epochs = 2
lr = 0.05
flip = false
[recover]
bn_images = 200
epochs = 0
[export]
temperature = false
[evaluate]
corruptions = ["brightness"]
severities = [1, 3]
images_per_cell = 100
latency_runs = 64
"""
POLICY = """
schema = "edgesafe.policy/1"
[data]
min_samples = 100
[stats]
on_inconclusive = "warn"
[[gate]]
id = "accuracy-drop"
metric = "accuracy"
max_drop = "100pp"
[[gate]]
id = "mpc-drop"
metric = "mpc"
max_drop = "100pp"
[[gate]]
id = "parity"
metric = "parity.max_abs_logit"
max = 1e-4
"""


def blocks(kind: str) -> list[str]:
    return [part.split("\n```")[0] for part in TEXT.split(f"```{kind}\n")[1:]]


def steps() -> list[str]:
    return [line.strip() for block in blocks("sh") for line in block.splitlines()]


def test_both_examples_hold_the_steps_that_the_tests_run():
    examples = blocks("yaml")
    assert len(examples) == 2
    assert len(steps()) == 3
    for example in examples:
        lines = {line.strip().removeprefix("- ") for line in example.splitlines()}
        assert set(steps()) <= lines


def test_the_examples_are_yaml():
    yaml = pytest.importorskip("yaml", reason="the oracle is not installed")
    github, gitlab = (yaml.safe_load(example) for example in blocks("yaml"))
    assert set(github["jobs"]) == {"compress", "gate"}
    assert {"compress", "gate"} <= set(gitlab)
    for place in (github["env"], gitlab["variables"]):
        assert shipped.find(Kind.RECIPE, place["RECIPE"]).is_file()
        assert shipped.find(Kind.POLICY, place["POLICY"]).is_file()


def _shell(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {"RECIPE": "recipe.toml", "STUDY": "export/tiny", "POLICY": "policy.toml"}
    environment = {**os.environ, **names, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["sh", "-e", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_steps_run_as_plain_shell(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    *nightly, gate = steps()
    done = _shell(nightly, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").is_file()
    done = _shell([gate], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "gate.json").read_text())["exit_code"] == 0
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().get("tests") == "3"  # noqa: S314 - written above
    assert (tmp_path / "metrics.txt").read_text().endswith("# EOF\n")
    assert (tmp_path / "gate.md").read_text().startswith("## ")
    strict = POLICY.replace('max_drop = "100pp"', 'max_drop = "0pp"').replace("1e-4", "0")
    (tmp_path / "policy.toml").write_text(strict, encoding="utf-8")
    done = _shell([gate, "echo not reached"], tmp_path)
    assert done.returncode == 1
    assert "not reached" not in done.stdout
