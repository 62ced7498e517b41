"""An ONNX file as a tree: every node and every tensor of it, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError

from edgesafe.errors import UsageError

__all__ = ["attribute", "external", "graphs", "inner", "nodes", "parse", "tensors"]

_AGAIN = "export it again"


def parse(content: bytes, where: str) -> onnx.ModelProto:
    """The tree of a file that has a graph, an input, an output and names that can be printed.

    Raises:
        UsageError: it is not ONNX, or lacks one of these.
    """
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        raise UsageError("not an ONNX file", where=where, fix="give an ONNX file") from None
    if not model.graph.node:
        raise UsageError("not an ONNX file, or one without a graph", where=where, fix="give an ONNX file")
    if not model.graph.input or not model.graph.output:
        raise UsageError("a graph without input or output", where=where, fix=_AGAIN)
    if not all(isinstance(name, str) for name in _names(model)):  # protobuf gives bytes for what is not UTF-8
        raise UsageError("a name that is not UTF-8", where=where, fix=_AGAIN)
    return model


def _names(model: onnx.ModelProto) -> Iterator[object]:
    for node in nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)
    for tensor in tensors(model):
        yield from (tensor.name, *(text for entry in tensor.external_data for text in (entry.key, entry.value)))
    for graph in graphs(model):
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    for function in model.functions:
        yield from (function.name, *function.input, *function.output)


def _outermost(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for training in model.training_info:
        yield from (training.initialization, training.algorithm)


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of branches and loops in it, of functions."""
    waiting = [node for graph in _outermost(model) for node in graph.node]
    waiting += [node for function in model.functions for node in function.node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for graph in inner(node) for inner in graph.node]


def graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Every graph: the file's own, those of training, branches and loops."""
    return [*_outermost(model), *(graph for node in nodes(model) for graph in inner(node))]


def inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the body that a node holds."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: initializers, dense and sparse, and attributes (`Constant`), in branches and functions too."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    attributes = [item for node in nodes(model) for item in node.attribute]
    attributes += [item for function in model.functions for item in function.attribute_proto]
    for item in attributes:
        if item.HasField("t"):
            yield item.t
        yield from item.tensors
        for sparse in (*item.sparse_tensors, *([item.sparse_tensor] if item.HasField("sparse_tensor") else [])):
            yield from (sparse.values, sparse.indices)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """The attribute of that name of a node; None if the node has none."""
    return next((item for item in node.attribute if item.name == name), None)


def external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors whose values lie in another file."""
    return [tensor for tensor in tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
