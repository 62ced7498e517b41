"""Static int8 quantisation of an exported file (QDQ form): uint8 activations, int8 weights per output channel.

uint8 activations, because on x86 onnxruntime runs int8 ones slower than float32. Ranges are the smallest and largest
values seen on calibration images (min-max); these must come from the training split. The file is not equal to the float
one: measure it anew, and report flips. Bits of its outputs differ between processor families, too.

Two things make such files slow where little is left of a layer, and are mended here (figures in docs/onnx.md): kernels
that want channels in fours and sixteens get groups of pixels (`packing`, exact), and a small fully connected layer
stays in float32, since handing it to the integer kernel takes longer than the layer.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgesafe.deploy.graph import optimised, parse, strip
from edgesafe.deploy.packing import pack
from edgesafe.errors import NothingEvaluated, RefusedError, UsageError

__all__ = ["Quantised", "integer_convolutions", "quantise"]

_BATCH = 16  #: images per calibration run; ranges do not depend on it
_SMALL = 65_536  #: weights of a fully connected layer that is not worth an integer kernel at batch 1


@dataclass(frozen=True)
class Quantised:
    """An int8 file, and which layers are not plainly quantised; layers by module path, such as "layer1.0.conv1".

    Attributes:
        onnx: the bytes.
        float_layers: left in float32.
        packed_layers: convolutions that take groups of pixels.
    """

    onnx: bytes
    float_layers: tuple[str, ...]
    packed_layers: tuple[str, ...]


def quantise(onnx_bytes: bytes, images: NDArray[np.uint8], *, step: int = 16) -> Quantised:
    """Quantise a file that `export_onnx` made.

    Args:
        onnx_bytes: the float32 file; its input is uint8 (batch, H, W, C).
        images: uint8 (n, H, W, C) from the training split, some hundreds; ranges are read off these.
        step: output channels that the target's int8 kernels take at a time; 1: no pixels are grouped.

    Returns:
        The int8 file: same input and output, deterministic, checked by `onnx.checker` in full.

    Raises:
        NothingEvaluated: no images.
        UsageError: images of another type or size than the file takes; a file that is damaged or quantised already.
        RefusedError: a convolution would still run in float32 under onnxruntime.
    """
    proto = parse(onnx_bytes)
    _require(proto, images)
    layers = {node.name: _layer(node) for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    small = _small(proto)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            path,
            _Reader(proto.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=small,
        )
        result = onnx.load(path)
    strip(result)
    packed = pack(result, step=step)
    onnx.checker.check_model(result, full_check=True)
    data = cast("bytes", result.SerializeToString(deterministic=True))
    integer, total = integer_convolutions(data)
    if integer < total:
        raise RefusedError(
            f"{total - integer} of {total} convolutions would still run in float32",
            where="model.onnx",
            fix="ship the fp32 variant",
        )
    return Quantised(data, tuple(layers[name] for name in small), tuple(layers[name] for name in packed))


def _small(proto: onnx.ModelProto) -> list[str]:
    """Names of the fully connected layers that stay in float32."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in proto.graph.initializer}
    dense = (node for node in proto.graph.node if node.op_type in ("Gemm", "MatMul"))
    return [node.name for node in dense if sizes.get(node.input[1], _SMALL + 1) <= _SMALL]


def _layer(node: onnx.NodeProto) -> str:
    """The module path of a layer, as its weight is called."""
    return str(node.input[1]).removeprefix("model.").removesuffix(".weight")


def integer_convolutions(onnx_bytes: bytes) -> tuple[int, int]:
    """How many convolutions onnxruntime runs on integers, and how many there are."""
    graph = optimised(onnx_bytes, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED).graph
    ops = [node.op_type for node in graph.node]
    integer = ops.count("QLinearConv") + ops.count("ConvInteger")
    return integer, integer + sum(op in ("Conv", "FusedConv", "NhwcFusedConv") for op in ops)


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Hands the calibration images, uint8 (n, H, W, C), to onnxruntime in batches, once."""

    def __init__(self, name: str, images: NDArray[np.uint8]) -> None:
        self._batches = iter([{name: images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)


def _require(proto: onnx.ModelProto, images: NDArray[np.uint8]) -> None:
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in proto.graph.node):
        raise UsageError("is quantised already", where="model.onnx", fix="give the float32 file")
    if len(proto.graph.input) != 1 or proto.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        raise UsageError("has no single uint8 input", where="model.onnx", fix="give a file made by edgesafe")
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UsageError(
            f"calibration images are {images.dtype} {images.shape}", where="int8", fix="give uint8 (n,H,W,C)"
        )
    if len(images) == 0:
        raise NothingEvaluated("no calibration images", where="int8", fix="give some hundred training images")
    wanted = tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:])
    if images.shape[1:] != wanted:
        raise UsageError(
            f"calibration images are {images.shape[1:]}, the file takes {wanted}", where="int8", fix="resize them"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice to pre-process (the exported graph is folded already) off the terminal."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
