"""What people bring to `evaluate`, `bench` and `compress`: measured as what it is, or refused with the reason."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgesafe import cli
from edgesafe.commands import bench, evaluate
from edgesafe.errors import IntegrityError, RefusedError, UsageError
from edgesafe.files import sha256_bytes
from edgesafe.measure.inference import foreign, weights
from edgesafe.records import InputRecord
from edgesafe.study.study import Study

FEW = ("data.test_images=80", "evaluate.corruptions=none", "evaluate.latency=false")


def audit(model: Path, out: Path, *more: str, **request: object) -> Study:
    return evaluate.evaluate(evaluate.AuditRequest(model, None, "digits", overrides=(*FEW, *more), **request), out)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ours(study: Path) -> Path:
    return study / "baseline-s0" / "model.onnx"


def test_a_file_with_its_weights_beside_it_is_measured_as_one(ours: Path, tmp_path: Path) -> None:
    whole = audit(ours, tmp_path / "whole")
    path = tmp_path / "net.onnx"
    onnx.save(onnx.load(ours), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    done = audit(path, tmp_path / "out")
    assert done.record.inputs["candidate-s0"] == sha256_bytes(foreign.read(path))
    assert done["candidate-s0"].measurements.onnx_sha256 == done.record.inputs["candidate-s0"]
    stored = (tmp_path / "out" / "candidate-s0" / "model.onnx").read_bytes()
    assert stored == foreign.read(path)
    for metric in ("accuracy", "nll", "size.params"):
        there, here = (study["candidate-s0"].measurements.metrics[metric].estimate for study in (whole, done))
        assert here == there
    data = bytearray((tmp_path / "net.onnx.data").read_bytes())
    data[-3] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(data)  # the network is another one now, and so is its study
    with pytest.raises(IntegrityError, match="changed since"):
        audit(path, tmp_path / "out")


def test_what_is_stated_belongs_to_the_study(ours: Path, tmp_path: Path) -> None:
    """A second run that states something else never shows the first one's numbers."""
    first = audit(ours, tmp_path / "a")
    expects = first["candidate-s0"].record.input
    assert isinstance(expects, InputRecord)
    assert (expects.layout, expects.dtype, expects.outputs, expects.stated) == ("NHWC", "uint8", "logits", ())
    assert expects.images == 197
    stated = evaluate.stated({"channels": "bgr", "layout": None, "outputs": "logits"}, {})
    with pytest.raises(IntegrityError, match="changed since"):
        audit(ours, tmp_path / "a", statement=stated)
    other = audit(ours, tmp_path / "b", statement=stated)
    assert other["candidate-s0"].record.input.channels == "BGR"  # type: ignore[union-attr]
    assert other["candidate-s0"].record.input.stated == ("channels", "outputs")  # type: ignore[union-attr]


def test_the_command_line_states_and_says_what_it_uses(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for item in FEW for part in ("--set", item)]
    flags = ["--data", "digits", *settings]
    assert cli.run(["evaluate", str(ours), *flags, "--channels", "bgr", "--out", str(tmp_path / "o")]) == 0
    assert "NHWC uint8 BGR, pixels as they are; gives logits" in "".join(capsys.readouterr())
    for wrong in (["--scale", "1"], ["--layout", "nchw"], ["--channels", "yuv"], ["--mean", "0.5"]):
        assert cli.run(["evaluate", str(ours), *flags, *wrong, "--out", str(tmp_path / "p")]) == 4, wrong
    assert cli.run(["evaluate", str(ours), *flags, "--out", str(tmp_path / "o")]) == 3  # states nothing: other numbers


def minus_batch_mean(ours: Path, path: Path) -> Path:
    """The same network, whose logits lose their mean over the batch."""
    net = onnx.load(ours)
    last = next(node for node in net.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "raw"
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes_of_batch")
    net.graph.initializer.append(axes)
    net.graph.node.append(helper.make_node("ReduceMean", ["raw", "axes_of_batch"], ["centre"]))
    net.graph.node.append(helper.make_node("Sub", ["raw", "centre"], ["logits"]))
    onnx.save(net, path)
    return path


def test_a_file_whose_answers_depend_on_the_batch_is_refused(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="logits of an image depend on"):
        audit(minus_batch_mean(ours, tmp_path / "m.onnx"), tmp_path / "o")


def test_compress_refuses_a_network_whose_answers_depend_on_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),\n"
        "        nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(8, num_classes))\n"
    )
    settings = (f"model.arch={tmp_path}/net.py:make", "data.train_images=200", "train.epochs=1", "train.milestones=[]",
                'compress=[{method="weight", ratios=[0.5]}]', *FEW)  # fmt: skip
    arguments = [part for item in settings for part in ("--set", item)]
    assert cli.run(["compress", "--out", str(tmp_path / "o"), *arguments]) == 3
    error = capsys.readouterr().err
    assert "depend" in error or "batch" in error or "differ" in error


def fixed_batch(ours: Path, path: Path, batch: int) -> Path:
    net = onnx.load(ours)
    for value in (*net.graph.input, *net.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del net.graph.value_info[:]
    onnx.save(net, path)
    return path


def test_a_file_of_fixed_batch_size_gives_the_same_numbers_and_says_what_was_timed(ours: Path, tmp_path: Path) -> None:
    eight = fixed_batch(ours, tmp_path / "eight.onnx", 8)
    plain = audit(ours, tmp_path / "a")["candidate-s0"].measurements.metrics
    timed = ("evaluate.latency=true", "evaluate.latency_runs=64")
    done = audit(eight, tmp_path / "b", *timed)
    found = done["candidate-s0"].measurements.metrics
    assert found["accuracy"].estimate == plain["accuracy"].estimate
    assert found["nll"].estimate == pytest.approx(plain["nll"].estimate, abs=1e-6)
    assert "batch 8" in str(found["latency.p50_ms"].population)
    assert done["candidate-s0"].record.input.batch == 8  # type: ignore[union-attr]
    assert "batch 8" in str(bench.bench(eight, None, "host-1t", 64)[0][str(eight)]["latency.p50_ms"].population)
    with pytest.raises(UsageError, match="batch sizes differ"):
        bench.bench(eight, ours, "host-1t", 64)
    million = fixed_batch(ours, tmp_path / "million.onnx", 1_000_000)
    assert cli.run(["bench", str(million), "--runs", "64"]) == 4


def test_weights_that_cannot_be_counted_are_missing(ours: Path, tmp_path: Path) -> None:
    net = onnx.load(ours)
    net.graph.node.append(helper.make_node("Constant", [], ["unused"], value=helper.make_tensor("u", 14, [1], [1j])))
    onnx.save(net, tmp_path / "odd.onnx")
    assert weights.count(onnx.load(tmp_path / "odd.onnx")).params is None
    assert weights.count(onnx.load(ours)).params == audit(ours, tmp_path / "a")["candidate-s0"].record.params
