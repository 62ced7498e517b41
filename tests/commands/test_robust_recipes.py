"""Every recipe of configs/robust, made tiny, from training to the report: what is written there can be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgesafe
from edgesafe import models
from edgesafe.commands import compress
from edgesafe.data import files
from edgesafe.metrics import get
from edgesafe.recipe import parsing, recipe

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "robust").glob("*.toml"))
TINY = [
    "seeds=[0]",
    "train.epochs=1",
    "train.milestones=[]",
    "train.precision=fp32",  # where there is no arithmetic in bf16, too
    "recover.epochs=1",
    "recover.images=48",
    "recover.bn_images=48",
    "recover.milestones=[]",
    "recover.precision=fp32",
    "evaluate.corruptions=['brightness']",
    "evaluate.severities=[3]",
    "evaluate.images_per_cell=12",
    "evaluate.latency=false",
    "certify.sets=['brightness=1']",
    "certify.images=12",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Coloured squares in the place of CIFAR-10's photographs."""
    rng, path = np.random.default_rng(0), tmp_path / "cifar10.npz"
    arrays = {
        f"{kind}_{part}": made
        for part, n in (("train", 120), ("test", 24))
        for kind, made in (("x", squares(rng, n)), ("y", np.arange(n) % 10))
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    monkeypatch.setattr(files, "check_cifar10", lambda *_: None)
    return tmp_path


def squares(rng: np.random.Generator, n: int) -> NDArray[np.uint8]:
    """Images of 4 x 4 squares of a colour each, uint8 (n, 32, 32, 3)."""
    colours: NDArray[np.uint8] = rng.integers(0, 256, (n, 4, 4, 3), np.uint8)
    return colours.repeat(8, axis=1).repeat(8, axis=2)


def tiny(path: Path, root: Path) -> recipe.Recipe:
    """The recipe with little of everything: data, width, epochs, one ratio."""
    given = parsing.load(path)
    asked = [*TINY, f"data.root='{root}'", f"compress={blocks(path)}"]
    if given.data.name == "aircraft":
        asked += ["data.args={size=24, train=120, test=24}", "data.validation=24"]
        asked += ["model.args={width=4, size=24, head='grid'}"]
    else:
        asked += ["data.validation=24"]
        asked += [] if given.model.arch == "resnet20" else ["model.args={width=4}"]
    if given.model.weights is not None:
        torch.save({"state_dict": models.build("resnet20", 10, {}).state_dict()}, root / "weights.th")
        asked += [f"model.weights='{root / 'weights.th'}'"]
    return parsing.load(path, asked)


def blocks(path: Path) -> str:
    """The recipe's own blocks at one ratio, as TOML: method, label, steps and what they change of the recovery."""
    written = []
    for block in parsing.load(path).compress:
        parts = [f"method='{block.method.value}'", "ratios=[0.5]", f"steps={min(block.steps, 2)}", "round_to=1"]
        parts += [f"label='{block.label}'"] if block.label else []
        parts += [f"tune_first={str(block.tune_first).lower()}", "calibration_images=16", "draws=2"]
        if block.recover is not None:
            robust = block.recover.robust
            terms = f"lit={robust.lit}, deviation={robust.deviation}, wasserstein={robust.wasserstein}"
            parts.append(f"recover={{robust={{{terms}}}}}")
        written.append("{" + ", ".join(parts) + "}")
    return "[" + ", ".join(written) + "]"


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs_to_a_report(path: Path, root: Path) -> None:
    wanted = tiny(path, root)
    study = compress.compress(wanted, root / "study")
    assert [study[name].entry.reason for name in study] == [""] * (1 + len(wanted.compress))
    for variant in study.finished():
        assert variant.metrics["certified_accuracy.brightness=1"].n == 12
        assert all(study.record.data.kind in get(metric).tasks for metric in variant.metrics)
    edgesafe.Study(study.root).report(root / "report")
    page = (root / "report" / "index.html").read_text()
    assert all(name in page for name in ("Certificates", "usn"))
