"""How many weights an ONNX file has, whatever their type and wherever they stand; or that it cannot be told.

Weights are the floating-point constants of a file (initializers, `Constant` nodes, sparse initializers, in branches and
functions too), of any precision, and the integer ones that stand for such: what a quantised operator or
`DequantizeLinear` reads as weight or bias, and what is cast to a floating type. Scales and zero points are not weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgesafe.measure.inference import protos

__all__ = ["Weights", "count"]

_FLOATS = {
    value
    for name, value in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE")) and name != "FLOAT4E2M1"
}
_INTEGERS = {value for name, value in onnx.TensorProto.DataType.items() if name.startswith(("INT", "UINT", "BOOL"))}
#: Inputs of quantised operators: (weights and biases, scales and zero points).
_QUANTISED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "QuantizeLinear": ((), (1, 2)),
    "DequantizeLinear": ((0,), (1, 2)),
    "QLinearConv": ((3, 8), (1, 2, 4, 5, 6, 7)),
    "QLinearMatMul": ((0, 3), (1, 2, 4, 5, 6, 7)),
    "ConvInteger": ((1,), (2, 3)),
    "MatMulInteger": ((0, 1), (2, 3)),
    "QGemm": ((3, 6), (1, 2, 4, 5, 7, 8)),
    "QLinearAdd": ((0, 3), (1, 2, 4, 5, 6, 7)),
    "QLinearMul": ((0, 3), (1, 2, 4, 5, 6, 7)),
    **dict.fromkeys(
        ("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"),
        ((), (1, 2, 3, 4)),
    ),
}
#: Operators whose weights are packed: several in one element.
_PACKED = ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "MatMulFpQ4", "QMoE", "QOrdered")
#: Where an operator reads its kernel; where, the zero point of it.
_CONVOLUTIONS = {"Conv": 1, "ConvTranspose": 1, "QLinearConv": 3, "ConvInteger": 1, "FusedConv": 1, "NhwcConv": 1}
_ZERO_POINTS = {"QLinearConv": 5, "ConvInteger": 3}
_LAYERS: dict[str, tuple[int, ...]] = {name: (place,) for name, place in _CONVOLUTIONS.items()} | {
    "Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "QGemm": (3,),
}  # fmt: skip
_THROUGH = ("DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
_LONGEST = 100  # steps from a layer to its weights: a file with a circle must end, too
_FEW = 8  # numbers in an attribute that are parameters of an operator, not weights
_DAMAGE = (ValueError, TypeError, KeyError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Weights:
    """What a file holds; None where it cannot be told.

    Attributes:
        params: number of weights.
        sparsity: share of zeros among the kernels of its convolutions, a fraction; 0 without convolutions.
    """

    params: int | None
    sparsity: float | None


@dataclass(frozen=True)
class _Constant:
    data_type: int
    size: int  #: elements; of a sparse tensor, zeros included
    tensor: onnx.TensorProto | None  #: None: sparse, or a list of numbers


Constants: TypeAlias = Mapping[str, _Constant]
Makers: TypeAlias = Mapping[str, onnx.NodeProto]


def count(model: onnx.ModelProto) -> Weights:
    """Count the weights of a file that needs no other (`foreign.require_whole`)."""
    nodes = list(protos.nodes(model))
    named = list(_constants(model, nodes))
    constants = dict(named)
    makers = {name: node for node in nodes for name in node.output if node.op_type != "Constant"}
    unclear = len(constants) < len(named)  # two branches with a constant of one name
    if unclear or any(_hides_weights(node) for node in nodes) or _computed(model, nodes, constants, makers):
        return Weights(None, None)
    return Weights(_params(nodes, constants, makers), _sparsity(nodes, constants, makers))


def _constants(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[tuple[str, _Constant]]:
    """Name and values of every constant of the model: initializers, dense or sparse, and `Constant` nodes."""
    for graph in protos.graphs(model):
        for tensor in graph.initializer:
            yield tensor.name, _dense(tensor)
        for sparse in graph.sparse_initializer:
            yield sparse.values.name, _sparse(sparse)
    for node in nodes:
        if node.op_type != "Constant" or not node.output:
            continue
        for item in node.attribute:
            if item.name == "value":
                yield node.output[0], _dense(item.t)
            elif item.name == "sparse_value":
                yield node.output[0], _sparse(item.sparse_tensor)
            elif item.name in {"value_float", "value_floats"}:
                yield node.output[0], _Constant(onnx.TensorProto.FLOAT, max(1, len(item.floats)), None)


def _dense(tensor: onnx.TensorProto) -> _Constant:
    return _Constant(tensor.data_type, math.prod(tensor.dims), tensor)


def _sparse(tensor: onnx.SparseTensorProto) -> _Constant:
    return _Constant(tensor.values.data_type, math.prod(tensor.dims), None)


def _hides_weights(node: onnx.NodeProto) -> bool:
    """Whether a node may hold weights that no constant shows: packed ones, or ones in its attributes."""
    if node.op_type.startswith(_PACKED):
        return True
    if node.op_type in {"Constant", "ConstantOfShape"}:
        return False
    return any(
        item.HasField("t") or item.tensors or item.HasField("sparse_tensor") or len(item.floats) > _FEW
        for item in node.attribute
    )


def _computed(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: Constants, makers: Makers) -> bool:
    """Whether a layer's weights are made from constants by other means than `_THROUGH`: unpacked, scattered."""
    image = {value.name for value in model.graph.input if value.name not in constants}
    functions = {function.name for function in model.functions}
    image |= {name for function in model.functions for name in function.input}
    before = -1
    while before != len(image):
        before = len(image)
        for node in nodes:
            if node.op_type in functions or any(True for _ in protos.inner(node)) or image.intersection(node.input):
                image.update(node.output)
    for node in nodes:
        places = _LAYERS.get(node.op_type, ())
        for name in (node.input[place] for place in places if place < len(node.input)):
            if name not in image and _origin(name, constants, makers) is None:
                return True
    return False


