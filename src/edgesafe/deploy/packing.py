"""Neighbouring pixels as channels: narrow convolutions on wide images, rewritten exactly for kernels of 16 channels.

In channels-last memory, W pixels of C channels are the same bytes as W/k pixels of k C channels. A convolution over
single pixels is one over groups of k pixels, with the same numbers in a larger, mostly zero kernel: the sums have the
same terms, so an int8 file gives the same bits. It is worth it because onnxruntime's int8 kernels on x86 are fast for
input channels in fours and output channels in sixteens only: at 8 channels of 32 x 32 pixels they take longer than at
16 (docs/onnx.md), and three input channels are the slowest of all.

Regrouping between layers that want different k is a Reshape of channels-last memory, which moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["pack"]

_MOST = 8  #: pixels of a group: beyond that the larger kernel costs more than it brings
_UNARY = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Identity", "Cast"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
_POINTWISE = _UNARY | _BINARY | {"QuantizeLinear", "DequantizeLinear"}  #: each pixel alike
_INPUTS = 4  #: onnxruntime's int8 kernels take input channels in fours


def pack(proto: onnx.ModelProto, *, step: int = 16) -> tuple[str, ...]:
    """Group pixels, in place, for every convolution that has fewer output channels than `step`.

    Args:
        proto: a file that `export_onnx` made, or its quantised form (QDQ): input `image` uint8 (batch, H, W, C).
        step: output channels that the kernels take at a time; 1: nothing is done.

    Returns:
        The names of the convolutions that take groups of pixels now.
    """
    return _Rewriting(proto).run(step) if step > 1 else ()


@dataclass(frozen=True)
class _Conv:
    """A convolution over (batch, C, H, W) that can take groups of pixels.

    Attributes:
        node: of the graph.
        weight: float32 or int8 (C_out, C_in, rows, taps).
        stride: along the width.
        left: padding there.
        width: of the output.
    """

    node: onnx.NodeProto
    weight: NDArray[Any]
    stride: int
    left: int
    width: int

    def group(self, step: int) -> int:
        """The least number of output pixels in a group, a power of two, that gives the kernels what they want."""
        outputs, inputs, group = *self.weight.shape[:2], 1
        while (group * outputs < step or group * self.stride * inputs % _INPUTS) and self.fits(2 * group):
            group *= 2
        return group

    def fits(self, group: int) -> bool:
        return group <= _MOST and self.width % group == 0

    def grouped(self, group: int) -> tuple[NDArray[Any], int, int]:
        """The kernel over groups, (group C_out, group stride C_in, rows, groups), and its padding left, right.

        Output pixel b of group J takes input pixel stride (group J + b) - left + t with tap t: that is pixel a of group
        J + j, where j and a are quotient and remainder of stride b - left + t by the size of an input group.
        """
        outputs, inputs, rows, taps = self.weight.shape
        wide = self.stride * group
        falls = [(b, t, *divmod(self.stride * b - self.left + t, wide)) for b in range(group) for t in range(taps)]
        left, right = max(0, *(-j for _, _, j, _ in falls)), max(0, *(j for _, _, j, _ in falls))
        kernel = np.zeros((group, outputs, wide, inputs, rows, left + right + 1), self.weight.dtype)
        for b, t, j, a in falls:
            kernel[b, :, a, :, :, left + j] = self.weight[:, :, :, t]
        return kernel.reshape(group * outputs, wide * inputs, rows, -1), left, right


class _Rewriting:
    """A graph that is written anew, node by node.

    Every tensor of the old graph stands in the new one as it was or in groups of pixels (`_size`); `_in_groups` gives
    it in others.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self._shapes = _shapes(proto)
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._maker = {name: node for node in proto.graph.node for name in node.output}
        self._sizes: dict[str, int] = {}
        self._made: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self, step: int) -> tuple[str, ...]:
        """Rewrite; the names of the convolutions that were changed."""
        changed = []
        for node in self._graph.node:
            conv = self._conv(node) if node.op_type == "Conv" else None
            group = conv.group(step) if conv is not None else 1
            if conv is not None and group > 1:
                self._convolve(conv, group)
                changed.append(node.name)
            else:
                self._copy(node, self._shared(node))
        kept = _needed(self._nodes, {value.name for value in self._graph.output})
        used = {name for node in kept for name in node.input}
        constants = [tensor for tensor in self._constants.values() if tensor.name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(kept)
        self._graph.initializer.extend(constants)
        return tuple(changed)

    def _size(self, name: str) -> int:
        return self._sizes.get(name, 1)

    def _conv(self, node: onnx.NodeProto) -> _Conv | None:
        """The convolution of a node; None if it cannot take groups."""
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        sizes = self._shapes.get(node.input[0]), self._shapes.get(node.output[0])
        operands = [self._operand(name) for name in node.input[1:] if name]
        if None in sizes or any(found is None for found in operands) or given.get("auto_pad", b"NOTSET") != b"NOTSET":
            return None
        weight = numpy_helper.to_array(self._constants[operands[0] or ""])
        before, after = (shape[2] for shape in sizes if shape is not None)
        stride, left = given.get("strides", [1, 1])[1], given.get("pads", [0] * 4)[1]
        plain = weight.ndim == 4 and given.get("group", 1) == 1 and set(given.get("dilations", [1])) == {1}
        return _Conv(node, weight, stride, left, after) if plain and before == stride * after else None

    def _operand(self, name: str) -> str | None:
        """The constant behind a weight or bias: itself, or what a DequantizeLinear takes; None: it is computed."""
        node = self._maker.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            name = node.input[0]
        return name if name in self._constants else None

    def _replaced(self, name: str, values: NDArray[Any], group: int) -> str:
        """A weight or bias for groups, under a new name: a constant, or dequantised as the one that it replaces."""
        node = self._maker.get(name)
        if node is None:
            return self._constant(f"{name}/{group}", values)
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[0] = self._constant(f"{node.input[0]}/{group}", values)
        for i, constant in enumerate(node.input[1:], 1):  # scale and zero point: one number, or one per output channel
            old = numpy_helper.to_array(self._constants[constant])
            if old.size > 1:
                new.input[i] = self._constant(f"{constant}/{group}", np.tile(old, group))
        new.output[0] = new.name = f"{name}/{group}"
        self._nodes.append(new)
        return str(new.output[0])

    def _convolve(self, conv: _Conv, group: int) -> None:
        """Write a convolution over groups: `group` pixels in the output's, `group * stride` in the input's."""
        kernel, left, right = conv.grouped(group)
        node = onnx.NodeProto()
        node.CopyFrom(conv.node)
        given = {a.name: helper.get_attribute_value(a) for a in conv.node.attribute}
        above, _, below, _ = given.get("pads", [0] * 4)
        given |= {
            "kernel_shape": list(kernel.shape[2:]), "strides": [given.get("strides", [1, 1])[0], 1],
            "pads": [above, left, below, right],
        }  # fmt: skip
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(given.items()))
        node.input[0] = self._in_groups(node.input[0], group * conv.stride)
        node.input[1] = self._replaced(node.input[1], kernel, group)
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(self._constants[self._operand(node.input[2]) or ""])
            node.input[2] = self._replaced(node.input[2], np.tile(bias, group), group)
        self._sizes[node.output[0]] = group
        self._nodes.append(node)

    def _shared(self, node: onnx.NodeProto) -> int:
        """The groups in which a node that is no convolution can work as well as on pixels; 1 where it cannot."""
        if node.op_type not in _POINTWISE or len(node.output) != 1:
            return 1
        tensors = [name for name in node.input if name and name not in self._constants]
        if any(self._tiled(name, node.input[0], 1) is None for name in node.input if name in self._constants):
            return 1
        return min((self._size(name) for name in tensors), default=1)

    def _copy(self, node: onnx.NodeProto, group: int, suffix: str = "") -> str:
        """Write a node that works on groups of that size; its output's name."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name in self._constants:
                values = self._tiled(name, node.input[0], group)
                if group > 1 and values is not None and values.size > 1:
                    new.input[i] = self._constant(f"{name}/{group}", values)
            elif name:
                new.input[i] = self._in_groups(name, group)
        for i, name in enumerate(node.output):
            new.output[i] = name + suffix
            self._sizes[name + suffix] = group
        new.name += suffix
        self._nodes.append(new)
        return str(new.output[0])

    def _tiled(self, constant: str, beside: str, group: int) -> NDArray[Any] | None:
        """A constant operand for groups: one number, or one per channel. None if it is neither."""
        values = numpy_helper.to_array(self._constants[constant])
        if values.size == 1:
            return values
        channels = self._shapes.get(beside, (0, 0, 0))[0]
        if values.ndim in (3, 4) and values.size == channels == values.shape[-3]:
            return np.tile(values, (*[1] * (values.ndim - 3), group, 1, 1))
        return None

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    # ---------------------------------------------------------------------------------------------------- regrouping

    def _in_groups(self, name: str, group: int) -> str:
        """The name under which a tensor stands in groups of that size."""
        if name not in self._shapes or self._size(name) == group:
            return name
        if (name, group) not in self._made:
            self._made[name, group] = self._regrouped(name, group)
        return self._made[name, group]

    def _regrouped(self, name: str, group: int) -> str:
        node = self._maker.get(name)
        suffix = f"/{group}"
        if node is not None and self._is_image(node):  # channels-last pixels: a Reshape is all
            return self._copy_of_image(node, suffix, group)
        if node is not None and (node.op_type == "DequantizeLinear" or self._from_image(name)):
            return self._copy(
                node, group, suffix
            )  # regroup what it is made of: pixels, or a byte where a float is four
        channels, height, width = self._shapes[name]
        shape = np.array([0, height, width // group, group * channels], np.int64)
        last = self._add("Transpose", [name], f"{name}{suffix}/last", perm=[0, 2, 3, 1])
        pixels = self._add("Reshape", [last, self._constant(f"{name}{suffix}/shape", shape)], f"{name}{suffix}/grouped")
        return self._add("Transpose", [pixels], name + suffix, perm=[0, 3, 1, 2], group=group)

    def _is_image(self, node: onnx.NodeProto) -> bool:
        """Whether a node makes (batch, C, H, W) of the graph's input."""
        perm = [list(a.ints) for a in node.attribute if a.name == "perm"]
        return node.op_type == "Transpose" and node.input[0] == self._graph.input[0].name and perm == [[0, 3, 1, 2]]

    def _from_image(self, name: str) -> bool:
        """Whether a tensor is the image after operators that treat each pixel alike."""
        node = self._maker.get(name)
        if node is None:
            return False
        if self._is_image(node):
            return True
        others = [self._tiled(c, node.input[0], 1) for c in node.input[1:] if c in self._constants]
        alike = len(others) == len(node.input) - 1 and all(other is not None for other in others)
        return node.op_type in _POINTWISE and alike and self._from_image(node.input[0])

    def _copy_of_image(self, node: onnx.NodeProto, suffix: str, group: int) -> str:
        channels, height, width = self._shapes[node.output[0]]
        shape = np.array([0, height, width // group, group * channels], np.int64)
        image, name = node.input[0], node.output[0] + suffix
        pixels = self._add("Reshape", [image, self._constant(f"{image}{suffix}/shape", shape)], f"{image}{suffix}")
        return self._add("Transpose", [pixels], name, perm=[0, 3, 1, 2], group=group)

    def _add(self, op: str, inputs: list[str], output: str, group: int = 1, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self._sizes[output] = group
        return output


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, int, int]]:
    """(C, H, W) of every tensor (batch, C, H, W) whose sizes are known."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    out = {}
    for value in inferred.value_info:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if len(dims) == 4 and min(dims[1:]) > 0:
            out[value.name] = (dims[1], dims[2], dims[3])
    return out


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
