"""The self-inflating ONNX file: unstructured sparsity that is small on the device, without a decompressor.

All convolution weights of one type (float32, float16, or the int8 behind a DequantizeLinear) become one bit mask (or
one list of gaps, where smaller) and one vector of the values that are not zero. Standard operators rebuild the weights;
onnxruntime runs those once, when it creates the session (constant folding, at every optimisation level but "disable
all"), so latency is that of the dense file and outputs are bit-equal.

Bits: mask (uint8) -> BitShift, BitwiseAnd, Reshape, Slice -> Cast -> CumSum, Mul -> Gather from [0, values].
Gaps: distances (uint8, escapes of 255) -> Cast, CumSum, Sub -> ScatterElements into zeros.
Both: -> Split -> one Reshape per layer. Opset 18 because of BitwiseAnd.

Break-even against the dense file, for N float32 weights of which a share s is zero: bits need N/8 + 4N(1 - s) bytes,
less than 4N once s > 1/32 = 3.1 %; gaps need about 5N(1 - s), less than bits above some 90 %. The operators and the
shapes add a few kB. Zero means the bit pattern of +0.0: a -0.0 is stored as a value, so the weights come back exactly.

NonZero and DequantizeLinear are avoided: onnxruntime does not fold them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.deploy.graph import optimised, parse
from edgesafe.errors import RefusedError, UsageError

__all__ = ["PREFIX", "assert_folds", "inflate"]

PREFIX = "inflate/"  #: of every node and tensor that rebuilds weights
_MIN_OPSET = 18
_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
_ESCAPE = 255  #: the longest gap a uint8 holds; longer ones pass through stored zeros


def inflate(onnx_bytes: bytes) -> bytes:
    """Store the convolution weights of a dense ONNX file sparsely; it rebuilds them itself when loaded.

    The smaller of the two forms is taken. Where few weights are zero, the result is larger than the input: compare.

    Args:
        onnx_bytes: a dense ONNX file of opset 18 or later.

    Returns:
        The bytes of the sparse file, deterministic, checked by `onnx.checker` in full.

    Raises:
        UsageError: not a valid ONNX file, an opset below 18, no convolution weight, or sparse already.
    """
    forms = []
    for build in (_bits, _gaps):
        proto = parse(onnx_bytes)
        nodes: list[onnx.NodeProto] = []
        for kind, weights in _take_weights(proto).items():
            part = _Part("" if kind == TensorProto.FLOAT else f"{TensorProto.DataType.Name(kind).lower()}/")
            flat = np.concatenate([numpy_helper.to_array(w).ravel() for w in weights])
            _scatter(part, weights, build(part, flat))
            proto.graph.initializer.extend(part.initializers)
            nodes += part.nodes
        old = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*nodes, *old])
        forms.append(cast("bytes", proto.SerializeToString(deterministic=True)))
    smallest = min(forms, key=len)  # the first of equals: bits
    onnx.checker.check_model(onnx.ModelProto.FromString(smallest), full_check=True)
    return smallest


def assert_folds(onnx_bytes: bytes) -> None:
    """Require that onnxruntime rebuilds all weights when it creates the session, and none on each run.

    Looks into the graph that onnxruntime optimised at its lowest level (basic); higher levels do all of that as well.

    Raises:
        RefusedError: operators that rebuild weights are left.
        UsageError: not a file that `inflate` made.
    """
    if not any(node.name.startswith(PREFIX) for node in parse(onnx_bytes).graph.node):
        raise UsageError("rebuilds no weights", where="model.sparse.onnx", fix="give a file made by deploy.sparse")
    graph = optimised(onnx_bytes, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC).graph
    left = [node.op_type for node in graph.node if node.name.startswith(PREFIX)]
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # what a weight is converted by (int8, fp16) takes a constant, too
        if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in constants:
            constants.update(node.output)
    left += [node.op_type for node in graph.node if node.op_type == "Conv" and node.input[1] not in constants]
    if left:
        raise RefusedError(
            f"onnxruntime {ort.__version__} leaves {len(left)} operators that rebuild weights on every run "
            f"({', '.join(sorted(set(left)))})",
            where="model.sparse.onnx",
            fix="ship the dense file",
        )


@dataclass
class _Part:
    """The operators and constants that rebuild the weights of one type, under construction.

    Attributes:
        kind: stands in the names of all of them: "" of float32, "int8/".
    """

    kind: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def name(self, name: str) -> str:
        return PREFIX + self.kind + name

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), self.name(name)))
        return self.name(name)

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        full = self.name(name)
        self.nodes.append(helper.make_node(op, inputs, [full], name=full, **attributes))
        return full


def _take_weights(proto: onnx.ModelProto) -> dict[int, list[onnx.TensorProto]]:
    """Remove the convolution weights from the graph and return them by type, in the graph's order."""
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise UsageError(f"has opset {opset}", where="model.onnx", fix=f"export it with opset {_MIN_OPSET} or later")
    graph = proto.graph
    if any(node.name.startswith(PREFIX) for node in graph.node):
        raise UsageError("is sparse already", where="model.onnx", fix="give the dense file")
    used = {node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose")}
    used |= {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] in used}
    fixed = {
        value.name for value in (*graph.input, *graph.output)
    }  # IR 3 lists weights as inputs: they may be replaced
    weights: dict[int, list[onnx.TensorProto]] = {}
    for tensor in graph.initializer:
        if tensor.name in used - fixed and tensor.data_type in _TYPES and numpy_helper.to_array(tensor).size:
            weights.setdefault(tensor.data_type, []).append(tensor)
    if not weights:
        raise UsageError("has no convolution weight", where="model.onnx", fix="ship the dense file")
    for tensor in [tensor for tensors in weights.values() for tensor in tensors]:
        graph.initializer.remove(tensor)
    return weights


