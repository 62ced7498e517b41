"""A study and an audit of images that stay on disk: the digest, and every byte, of the same images in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgesafe import data
from edgesafe.commands import compress, evaluate
from edgesafe.data.rows import LazyImages
from edgesafe.deploy import export
from edgesafe.measure import evidence
from edgesafe.recipe import parsing
from edgesafe.recipe.sections import DataSection
from edgesafe.stages import observe
from edgesafe.study.host import host
from edgesafe.study.study import Study
from edgesafe.train import augmentation, batchnorm, loop

RECIPE = [
    "name=streamed",
    "train.epochs=2",
    "train.milestones=[]",
    "recover.epochs=1",
    "recover.images=100",
    "recover.bn_images=64",
    "compress=[{method='filter', ratios=[0.5], criterion='taylor'}]",
    "evaluate.corruptions=['fog','gaussian_noise']",
    "evaluate.severities=[1,5]",
    "evaluate.images_per_cell=40",
    "evaluate.batch_size=7",
    "evaluate.latency=false",
    "export.precisions=['fp32','int8']",
    "certify.sets=['brightness=1']",
    "certify.images=10",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's digits as NumPy files."""
    folder = tmp_path_factory.mktemp("digits")
    bundle = data.load(DataSection(name="digits"))
    for name, part in (("train", bundle.train), ("test", bundle.test)):
        np.save(folder / f"x_{name}.npy", part.images[:400])
        np.save(folder / f"y_{name}.npy", part.labels[:400])
    return folder


def study(folder: Path, store: str, out: Path) -> Study:
    overrides = [*RECIPE, "data.name=npy", f"data.root='{folder}'", f"data.cache_dir='{out}-cache'"]
    return compress.compress(parsing.load(None, [*overrides, f"data.store={store}"]), out)


def files(study: Study) -> dict[str, bytes]:
    return {str(path.relative_to(study.root)): path.read_bytes() for path in study.root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_study_of_images_on_disk_is_that_of_images_in_memory(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = LazyImages.__getitem__
    memory = study(digits, "memory", tmp_path / "memory")
    monkeypatch.setattr(LazyImages, "__getitem__", lambda self, rows: read.append(1) or real(self, rows))
    disk = study(digits, "disk", tmp_path / "disk")
    assert len(read) > 100  # the control: it did come from the disk
    assert disk.digest == memory.digest
    here, there = files(memory), files(disk)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_an_audit_of_images_on_disk_is_that_of_images_in_memory(tmp_path: Path, digits: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    bundle = data.load(DataSection(name="npy", root=str(digits), cache_dir=str(tmp_path / "cache")))
    normalise = augmentation.Normalisation(bundle.mean, bundle.std)
    plan = augmentation.FitPlan(
        epochs=3, lr=0.05, milestones=(), gamma=0.1, momentum=0.9, weight_decay=0.0, batch_size=16, augment=False,
        flip=False, seed=1,
    )  # fmt: skip
    loop.fit(net, bundle.train, normalise, plan)
    model = tmp_path / "model.onnx"
    model.write_bytes(export.export_onnx(net, input_shape=(32, 32, 3), mean=bundle.mean, std=bundle.std))
    audits = []
    for store in ("memory", "disk"):
        request = evaluate.AuditRequest(
            model, None, "npy", str(digits),
            overrides=(
                f"data.store={store}", f"data.cache_dir='{tmp_path / 'cache'}'", "evaluate.latency=false",
                "evaluate.corruptions=['snow']", "evaluate.images_per_cell=50",
            ),
        )  # fmt: skip
        audits.append(evaluate.evaluate(request, tmp_path / f"audit-{store}"))
    assert audits[0].digest == audits[1].digest


def test_training_reads_ahead_what_it_would_have_had(digits: Path, tmp_path: Path) -> None:
    """Three epochs, a last batch that is short, statistics and a judgement: the same weights, losses and hits."""
    made = []
    for store in ("memory", "disk"):
        section = DataSection.model_validate(
            {"name": "npy", "root": str(digits), "store": store, "cache_dir": str(tmp_path), "train_images": 77}
        )
        bundle = data.load(section)
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip
        plan = augmentation.FitPlan(
            epochs=3, lr=0.05, milestones=(), gamma=0.1, momentum=0.9, weight_decay=0.0, batch_size=16, augment=True,
            flip=True, seed=1,
        )  # fmt: skip
        normalise = augmentation.Normalisation(bundle.mean, bundle.std)
        losses = loop.fit(net, bundle.train, normalise, plan)
        batchnorm.reestimate_batchnorm(net, bundle.train, normalise, images=70, view=plan, batch_size=32)
        hits = loop.right(net, bundle.validation, normalise)
        made.append((losses, hits.tolist(), [value.tolist() for value in net.state_dict().values()]))
    assert made[0] == made[1]


def test_large_sets_are_kept_in_parts_and_joined_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after three parts: the next run does not run these again, and ends with the bytes of one that was not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    onnx = export.export_onnx(net.eval(), input_shape=(32, 32, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    recipe = parsing.load(None, ["evaluate.corruptions=['fog']", "evaluate.severities=[1,3]", "evaluate.batch_size=7"])
    bundle = data.load(recipe.data.model_copy(update={"test_images": 100}))
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, host())
    classifier = bench.open(onnx)
    ran: list[int] = []
    wanted = evidence.to_bytes(observe.collect(classifier, bench, Parts(99), lambda _: None))
    monkeypatch.setattr(observe, "_KEPT", 30)
    kept = Parts(3)
    with pytest.raises(KeyboardInterrupt):
        observe.collect(classifier, bench, kept, lambda _: None)
    assert sorted(kept.parts) == ["clean-0", "clean-28", "clean-56"]
    kept.left, real = 99, type(classifier).logits
    monkeypatch.setattr(type(classifier), "logits", lambda self, x, size: ran.append(len(x)) or real(self, x, size))
    assert evidence.to_bytes(observe.collect(classifier, bench, kept, lambda _: None)) == wanted
    assert sum(ran) == 16 + 1 + 100 + 100
    assert {"cells-fog-1", "cells-fog-3", "cells-fog"} <= kept.parts.keys()


def test_evidence_has_the_same_bytes_on_any_number_of_cores() -> None:
    """Of a real file, all corruptions and a batch that does not divide the cells."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    onnx = export.export_onnx(net.eval(), input_shape=(32, 32, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    recipe = parsing.load(None, ["evaluate.severities=[1,5]", "evaluate.batch_size=7", "evaluate.images_per_cell=60"])
    bundle = data.load(recipe.data.model_copy(update={"test_images": 150}))
    made = []
    for cores in (1, 2, 3, 16):
        bench = replace(observe.prepare(bundle, recipe.evaluate, recipe.target, host()), threads=cores)
        made.append(evidence.to_bytes(observe.collect(bench.open(onnx), bench, Parts(99), lambda _: None)))
    assert made[1:] == made[:1] * 3


class Parts:
    """Keeps so many parts in memory; then the run is killed."""

    def __init__(self, left: int) -> None:
        self.parts: dict[str, bytes] = {}
        self.left = left

    def get(self, name: str) -> bytes | None:
        return self.parts.get(name)

    def put(self, name: str, content: bytes) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.parts[name] = content
