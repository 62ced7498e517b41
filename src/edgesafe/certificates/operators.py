"""Operators of an ONNX graph at the points of a line: affine ones are applied, piecewise-linear ones split it first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.errors import RefusedError

__all__ = ["Network", "Splitter"]

Values = NDArray[Any]


class Splitter(Protocol):
    """What the operators need of a walk along a line (`line.Walk`)."""

    tensors: dict[str, Values]

    def split(self, values: Values) -> None:
        """Make the zeros of some values points of the line."""


class Network:
    """An ONNX file of ours as a list of operators.

    Args:
        content: the file.
        precise: float64 throughout, slowly; else float32, convolutions under onnxruntime.

    Raises:
        RefusedError: an operator that is not piecewise linear, or not known here; its node is named.
    """

    def __init__(self, content: bytes, *, precise: bool = False) -> None:
        graph = onnx.load_from_string(content).graph
        self.dtype = np.float64 if precise else np.float32
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.input = next(i.name for i in graph.input if i.name not in self.constants)
        self.output = graph.output[0].name
        for node in self.nodes:
            if node.op_type not in _OPERATORS:
                raise _refused(node, "is not one of the operators that are exact along a line")
        self._last = {name: k for k, node in enumerate(self.nodes) for name in node.input}
        self._sessions = {} if precise else {n.output[0]: self._session(n) for n in self.nodes if n.op_type == "Conv"}

    def _session(self, node: onnx.NodeProto) -> ort.InferenceSession:
        """An onnxruntime session on one thread that computes one convolution of the network and nothing else."""
        give, take = (
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (node.input[0], node.output[0])
        )
        weights = [numpy_helper.from_array(self.constants[n].astype(np.float32), n) for n in node.input[1:] if n]
        graph = helper.make_graph([node], "convolution", [give], [take], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, walk: Splitter, pixels: NDArray[np.float64]) -> Values:
        """Logits (points, K) at the points of a walk, which grow on the way.

        Args:
            walk: at the same points as `pixels`.
            pixels: (points, H, W, C) before they are clipped to 0..255.
        """
        walk.tensors = {self.input: pixels.astype(self.dtype)}
        walk.tensors[self.input] = _clipped(walk, self.input, 0.0, 255.0)
        for k, node in enumerate(self.nodes):
            walk.tensors[node.output[0]] = _OPERATORS[node.op_type](_Step(self, walk, node))
            for name in set(node.input):
                if self._last[name] == k and name in walk.tensors:
                    del walk.tensors[name]
        return walk.tensors[self.output]


class _Step:
    """One operator at work: its inputs, constants and attributes."""

    def __init__(self, network: Network, walk: Splitter, node: onnx.NodeProto) -> None:
        self.network, self.walk, self.node = network, walk, node
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def name(self, k: int) -> str:
        """Name of input k; "" if it is left out."""
        return str(self.node.input[k]) if k < len(self.node.input) else ""

    def signal(self, k: int = 0) -> Values:
        """Input k, which depends on the image.

        Raises:
            RefusedError: it is a constant.
        """
        if self.name(k) not in self.walk.tensors:
            raise _refused(self.node, "takes a constant where a signal is known here")
        return self.walk.tensors[self.name(k)]

    def any(self, k: int) -> Values:
        """Input k of the operator, whether it depends on the image or is a constant."""
        return self.walk.tensors[self.name(k)] if self.name(k) in self.walk.tensors else self.constant(k)

    def constant(self, k: int) -> Values:
        """Input k, which must not depend on the image.

        Raises:
            RefusedError: it does.
        """
        if self.name(k) not in self.network.constants:
            raise _refused(self.node, "multiplies or divides two signals")
        value = self.network.constants[self.name(k)]
        return value.astype(self.network.dtype) if value.dtype.kind == "f" else value

    def integers(self, k: int) -> list[int]:
        """Constant input k, flattened, as whole numbers."""
        return [int(v) for v in self.constant(k).ravel()]


def _refused(node: onnx.NodeProto, why: str) -> RefusedError:
    where = f"node '{node.name or node.output[0]}'"
    return RefusedError(f"{node.op_type} {why}", where=where, fix='certify with engine = "enumeration"')


def _clipped(walk: Splitter, name: str, low: float | None, high: float | None) -> Values:
    for bound in (low, high):
        if bound is not None:
            walk.split(walk.tensors[name] - walk.tensors[name].dtype.type(bound))
    clipped: Values = np.clip(walk.tensors[name], low, high)
    return clipped


# ------------------------------------------------------------------------------------------------ piecewise linear


def _relu(s: _Step) -> Values:
    s.walk.split(s.signal())
    return np.maximum(s.signal(), 0)


def _leaky_relu(s: _Step) -> Values:
    s.walk.split(s.signal())
    z = s.signal()
    return np.where(z > 0, z, z * z.dtype.type(s.attributes.get("alpha", 0.01)))


def _clip(s: _Step) -> Values:
    s.signal()
    low, high = (float(s.constant(k)) if s.name(k) else None for k in (1, 2))
    return _clipped(s.walk, s.name(0), low, high)


def _max_pool(s: _Step) -> Values:
    """A running maximum over the places of the window: kinks where two of them are equal."""
    if s.attributes.get("ceil_mode") or s.attributes.get("dilations", [1, 1]) != [1, 1]:
        raise _refused(s.node, "with ceil_mode or dilations")
    tensors, height = s.walk.tensors, s.attributes["kernel_shape"][0]
    for k in range(height * s.attributes["kernel_shape"][1]):
        i, j = divmod(k, s.attributes["kernel_shape"][1])
        tensors["#place"] = np.ascontiguousarray(_windows(s, -1e30)[..., i, j])
        if k == 0:
            tensors["#most"] = tensors["#place"]
            continue
        s.walk.split(tensors["#most"] - tensors["#place"])
        tensors["#most"] = np.maximum(tensors["#most"], tensors["#place"])
    del tensors["#place"]
    return tensors.pop("#most")


# ---------------------------------------------------------------------------------------------------------- affine


def _windows(s: _Step, padding: float, kernel: list[int] | None = None) -> Values:
    """(points, C, H', W', kh, kw) of a signal (points, C, H, W)."""
    z, pads = s.signal(), s.attributes.get("pads", [0, 0, 0, 0])
    if s.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise _refused(s.node, "with auto_pad")
    if any(pads):
        sides = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
        z = np.pad(z, sides, constant_values=padding)
    steps = s.attributes.get("strides", [1, 1])
    size = tuple(kernel or s.attributes["kernel_shape"])
    return np.lib.stride_tricks.sliding_window_view(z, size, (2, 3))[:, :, :: steps[0], :: steps[1]]


def _convolution(s: _Step) -> Values:
    session = s.network._sessions.get(s.node.output[0])
    if session is not None:
        return np.asarray(session.run(None, {s.name(0): np.ascontiguousarray(s.signal(), np.float32)})[0])
    weight, groups = s.constant(1), int(s.attributes.get("group", 1))
    if s.attributes.get("dilations", [1, 1]) != [1, 1]:
        raise _refused(s.node, "with dilations")
    windows = _windows(s, 0.0, list(weight.shape[2:]))
    parts = np.split(windows, groups, axis=1), np.split(weight, groups)
    out = np.concatenate(
        [np.einsum("pchwij,ocij->pohw", x, w, optimize=True) for x, w in zip(*parts, strict=True)], axis=1
    )
    return out + s.constant(2)[:, None, None] if s.name(2) else out


def _average_pool(s: _Step) -> Values:
    if any(s.attributes.get("pads", [0])) or s.attributes.get("ceil_mode"):
        raise _refused(s.node, "with padding or ceil_mode")
    made: Values = _windows(s, 0.0).mean((4, 5))
    return made


def _gemm(s: _Step) -> Values:
    if s.attributes.get("transA") or s.attributes.get("alpha", 1.0) != 1.0 or s.attributes.get("beta", 1.0) != 1.0:
        raise _refused(s.node, "with transA, alpha or beta")
    weight = s.constant(1)
    out: Values = s.signal() @ (weight.T if s.attributes.get("transB") else weight)
    return out + s.constant(2) if s.name(2) else out


def _batch_norm(s: _Step) -> Values:
    scale, shift, mean, variance = (s.constant(k) for k in range(1, 5))
    factor = scale / np.sqrt(variance + s.attributes.get("epsilon", 1e-5))
    out: Values = s.signal() * factor[:, None, None] + (shift - mean * factor)[:, None, None]
    return out


def _product(s: _Step) -> Values:
    return s.signal(0) * s.constant(1) if s.name(0) in s.walk.tensors else s.constant(0) * s.signal(1)


def _reshape(s: _Step) -> Values:
    z = s.signal()
    return z.reshape(len(z), *[d or z.shape[k] for k, d in enumerate(s.integers(1)) if k > 0])


def _reduce_mean(s: _Step) -> Values:
    axes = tuple(s.integers(1)) if s.name(1) else tuple(s.attributes["axes"])
    mean: Values = s.signal().mean(axes, keepdims=bool(s.attributes.get("keepdims", 1)))
    return mean


def _flatten(s: _Step) -> Values:
    flat: Values = s.signal().reshape(len(s.signal()), -1)
    return flat


def _slice(s: _Step) -> Values:
    z, starts, stops = s.signal(), s.integers(1), s.integers(2)
    axes = s.integers(3) if s.name(3) else list(range(len(starts)))
    steps = s.integers(4) if s.name(4) else [1] * len(starts)
    parts = [slice(None)] * z.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        parts[axis] = slice(start, stop, step)
    return z[tuple(parts)]


def _pad(s: _Step) -> Values:
    z, pads = s.signal(), s.integers(1)
    if s.attributes.get("mode", b"constant") != b"constant" or (s.name(2) and float(s.constant(2)) != 0.0):
        raise _refused(s.node, "with anything but zeros")
    return np.pad(z, [(pads[k], pads[k + z.ndim]) for k in range(z.ndim)])


_OPERATORS: dict[str, Callable[[_Step], Values]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "MaxPool": _max_pool,
    "Conv": _convolution,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda s: s.signal().mean((2, 3), keepdims=True),
    "ReduceMean": _reduce_mean,
    "Gemm": _gemm,
    "MatMul": lambda s: s.signal() @ s.constant(1),
    "BatchNormalization": _batch_norm,
    "Add": lambda s: s.any(0) + s.any(1),
    "Sub": lambda s: s.any(0) - s.any(1),
    "Mul": _product,
    "Div": lambda s: s.signal() / s.constant(1),
    "Transpose": lambda s: s.signal().transpose(s.attributes["perm"]),
    "Cast": lambda s: s.signal(),
    "Identity": lambda s: s.signal(),
    "Dropout": lambda s: s.signal(),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Concat": lambda s: np.concatenate([s.signal(k) for k in range(len(s.node.input))], s.attributes["axis"]),
    "Slice": _slice,
    "Pad": _pad,
}
