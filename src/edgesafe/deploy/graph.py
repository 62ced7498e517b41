"""Reading ONNX bytes."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgesafe.errors import UsageError

__all__ = ["parse"]


def parse(data: bytes, *, where: str = "model.onnx") -> onnx.ModelProto:
    """Parse and check an ONNX file, weights inside.

    Raises:
        UsageError: it is damaged, not ONNX, not valid, or keeps its weights in another file.
    """
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
            raise UsageError("keeps its weights in another file", where=where, fix="save it as one file")
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError) as error:
        text = (str(error).strip().splitlines() or [""])[0][:200]
        raise UsageError(f"is not a valid ONNX file: {text}", where=where, fix="export it again") from error
    return proto
