"""Exporting many networks of one architecture: the exporter writes the graph once, later ones get their numbers.

The variants of a study differ in widths and weights; what they compute is the same list of operators. Tracing a network
(`torch.export`) shows that list, for about a fifth of the time of a whole export. Where two traces are the same to the
last argument, the exporter writes the same graph for both; what differs are the tensors in it: parameters, convolutions
with the BatchNorm behind them folded in, and the number of features that a flattened tensor is reshaped to.

A template is kept only if it proves itself: filled with the weights of the network that it was taken from, it must give
the exporter's file byte for byte. Otherwise the exporter runs for every network, as it does without templates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from edgesafe.deploy.graph import strip

__all__ = ["Templates"]

Tensors = Mapping[str, NDArray[Any]]
_Source = Callable[[Tensors], NDArray[Any]]  # a tensor of the file from those of the network


class Templates:
    """The graphs that the exporter wrote, by trace. One object serves a study.

    Attributes:
        exported: how many networks the exporter was run for.
        filled: how many got a graph that was there.
    """

    def __init__(self) -> None:
        self.exported = self.filled = 0
        self._known: dict[str, _Template | None] = {}

    def proto(
        self,
        traced: torch.export.ExportedProgram,
        net: nn.Module,
        translate: Callable[[], onnx.ModelProto | None],
        conditions: object,
    ) -> onnx.ModelProto | None:
        """The file of a network, without metadata.

        Args:
            traced: the network's trace.
            net: the network.
            translate: runs the exporter on the trace; None: it gave nothing.
            conditions: what the file depends on besides: opset, shape of the input.
        """
        key, tensors = _identity(traced, conditions), _tensors(net)
        if (template := self._known.get(key)) is not None:
            self.filled += 1
            return template.with_tensors(tensors)
        proto = translate()
        self.exported += 1
        if proto is not None:
            strip(proto)
            if key not in self._known:
                self._known[key] = _learnt(proto, traced, tensors)
        return proto


@dataclass(frozen=True)
class _Template:
    """A file without the numbers that come from the network, and where each of those comes from."""

    skeleton: onnx.ModelProto
    sources: Mapping[str, _Source]

    def with_tensors(self, tensors: Tensors) -> onnx.ModelProto:
        """The file with a network's numbers."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.skeleton)
        for tensor in proto.graph.initializer:
            if (source := self.sources.get(tensor.name)) is not None:
                values = source(tensors)
                if helper.np_dtype_to_tensor_dtype(values.dtype) != tensor.data_type:
                    raise ValueError(f"{tensor.name} is {values.dtype}")
                tensor.dims[:] = values.shape
                tensor.raw_data = np.ascontiguousarray(values).tobytes()
        return proto


def _learnt(proto: onnx.ModelProto, traced: torch.export.ExportedProgram, tensors: Tensors) -> _Template | None:
    """The template of a file; None if it does not give that file back, or lacks what another network's would have."""
    known = _of_network(traced)
    if not known.keys() <= {tensor.name for tensor in proto.graph.initializer}:
        return None  # the exporter leaves out a bias that is zero, as that of a network that was never trained
    features = _features(proto)
    sources: dict[str, _Source] = {}
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    for tensor in skeleton.graph.initializer:
        if tensor.name in known:
            sources[tensor.name] = known[tensor.name]
        elif tensor.name in tensors:
            sources[tensor.name] = partial(_own, tensor.name)
        elif tensor.name in features:
            given = numpy_helper.to_array(tensor)
            sources[tensor.name] = partial(_flattened, given, features[tensor.name])
        else:
            continue
        tensor.ClearField("raw_data")
    template = _Template(skeleton, sources)
    try:
        again = template.with_tensors(tensors)
    except (KeyError, ValueError):  # a name or a shape that these rules do not explain
        return None
    same = again.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    return template if same else None


# ------------------------------------------------------------------------------------------------------- the trace


