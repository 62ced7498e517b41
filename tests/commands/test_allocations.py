"""Measured shares of layers and sparse weights after filters, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesafe import cli
from edgesafe.commands import compress
from edgesafe.deploy import sparse
from edgesafe.errors import ExitCode
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.recipe import parsing
from edgesafe.stages import allocating
from edgesafe.stages.train import Trainer
from edgesafe.study.study import Study, read

from .conftest import TINY

QUICK = [*TINY, "evaluate.corruptions=none", "evaluate.latency=false", "recover.epochs=1", "train.epochs=2"]
BLOCKS = (
    "compress=[{method='filter', ratios=[0.4], allocation='sensitivity', round_to=4},"
    " {method='filter', label='both', ratios=[0.5], then_weight=0.6},"
    " {method='filter', label='calm', ratios=[0.5], calibrate=true},"
    " {method='filter', label='plain', ratios=[0.5]},"
    " {method='filter', label='timed', ratios=[0.4], allocation='latency', round_to=8}]"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("allocations") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocating, "_TIMED_RUNS", 64)
        return compress.compress(parsing.load(None, [*QUICK, BLOCKS]), root)


def test_a_layer_that_is_not_there_is_refused_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> None:
        raise AssertionError("trained before the recipe was checked")

    monkeypatch.setattr(Trainer, "baseline", train)
    block = "compress=[{method='filter', ratios=[0.5], layers={cov2=0.3}}]"
    settings = [part for one in (*QUICK, block) for part in ("--set", one)]
    assert cli.run(["compress", "--out", str(tmp_path / "s"), *settings]) == ExitCode.USAGE
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "compress.layers: the network has no layer 'cov2'; did you mean 'conv" in said


@pytest.mark.slow
def test_what_was_measured_is_in_the_record(made: Study) -> None:
    for name, by in (("filter-r0.40-s0", "sensitivity"), ("timed-r0.40-s0", "latency")):
        surgery = made[name].record.surgery
        assert surgery is not None
        assert surgery.allocation is not None
        assert surgery.allocation.by == by
        assert surgery.proof.method == "mask-equivalence"
        curves = {curve.layer: curve for curve in surgery.allocation.layers}
        for curve in curves.values():
            assert curve.probes
            assert by == "latency" or all(0 < probe.saved < 1 for probe in curve.probes)
        narrowed = [layer for layer in surgery.layers if layer.out_after < layer.out_before]
        assert narrowed
        assert {layer.name for layer in narrowed} <= set(curves)
    saved = [
        probe.saved for curve in made["filter-r0.40-s0"].record.surgery.allocation.layers for probe in curve.probes
    ]
    assert all(0 < share < 1 for share in saved)


@pytest.mark.slow
def test_filters_then_weights_ship_a_sparse_file(made: Study) -> None:
    variant = made["both-r0.50-w0.60-s0"]
    surgery = variant.record.surgery
    assert surgery is not None
    assert surgery.zeroed is not None
    assert surgery.macs_after < surgery.macs_before
    assert variant.record.sparsity == pytest.approx(0.6, abs=0.01)  # recovery kept the zeros
    dense, small = (variant.record.artefact(name) for name in ("model.onnx", "model.sparse.onnx"))
    assert dense is not None
    assert small is not None
    assert small.bytes < dense.bytes
    files = [(made.root / variant.entry.id / name).read_bytes() for name in ("model.onnx", "model.sparse.onnx")]
    sparse.assert_folds(files[1])
    images = np.random.default_rng(0).integers(0, 256, (4, *variant.record.input_shape), np.uint8)
    outputs = [OnnxClassifier(f, threads=1, provider="CPUExecutionProvider").logits(images) for f in files]
    assert np.array_equal(*outputs)


@pytest.mark.slow
def test_a_temperature_inside_divides_the_logits(made: Study) -> None:
    """The oracle is the same network without it: logits are divided by one number, which validation images gave."""
    calm, plain = made["calm-r0.50-s0"], made["plain-r0.50-s0"]
    inside, beside = calm.record.calibrated, plain.record.temperature
    assert inside == beside
    assert inside is not None
    assert calm.record.temperature is None
    assert plain.record.calibrated is None
    assert calm.record.artefact("model.calibrated.onnx") is None
    folded = plain.record.artefact("model.calibrated.onnx")
    assert folded is not None
    assert calm.record.artefact("model.onnx").sha256 == folded.sha256
    images = np.random.default_rng(0).integers(0, 256, (8, *calm.record.input_shape), np.uint8)
    files = [(made.root / v.entry.id / "model.onnx").read_bytes() for v in (calm, plain)]
    cool, raw = (OnnxClassifier(f, threads=1, provider="CPUExecutionProvider").logits(images) for f in files)
    assert np.allclose(cool * inside.value, raw, rtol=1e-5, atol=1e-6)
    assert calm.metrics["nll"].estimate == pytest.approx(plain.metrics["nll.calibrated"].estimate, rel=1e-4)
    assert calm.record.parity[0].max_abs_logit < 1e-4


@pytest.mark.slow
def test_the_same_again(made: Study, tmp_path: Path) -> None:
    """By sensitivity digests repeat; times do not, so only what is measured by MACs is compared."""
    again = compress.compress(
        parsing.load(None, [*QUICK, BLOCKS.replace("allocation='latency', ", "")]), tmp_path / "s"
    )
    for name in ("filter-r0.40-s0", "both-r0.50-w0.60-s0"):
        assert made[name].record.artefacts == again[name].record.artefacts
    assert read(tmp_path / "s")["filter-r0.40-s0"].record.surgery == made["filter-r0.40-s0"].record.surgery


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("{method='filter', ratios=[0.5], ranking='layer'}", 'write allocation = "uniform"'),
        ("{method='weight', ratios=[0.5], then_weight=0.5}", "for structured methods"),
        ("{method='filter', ratios=[0.5], steps=3, allocation='sensitivity'}", "takes 1 step"),
    ],
)
def test_bad_blocks_are_one_clear_line(block: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sets = [part for item in (*QUICK, f"compress=[{block}]") for part in ("--set", item)]
    assert cli.run(["compress", "quickstart", *sets, "--out", str(tmp_path / "s")]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
