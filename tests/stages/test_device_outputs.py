"""A device whose outputs differ from the host's: what is refused depends on the task, and whether the file rounds."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.deploy.device import measuring
from edgesafe.errors import ParityError
from edgesafe.files import sha256_bytes
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import DeviceAddress, DeviceRecheck, DeviceReport, Task
from edgesafe.stages import timing
from edgesafe.stages.timing import Timing

BOARD = TargetSection(name="board", ssh=DeviceAddress(host="board.local"))
CLASSES = Task.classes(["a", "b", "c", "d"])
POINTS = Task.keypoints(["nose", "tail"], tolerance_px=2.0, shape=(16, 32))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), dtype=np.uint8)


def file(path: Path, *, quantised: bool) -> Path:
    """Four outputs from the mean colours of an image, rounded to 256 steps if quantised."""
    rng = np.random.default_rng(1)
    constants = {"axes": np.array([1, 2]), "w": (rng.random((3, 4)) / 400.0).astype(np.float32)}
    last = "plain" if quantised else "logits"
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], [last]),
    ]
    if quantised:
        constants |= {"s": np.float32(1 / 100), "z": np.uint8(0)}
        nodes += [
            helper.make_node("QuantizeLinear", ["plain", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes, "colours", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 16, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def answering(model: Path, outputs: NDArray[np.float32]) -> bytes:
    """What the stand-alone script says of a file that puts this out."""
    content = outputs.astype("<f4").tobytes()
    packed = {
        "sha256": sha256_bytes(content), "shape": outputs.shape, "float32": base64.b64encode(content).decode(),
    }  # fmt: skip
    result = {
        "file": "x.onnx", "sha256": sha256_bytes(model.read_bytes()), "p50_ms": 1.0, "p90_ms": 1.0, "min_ms": 1.0,
        "ratio_to_first": 1.0, "open_ms": 1.0, "peak_bytes": None, "before_bytes": None,
        "ms": [[1.0, 1.5] * 16, [1.0, 1.25] * 16], "outputs": packed,
    }  # fmt: skip
    machine = {"cpu": "c", "cores": 1, "machine": "m", "system": "s", "python": "3", "versions": {}}
    return json.dumps({"host": machine, "setting": {}, "results": [result]}).encode()


class Link:
    """A connection to a device on which every step succeeds."""

    where = "board"
    pause_s, attempts = 0.0, 1

    def run(self, words: list[str]) -> None:
        pass


def timed_on(device: pytest.MonkeyPatch, model: Path, task: Task, shift: NDArray[np.float32]) -> DeviceReport:
    """Time a file on a device that adds this to its outputs."""
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    said = answering(model, session.run(None, {"image": IMAGES})[0] + shift)
    device.setattr(measuring, "connected", lambda _: Link())
    device.setattr(measuring, "put", lambda *_: None)
    device.setattr(measuring, "run_script", lambda *_: said)
    report = timing.timed(model, None, IMAGES, Timing(BOARD, 64, task)).device
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("task", "quantised", "limit"),
    [(CLASSES, False, 1e-3), (CLASSES, True, 0.5), (POINTS, False, 1e-3), (POINTS, True, 0.5 * 2.0 / 32.0)],
    ids=["classes", "classes-int8", "keypoints", "keypoints-int8"],
)
def test_a_device_is_refused_beyond_the_task_s_tolerance_and_not_within(
    task: Task, quantised: bool, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = file(tmp_path / "model.onnx", quantised=quantised)
    assert rules_of(task).tolerance(quantised=quantised) == limit  # which bundles state, too
    for share in (0.0, 0.9, -0.9):
        shift = np.zeros((3, 4), np.float32)
        shift[1, 2] = share * limit
        (found,) = timed_on(monkeypatch, model, task, shift).files
        assert found.parity is not None
        assert found.parity.bit_equal == (share == 0.0)
        assert found.parity.max_abs == pytest.approx(abs(share) * limit, abs=1e-6)
    for share in (1.1, -1.1):
        shift[1, 2] = share * limit
        with pytest.raises(ParityError, match=r"outputs of the candidate differ by up to .* more than"):
            timed_on(monkeypatch, model, task, shift)


def test_an_answer_is_another_one_when_the_class_changes_or_a_keypoint_moves_by_the_tolerance() -> None:
    ours = np.array([[0.5, 0.5, 0.25, 0.75]] * 4, np.float32)
    moved = ours.copy()
    moved[1, 0] += 1.9 / 32.0  # x of the first, px
    moved[2, 3] += 1.9 / 16.0  # y of the second
    moved[3, 3] += 2.1 / 16.0
    assert rules_of(POINTS).alike(moved, ours).tolist() == [True, True, True, False]
    assert rules_of(CLASSES).alike(moved, ours).tolist() == [True, True, True, True]
    moved[1, 0] += 0.3
    assert rules_of(CLASSES).alike(moved, ours).tolist() == [True, False, True, True]


def test_reports_of_devices_that_were_stored_earlier_are_read() -> None:
    hashes = {"host_sha256": "sha256:a", "device_sha256": "sha256:b"}
    parity = {"images": 16, "bit_equal": False, "max_abs": 0.25, "answers_equal": 15, **hashes}
    again = {
        "set": "brightness=2", "certified": 16, "falsified": 3, "runs": 83, "differ": [7], "bit_equal": False,
        "max_abs": 0.5, **hashes,
    }  # fmt: skip
    host = {"cpu": "c", "cores": 1, "system": "s", "python": "3", "versions": {}}
    opened = {"sha256": "sha256:c", "open_ms": 1.0, "peak_bytes": 1, "before_bytes": 1, "parity": parity}
    stored = {"target": "board", "host": host, "threads": 1, "provider": "CPU", "files": [opened], "rechecks": [again]}
    read = DeviceReport.model_validate_json(json.dumps(stored))
    assert json.loads(read.model_dump_json()) == stored
    assert read.rechecks == (DeviceRecheck.model_validate(again, strict=False),)