def _identity(traced: torch.export.ExportedProgram, conditions: object) -> str:
    """A hash over all that the exporter's graph depends on but tensors of the network: operators and arguments."""
    digest = hashlib.sha256(repr(conditions).encode())
    for node in traced.graph.nodes:
        digest.update(repr((node.op, str(node.target), node.name, node.args, node.kwargs)).encode())
    for spec in traced.graph_signature.input_specs:
        digest.update(repr((spec.kind, spec.arg, spec.target)).encode())
    for name, value in sorted(
        traced.constants.items()
    ):  # tensors in the code: not of the network, so part of the graph
        content = value.numpy(force=True).tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
        digest.update(repr((name, hashlib.sha256(content).digest())).encode())
    return digest.hexdigest()


def _tensors(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers by name, also those that no checkpoint holds."""
    named = (*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False))
    return {name: tensor.numpy(force=True) for name, tensor in named}


def _of_network(traced: torch.export.ExportedProgram) -> dict[str, _Source]:
    """How tensors of convolutions with a BatchNorm behind them follow from the network's, by name in the file."""
    target = {spec.arg.name: spec.target for spec in traced.graph_signature.input_specs if spec.target is not None}
    convolution, norm = torch.ops.aten.conv2d.default, torch.ops.aten.batch_norm.default
    sources: dict[str, _Source] = {}
    for node in traced.graph.nodes:
        inner = node.args[0] if node.target is norm else None
        if inner is None or inner.target is not convolution or len(inner.users) > 1:
            continue
        names = [target.get(getattr(arg, "name", "")) for arg in node.args[1:5]]
        weight = target[inner.args[1].name]
        bias = target.get(inner.args[2].name) if len(inner.args) > 2 and inner.args[2] is not None else None
        if None in names:
            continue
        folded = _Folded(weight, bias, (str(names[0]), str(names[1]), str(names[2]), str(names[3])), node.args[7])
        sources[weight] = folded.weights
        sources[bias or f"{weight}_bias"] = folded.biases
    return sources


@dataclass(frozen=True)
class _Folded:
    """A convolution with its BatchNorm folded in, by the exporter's arithmetic, in float32.

    Attributes:
        weight, bias: names of the convolution's.
        norm: names of scale, shift, running mean and running variance.
        eps: of the BatchNorm.
    """

    weight: str
    bias: str | None
    norm: tuple[str, str, str, str]
    eps: float

    def _factor(self, tensors: Tensors) -> NDArray[np.float32]:
        eps = float(np.float32(self.eps))  # an attribute of the file is a float32
        factor: NDArray[np.float32] = np.divide(tensors[self.norm[0]], np.sqrt(tensors[self.norm[3]] + eps))
        return factor

    def weights(self, tensors: Tensors) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = tensors[self.weight] * self._factor(tensors).reshape(-1, 1, 1, 1)
        return scaled

    def biases(self, tensors: Tensors) -> NDArray[np.float32]:
        mean = tensors[self.norm[2]]
        own = tensors[self.bias] if self.bias is not None else np.zeros_like(mean)
        shifted: NDArray[np.float32] = (own - mean) * self._factor(tensors) + tensors[self.norm[1]]
        return shifted


# -------------------------------------------------------------------------------------------------------- the file


def _features(proto: onnx.ModelProto) -> dict[str, str]:
    """Shapes that a Reshape before a fully connected layer takes, by name, with that layer's weight (K, features)."""
    reshaped = {node.output[0]: node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}
    dense = (node for node in proto.graph.node if node.op_type == "Gemm" and node.input[0] in reshaped)
    return {reshaped[node.input[0]]: node.input[1] for node in dense}


def _own(name: str, tensors: Tensors) -> NDArray[Any]:
    return tensors[name]


def _flattened(given: NDArray[Any], weight: str, tensors: Tensors) -> NDArray[Any]:
    return np.array([*given[:-1], tensors[weight].shape[1]], given.dtype)