def _origin(name: str, constants: Constants, makers: Makers) -> tuple[str, str] | None:
    """The constant that a tensor is a plain view of, and the zero point between them ("": none); else None."""
    zero = ""
    for _ in range(_LONGEST):
        if name in constants:
            return name, zero
        node = makers.get(name)
        if node is None or node.op_type not in _THROUGH or not node.input:
            return None
        if node.op_type == "DequantizeLinear" and len(node.input) > 2:
            zero = node.input[2]
        name = node.input[0]
    return None


def _params(nodes: Sequence[onnx.NodeProto], constants: Constants, makers: Makers) -> int | None:
    numbers, others = set[str](), set[str]()
    measured = {name for node in nodes if node.op_type == "DynamicQuantizeLinear" for name in node.output[1:2]}
    for node in nodes:
        weights, scales = _QUANTISED.get(node.op_type, ((), ()))
        others |= {node.input[place] for place in scales if place < len(node.input)}
        read = [node.input[place] for place in weights if place < len(node.input)]
        if node.op_type == "Mul" and measured.intersection(node.input):
            others.update(node.input)  # the weights' scale, times the one measured on the image
        if node.op_type == "Cast" and (to := protos.attribute(node, "to")) is not None and to.i in _FLOATS:
            read.append(node.input[0])
        origins = (_origin(name, constants, makers) for name in read)
        numbers |= {origin[0] for origin in origins if origin is not None}
    total = 0
    for name, constant in constants.items():
        if constant.data_type in _FLOATS:
            total += constant.size if name not in others else 0
        elif constant.data_type not in _INTEGERS:
            return None  # complex numbers, strings: what they stand for is not known
        elif name in numbers and name not in others:
            total += constant.size
    return total


def _sparsity(nodes: Sequence[onnx.NodeProto], constants: Constants, makers: Makers) -> float | None:
    zeros, total, seen = 0, 0, set[str]()
    for node in nodes:
        place = _CONVOLUTIONS.get(node.op_type)
        if place is None or place >= len(node.input):
            continue
        origin = _origin(node.input[place], constants, makers)
        if origin is None:
            continue  # a kernel that depends on the image
        name, zero = origin
        if name in seen:
            continue
        seen.add(name)
        zero_place = _ZERO_POINTS.get(node.op_type, -1)
        zero = node.input[zero_place] if 0 <= zero_place < len(node.input) else zero
        kernel, null = constants[name].tensor, constants[zero].tensor if zero in constants else None
        if kernel is None:
            return None
        try:
            values = numpy_helper.to_array(kernel)
            nought: NDArray[Any] = numpy_helper.to_array(null) if null is not None else np.zeros((), values.dtype)
            zeros += int((values == (nought.reshape(-1, *[1] * (values.ndim - 1)) if nought.ndim else nought)).sum())
        except _DAMAGE:
            return None
        total += values.size
    return zeros / total if total else 0.0
