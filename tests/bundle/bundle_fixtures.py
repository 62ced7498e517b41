"""Two small classifiers of the digits without torch, and an audited study of them: a second of work."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesafe.data import sets
from edgesafe.deploy.bundle import layout
from edgesafe.files import sha256_bytes
from edgesafe.recipe.sections import DataSection

POLICY = """schema = "edgesafe.policy/1"
[data]
min_samples = 10
[[gate]]
id = "accuracy"
metric = "accuracy"
min = "50%"
"""


def linear(path: Path, *, ridge: float, float_input: bool = False) -> Path:
    """A linear classifier of 8x8 pixels of the digits, by least squares; uint8 NHWC as edgesafe's, or float NCHW."""
    data = sets.load(DataSection(name="digits"))
    pixels = data.train.images[:, 2::4, 2::4, 0].reshape(len(data.train), 64).astype(np.float64) / 255.0
    with_one = np.hstack([pixels, np.ones((len(pixels), 1))])
    target = 8.0 * np.eye(10)[data.train.labels]
    weights = np.linalg.solve(with_one.T @ with_one + ridge * np.eye(65), with_one.T @ target)
    axes = [2, 3, 1] if float_input else [1, 2, 3]
    kind, shape = (TensorProto.FLOAT, ["n", 3, 32, 32]) if float_input else (TensorProto.UINT8, ["n", 32, 32, 3])
    scale = 1.0 if float_input else 1.0 / 255.0
    constants = {
        "starts": np.array([2, 2, 0]), "ends": np.array([32, 32, 1]), "axes": np.array(axes),
        "steps": np.array([4, 4, 1]), "flat": np.array([0, 64]),
        "w": (weights[:64] * scale).astype(np.float32), "b": weights[64].astype(np.float32),
    }  # fmt: skip
    image, logits = ("pixels", "scores") if float_input else ("image", "logits")
    nodes = [
        helper.make_node("Slice", [image, "starts", "ends", "axes", "steps"], ["cut"]),
        helper.make_node("Reshape", ["cut", "flat"], ["row"]),
        helper.make_node("Cast", ["row"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "w", "b"], [logits]),
    ]
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info(image, kind, shape)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def rehashed(bundle: Path, *, drop: str | None = None) -> None:
    """Make the manifest say the hashes of what lies there now, as somebody would who can write every file."""
    path = bundle / layout.MANIFEST
    plain = json.loads(path.read_text())
    plain["files"] = [file for file in plain["files"] if file["path"] != drop]
    for file in plain["files"]:
        content = (bundle / file["path"]).read_bytes()
        file["sha256"], file["bytes"] = sha256_bytes(content), len(content)
    path.write_text(json.dumps(plain))


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON file's value in place."""
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def rezipped(source: Path, target: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    """A copy of an archive with more in it."""
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        change(archive)
    return target
