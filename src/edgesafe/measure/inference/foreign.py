"""What an ONNX file that we did not make says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from edgesafe.errors import UsageError
from edgesafe.measure.inference.inputs import InputSpec

__all__ = ["parameters", "plain_spec", "read", "sparsity"]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path), fix="give an ONNX file") from None


def read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """A whole ONNX file: what is hashed and measured must hold its weights.

    Raises:
        UsageError: it cannot be read, is not ONNX, or keeps weights in another file.
    """
    content = _bytes(path)
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        raise UsageError("not an ONNX file", where=str(path), fix="give an ONNX file") from None
    if not model.graph.node:
        raise UsageError("an ONNX file without a graph", where=str(path), fix="export it again")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UsageError(
            "keeps its weights in another file, which no hash would cover",
            where=str(path),
            fix="save it as one file: onnx.save(onnx.load(PATH), NEW_PATH)",
        )
    return content, model


def plain_spec(path: Path) -> InputSpec:
    """What a file says of its input; enough to time it, where the values of the pixels do not matter.

    Raises:
        UsageError: not an ONNX file with one image input of type uint8 or float32.
    """
    graph = read(path)[1].graph
    weights = {tensor.name for tensor in graph.initializer}
    node = next((value for value in graph.input if value.name not in weights), None)
    tensor = node.type.tensor_type if node is not None else None
    kinds: dict[int, Literal["uint8", "float32"]] = {
        onnx.TensorProto.UINT8: "uint8",
        onnx.TensorProto.FLOAT: "float32",
    }
    if node is None or tensor is None or len(tensor.shape.dim) != 4 or tensor.elem_type not in kinds:
        raise UsageError("no image input of type uint8 or float32", where=str(path), fix="give an image classifier")
    channels_first = tensor.shape.dim[1].dim_value in (1, 3)
    return InputSpec(
        layout="NCHW" if channels_first else "NHWC",
        dtype=kinds[tensor.elem_type],
        input_name=node.name,
        output_name=graph.output[0].name,
    )


def _weights(content: bytes) -> list[Any]:
    """The float initializers of a file."""
    graph = onnx.load_from_string(content).graph
    return [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def parameters(content: bytes) -> int:
    """Floating-point weights of a file."""
    return int(sum(weight.size for weight in _weights(content)))


def sparsity(content: bytes) -> float:
    """Share of zeros among its convolution kernels."""
    kernels = [weight for weight in _weights(content) if weight.ndim == 4]
    total = sum(weight.size for weight in kernels)
    return float(sum(int((weight == 0).sum()) for weight in kernels) / total) if total else 0.0
