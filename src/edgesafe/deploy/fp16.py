"""Half precision: weights and activations of an exported file as IEEE half floats (float16), input and output as ever.

Half the bytes. onnxruntime computes in float16 only where its provider has such kernels; on x86 it converts to float32
and back around each operator, which costs time: measure it. Conversion by onnxruntime's own tool.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgesafe.deploy.graph import parse, strip
from edgesafe.errors import RefusedError, UsageError

__all__ = ["convert"]

_LARGEST = float(np.finfo(np.float16).max)


def convert(onnx_bytes: bytes) -> bytes:
    """The same network in float16.

    Args:
        onnx_bytes: a float32 file with float32 output.

    Returns:
        The bytes of the new file: same input and output, deterministic, checked by `onnx.checker` in full.

    Raises:
        UsageError: a file that is damaged, or holds no float32 weight.
        RefusedError: a constant that float16 cannot hold (beyond 65,504).
    """
    proto = parse(onnx_bytes)
    weights = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    if not weights:
        raise UsageError("has no float32 weight", where="model.onnx", fix="give the fp32 variant's file")
    for tensor in weights:
        if np.abs(numpy_helper.to_array(tensor)).max(initial=0.0) > _LARGEST:
            raise RefusedError(
                f"holds numbers beyond {_LARGEST:,.0f}, the largest of fp16", where=tensor.name,
                fix='take "fp16" out of export.precisions',
            )  # fmt: skip
    half = convert_float_to_float16(proto, keep_io_types=True)
    strip(half)
    onnx.checker.check_model(half, full_check=True)
    return cast("bytes", half.SerializeToString(deterministic=True))