def _kept(flat: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are stored: all whose bits are not those of +0."""
    bits: NDArray[np.bool_] = flat.view(f"u{flat.itemsize}") != 0
    return bits


def _bits(part: _Part, flat: NDArray[Any]) -> str:
    """One bit per weight, least significant first."""
    kept = _kept(flat)
    mask = part.constant("mask", np.packbits(kept, bitorder="little").reshape(-1, 1))
    bits = part.node("BitShift", [mask, part.constant("shifts", np.arange(8, dtype=np.uint8)[None])], "shifted",
                     direction="RIGHT")  # fmt: skip
    bits = part.node("BitwiseAnd", [bits, part.constant("one", np.uint8(1))], "bit")
    bits = part.node("Reshape", [bits, part.constant("flat", np.array([-1], np.int64))], "bits")
    if flat.size % 8:
        ends = [part.constant("start", np.array([0], np.int64)), part.constant("end", np.array([flat.size], np.int64))]
        bits = part.node("Slice", [bits, *ends], "exact")
    bits = part.node("Cast", [bits], "integers", to=TensorProto.INT32)
    rank = part.node("CumSum", [bits, part.constant("axis", np.int64(0))], "rank")
    index = part.node("Mul", [rank, bits], "index")  # 0 where the mask is 0: the zero in front of the values
    table = part.node("Concat", [part.constant("zero", np.zeros(1, flat.dtype)), part.constant("values", flat[kept])],
                      "table", axis=0)  # fmt: skip
    return part.node("Gather", [table, index], "weights", axis=0)


def _gaps(part: _Part, flat: NDArray[Any]) -> str:
    """The distance from one stored value to the next, as uint8; a stored zero bridges a longer one."""
    kept = np.flatnonzero(_kept(flat))
    if len(kept) == 0:
        kept = np.zeros(1, np.int64)  # no kernel has to cope with empty lists: store one zero
    distance = np.diff(kept, prepend=-1)
    bridges = (distance - 1) // _ESCAPE  # stored zeros before each value
    where = np.cumsum(bridges + 1) - 1  # row of each value in the stored list
    gaps = np.full(int((bridges + 1).sum()), _ESCAPE, np.uint8)
    gaps[where] = distance - bridges * _ESCAPE
    values = np.zeros(len(gaps), flat.dtype)
    values[where] = flat[kept]
    position = part.node("Cast", [part.constant("gaps", gaps)], "distances", to=TensorProto.INT64)
    position = part.node("CumSum", [position, part.constant("axis", np.int64(0))], "ends")
    position = part.node("Sub", [position, part.constant("one", np.int64(1))], "position")
    zeros = part.node("Expand", [part.constant("zero", np.zeros(1, flat.dtype)),
                                 part.constant("size", np.array([flat.size], np.int64))], "zeros")  # fmt: skip
    return part.node("ScatterElements", [zeros, position, part.constant("values", values)], "weights", axis=0)


def _scatter(part: _Part, weights: list[onnx.TensorProto], flat: str) -> None:
    """Cut the rebuilt vector into the weights, under their own names."""
    sizes = [int(np.prod(w.dims)) for w in weights]
    pieces = [part.name(f"piece{i}") for i in range(len(weights))]
    split = part.constant("sizes", np.array(sizes, np.int64))
    part.nodes.append(helper.make_node("Split", [flat, split], pieces, name=part.name("split"), axis=0))
    shapes: dict[tuple[int, ...], str] = {}  # layers of one shape share the constant
    for i, (weight, piece) in enumerate(zip(weights, pieces, strict=True)):
        dims = tuple(weight.dims)
        if dims not in shapes:
            shapes[dims] = part.constant(f"shape{i}", np.array(dims, np.int64))
        node = helper.make_node("Reshape", [piece, shapes[dims]], [weight.name], name=part.name(f"layer{i}"))
        part.nodes.append(node)
