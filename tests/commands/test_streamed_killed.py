"""An audit of images on disk, killed without a word again and again: it goes on, and ends as if nothing had been."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgesafe import data
from edgesafe.deploy import export
from edgesafe.recipe.sections import DataSection
from edgesafe.study.study import read
from edgesafe.train import augmentation, loop

from .killing import command, kept, killed, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IMAGES = 10_000  # clean images are kept after every 8,192, and cells of more than that one by one


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The quickstart's digits again and again, no two alike, and a network that reads them."""
    folder = tmp_path / "digits"
    folder.mkdir()
    bundle = data.load(DataSection(name="digits"))
    rows = np.arange(IMAGES) % len(bundle.train)
    images = np.asarray(bundle.train.images)[rows]
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(IMAGES) % 256, np.arange(IMAGES) // 256
    np.save(folder / "x_test.npy", images)
    np.save(folder / "y_test.npy", bundle.train.labels[rows])
    np.save(folder / "x_train.npy", bundle.train.images[:400])
    np.save(folder / "y_train.npy", bundle.train.labels[:400])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    plan = augmentation.FitPlan(
        epochs=3, lr=0.05, milestones=(), gamma=0.1, momentum=0.9, weight_decay=0.0, batch_size=16, augment=False,
        flip=False, seed=1,
    )  # fmt: skip
    loop.fit(net, bundle.train, augmentation.Normalisation(bundle.mean, bundle.std), plan)
    onnx = export.export_onnx(net, input_shape=(32, 32, 3), mean=bundle.mean, std=bundle.std)
    (folder / "model.onnx").write_bytes(onnx)
    return folder


def test_a_streamed_audit_killed_again_and_again(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    sets = [
        "data.store='disk'", f"data.cache_dir='{tmp_path / 'cache'}'", "evaluate.latency=false",
        "evaluate.corruptions=['brightness','contrast']", "evaluate.severities=[1,5]", "evaluate.mode='full'",
    ]  # fmt: skip
    words = ["evaluate", str(digits / "model.onnx"), "--data", "npy", "--root", str(digits)]
    words += [word for text in sets for word in ("--set", text)]
    log = tmp_path / "log"
    undisturbed = command([*words, "--out", str(tmp_path / "one")], log)
    assert undisturbed.wait() == 0, log.read_text()
    root, rng, lost, parts = tmp_path / "two", random.Random(16), 0, 0
    for changes in (1, 2, 1, 2, 1, 1):
        before = kept(state(root))
        if not killed(command([*words, "--out", str(root)], log), root, changes + 2, rng.uniform(0, 0.2)):
            break
        lost, parts = lost + 1, max(parts, len(before))
        after = kept(state(root))
        assert {name: after[name] for name in before if name in after} == {n: before[n] for n in before if n in after}
    assert lost > 2
    assert parts > 2, "no run had anything to lose"
    last = command([*words, "--out", str(root)], log)
    assert last.wait() == 0, log.read_text()
    assert read(root).record.digest == read(tmp_path / "one").record.digest
    assert len(read(root).finished()[0].evidence_bytes()) > 0
    assert not (root / ".work").exists()
