"""Auditing any ONNX classifier: found out what it expects, measured as our own, wrong statements refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgesafe
from edgesafe import cli
from edgesafe.commands import bench, evaluate
from edgesafe.data import sets
from edgesafe.errors import EdgesafeError, RefusedError, UsageError
from edgesafe.recipe import recipe
from edgesafe.study.study import read as open_study

FEW = ("data.test_images=80", "evaluate.images_per_cell=10", "evaluate.latency_runs=64", 'evaluate.corruptions=["fog"]')


class Foreign(nn.Module):
    """Probabilities of a network, as somebody else exports them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.net(x), 1)


@pytest.fixture(scope="module")
def foreign(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    net = Foreign(edgesafe.load(study / "baseline-s0")).eval()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        net, (torch.randn(2, 3, 32, 32),), path, dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=({0: batch},),
    )  # fmt: skip
    return path


def test_a_foreign_file_gives_the_numbers_of_our_own(
    study: Path, foreign: Path, tiny: recipe.Recipe, tmp_path: Path
) -> None:
    bundle = sets.load(tiny.data)  # its mean and deviation are those of the images it trained on
    ours_file = study / "baseline-s0" / "model.onnx"
    request = evaluate.AuditRequest(
        foreign, ours_file, "digits", overrides=FEW, statement=evaluate.Statement(mean=bundle.mean, std=bundle.std)
    )
    done = evaluate.evaluate(request, tmp_path / "audit")
    ours, theirs = (done[v].measurements.metrics for v in ("baseline-s0", "candidate-s0"))
    for metric in ("accuracy", "mpc", "nll", "ece_em10_top1"):
        assert theirs[metric].estimate == pytest.approx(ours[metric].estimate, abs=1e-5)
    assert done["candidate-s0"].measurements.differences["accuracy"].estimate == 0.0
    assert "latency.ratio" in theirs
    again = open_study(tmp_path / "audit")
    assert again.record.digest == evaluate.evaluate(request, tmp_path / "audit").record.digest
    assert cli.run(["report", str(tmp_path / "audit"), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_wrong_statements_are_caught(foreign: Path, tmp_path: Path) -> None:
    for words, numbers, says in (
        ({}, {"mean": (9.0,) * 3, "std": (0.001,) * 3}, "guessing"),
        ({}, {"mean": (0.5,), "std": (0.5,)}, "1 means for 3"),
        ({"layout": "nhwc"}, {}, "nchw"),
        ({"outputs": "logits"}, {}, "probabilities"),
    ):
        request = evaluate.AuditRequest(
            foreign, None, "digits", overrides=FEW, statement=evaluate.stated(words, numbers)
        )
        with pytest.raises(EdgesafeError, match=says):
            evaluate.evaluate(request, tmp_path / "a")
    for words, numbers, says in (
        ({}, {"mean": (0.5,)}, "state both"),
        ({"layout": "hwc"}, {}, "did you mean 'nhwc'"),
        ({"channels": "grb"}, {}, "did you mean 'rgb'"),
    ):
        with pytest.raises(UsageError, match=says):
            evaluate.stated(words, numbers)


def test_a_classifier_of_other_classes_and_one_that_guesses(study: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(600) % 10
    np.savez(tmp_path / "d.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    model = study / "baseline-s0" / "model.onnx"
    settings = ("evaluate.corruptions=none", "data.validation=300")
    request = evaluate.AuditRequest(model, None, "npz", str(tmp_path / "d.npz"), overrides=settings)
    with pytest.raises(RefusedError, match="no better than guessing"):  # labels that have nothing to do with the pixels
        evaluate.evaluate(request, tmp_path / "a")


def test_files_that_cannot_be_audited(study: Path, tmp_path: Path) -> None:
    junk, outside = tmp_path / "junk.onnx", tmp_path / "outside.onnx"
    junk.write_bytes(b"\xff" * 100)
    beside = onnx.load(study / "baseline-s0" / "model.onnx")
    onnx.save(beside, outside, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").rename(tmp_path / "elsewhere")
    for path, says in ((junk, "not an ONNX file"), (outside, "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(EdgesafeError, match=says):
            evaluate.evaluate(evaluate.AuditRequest(path, None, "digits", overrides=FEW), tmp_path / "a")
        with pytest.raises(EdgesafeError, match=says):
            bench.bench(path, None, "host-1t", 64)


def test_bench_times_two_files_in_turn(study: Path, foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = study / "filter-r0.50-s0" / "model.onnx"
    found, _ = bench.bench(foreign, ours, "host-1t", 64)
    assert "latency.ratio" in found[str(foreign)]
    assert found[str(ours)]["latency.p50_ms"].estimate > 0
    assert cli.run(["bench", str(ours), "--runs", "64"]) == 0
    assert "median" in capsys.readouterr().out


def test_corrupt_writes_the_layout_and_evaluates_from_it(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    arguments = ["corrupt", "digits", "--out", str(out), "--images", "80", "--corruption", "fog", "--severity", "1"]
    assert cli.run([*arguments, "--severity", "5", "--sheet", str(tmp_path / "s.png")]) == 0
    assert np.load(out / "fog.npy").shape == (160, 32, 32, 3)
    assert (tmp_path / "s.png").stat().st_size > 1000
    model = study / "baseline-s0" / "model.onnx"
    sets = ("data.test_images=80", "evaluate.severities=[1,5]", "evaluate.latency=false")
    stored = (*sets, f"evaluate.corruptions=dir:{out}")
    made = (*sets, 'evaluate.corruptions=["fog"]')
    values = [
        evaluate.evaluate(evaluate.AuditRequest(model, None, "digits", overrides=o), tmp_path / n)["candidate-s0"]
        .metrics["mpc"]
        .estimate
        for n, o in (("stored", stored), ("made", made))
    ]
    assert values[0] == values[1]
