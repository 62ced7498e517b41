"""Small ONNX classifiers made with onnx.helper (no torch), and synthetic evidence."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.measure.probabilities import cell_from_logits
from edgesafe.records import Evidence, GeneratedCorruptions, Provenance

CLASSES, SIDE = 4, 8


def classifier_bytes(
    *,
    layout: str = "NHWC",
    dtype: str = "uint8",
    outputs: str = "logits",
    batch: int | str = "n",
    bias: float = 0.0,
    mean: float = 0.0,
    std: float = 1.0,
    names: tuple[str, str] = ("image", "logits"),
) -> bytes:
    """A net whose class is the quadrant of the image (2 x 2 blocks) that is brightest, read as (pixel - mean) / std."""
    shape = [batch, SIDE, SIDE, 3] if layout == "NHWC" else [batch, 3, SIDE, SIDE]
    spatial = (1, 2) if layout == "NHWC" else (2, 3)
    weight = np.zeros((SIDE * SIDE, CLASSES), np.float32)
    for k in range(CLASSES):
        block = np.zeros((SIDE, SIDE), np.float32)
        block[4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] = 0.02 if dtype == "uint8" else 0.5
        weight[:, k] = block.ravel()
    channel = ({1, 2, 3} - set(spatial)).pop()
    nodes = [
        helper.make_node("Cast", [names[0]], ["x0"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x0", "axis"], ["x1"], keepdims=0),
        helper.make_node("Reshape", ["x1", "flat"], ["x2"]),
        helper.make_node("Sub", ["x2", "mean"], ["x3"]),
        helper.make_node("Div", ["x3", "std"], ["x4"]),
        helper.make_node("MatMul", ["x4", "w"], ["x5"]),
        helper.make_node("Add", ["x5", "b"], ["x6" if outputs == "probabilities" else names[1]]),
    ]
    if outputs == "probabilities":
        nodes.append(helper.make_node("Softmax", ["x6"], [names[1]], axis=1))
    constants = {
        "axis": np.array([channel], np.int64),
        "flat": np.array([-1, SIDE * SIDE], np.int64),
        "mean": np.float32(mean),
        "std": np.float32(std),
        "w": weight,
        "b": np.full(CLASSES, bias, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "quadrants",
        [helper.make_tensor_value_info(names[0], TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def quadrants(n: int, seed: int = 0, contrast: int = 40) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise images (n, 8, 8, 3) whose label's quadrant is brighter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    images = rng.integers(40, 160, (n, SIDE, SIDE, 3))
    for i, k in enumerate(labels):
        images[i, 4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] += contrast
    return images.astype(np.uint8), labels.astype(np.int64)


CORRUPTIONS = GeneratedCorruptions(
    generator="synthetic", profile="cifar", seed=0, frost="procedural", frost_sha256="sha256:f", data_sha256="sha256:t"
)


def synthetic_evidence(  # a net that is right more often the larger `skill`, and less the higher the severity
    n: int = 400,
    cells: dict[tuple[str, int], NDArray[np.int64]] | None = None,
    *,
    skill: float = 2.0,
    seed: int = 0,
    file: str = "a",
    disagreement: float = 0.3,
) -> Evidence:
    world = np.random.default_rng(99)
    labels = world.integers(0, 5, n)
    base = world.normal(size=(n, 5)) * 1.5
    rng = np.random.default_rng(seed)

    def logits(rows: NDArray[np.int64], worse: float) -> NDArray[np.float32]:
        z = base[rows] + disagreement * rng.normal(size=(len(rows), 5))
        z[np.arange(len(rows)), labels[rows]] += skill - worse
        return z.astype(np.float32)

    everything = np.arange(n)
    clean = logits(everything, 0.0)
    corrupted = {
        key: cell_from_logits(logits(rows, 0.3 * key[1]), labels[rows], rows, *key)
        for key, rows in (cells or {}).items()
    }
    provenance = Provenance(test_sha256="sha256:t", onnx_sha256=file, corruptions=CORRUPTIONS)
    return Evidence(cell_from_logits(clean, labels, everything), clean, provenance, corrupted)
