"""Small ONNX files as other people's tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = helper.make_opsetid("", 18)
CLASSES = 4
PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])
LOGITS = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])


def kernel(zeros: int = 0) -> NDArray[np.float32]:
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    weight.ravel()[:zeros] = 0.0
    return weight


def head() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(5, CLASSES)).astype(np.float32)


PARAMS = 5 * 27 + 5 + 5 * CLASSES


def model(nodes: list[Any], initializers: list[Any] = (), functions: list[Any] = (), **more: Any) -> onnx.ModelProto:  # type: ignore[assignment]
    graph = helper.make_graph(nodes, "net", [more.pop("input", PIXELS)], [LOGITS], list(initializers), **more)
    opsets = [OPSET, *([helper.make_opsetid("mine", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def tail(features: str = "f") -> list[Any]:
    return [
        helper.make_node("Relu", [features], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["v"]),
        helper.make_node("MatMul", ["v", "head"], ["logits"]),
    ]


def weights(zeros: int = 0) -> dict[str, NDArray[np.float32]]:
    return {"kernel": kernel(zeros), "bias": np.zeros(5, np.float32) + 0.1, "head": head()}


def plain(zeros: int = 0, middle: list[Any] | None = None, **more: Any) -> onnx.ModelProto:
    """Convolution, ReLU, mean, matrix; `middle` turns "c" into "f"."""
    names = [numpy_helper.from_array(value, name) for name, value in weights(zeros).items()]
    conv = helper.make_node("Conv", ["pixels", "kernel", "bias"], ["f" if middle is None else "c"])
    return model([conv, *(middle or []), *tail()], names + more.pop("extra", []), **more)


def with_constant_nodes() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in weights().items()
    ]
    return model([*nodes, helper.make_node("Conv", ["pixels", "kernel", "bias"], ["f"]), *tail()])


def with_branch() -> onnx.ModelProto:
    """Kernel and bias lie in the branches of an `If`."""

    def branch(name: str) -> onnx.GraphProto:
        rest = [numpy_helper.from_array(v, f"{k}_{name}") for k, v in weights().items() if k != "head"]
        conv = helper.make_node("Conv", ["pixels", f"kernel_{name}", f"bias_{name}"], [f"out_{name}"])
        out = helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, None)
        return helper.make_graph([conv], name, [], [out], rest)

    yes = numpy_helper.from_array(np.array(True), "yes")
    choose = helper.make_node("If", ["yes"], ["f"], then_branch=branch("a"), else_branch=branch("b"))
    return model([choose, *tail()], [yes, numpy_helper.from_array(head(), "head")])


def with_function() -> onnx.ModelProto:
    """Kernel and bias are constants inside a function."""
    inside = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in weights().items()
        if name != "head"
    ]
    inside.append(helper.make_node("Conv", ["x", "kernel", "bias"], ["y"]))
    function = helper.make_function("mine", "Block", ["x"], ["y"], inside, [OPSET])
    call = helper.make_node("Block", ["pixels"], ["f"], domain="mine")
    return model([call, *tail()], [numpy_helper.from_array(head(), "head")], [function])


def with_sparse() -> onnx.ModelProto:
    """The head is a sparse initializer."""
    dense = head()
    where = np.flatnonzero(np.arange(dense.size) % 3 == 0).astype(np.int64)
    values = numpy_helper.from_array(dense.ravel()[where], "head")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(where, "places"), list(dense.shape))
    rest = [numpy_helper.from_array(v, k) for k, v in weights().items() if k != "head"]
    conv = helper.make_node("Conv", ["pixels", "kernel", "bias"], ["f"])
    return model([conv, *tail()], rest, sparse_initializer=[sparse])


def outside(tensor: onnx.TensorProto, folder: Path, location: str = "weights.bin", *, write: bool = True) -> None:
    """Move a tensor's values to the end of a file."""
    values = numpy_helper.to_array(tensor).tobytes()
    file = folder / "weights.bin"
    start = file.stat().st_size if file.exists() else 0
    if write:
        file.write_bytes((file.read_bytes() if start else b"") + values)
    for field in ("raw_data", "float_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(start)), ("length", str(len(values)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def images(n: int = 12, seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
