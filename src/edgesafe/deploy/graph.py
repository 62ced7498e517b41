"""Reading ONNX bytes, and taking out what does not compute."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from edgesafe.errors import UsageError

__all__ = ["optimised", "parse", "strip"]

_REFUSALS = (
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NotImplemented,
    _state.RuntimeException,
)


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


def strip(proto: onnx.ModelProto) -> None:
    """Take out, in place, all that does not compute: metadata (source paths and lines), doc strings, value_info."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    graph = proto.graph
    # 2.15.0+cpu and 2.15.0+cu132 are one release
    proto.producer_version = proto.producer_version.split("+", maxsplit=1)[0]
    graph.name, graph.doc_string = "edgesafe", ""
    del graph.value_info[:], graph.metadata_props[:], graph.quantization_annotation[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def optimised(data: bytes, level: ort.GraphOptimizationLevel) -> onnx.ModelProto:
    """The graph that onnxruntime runs for a file on the CPU, after optimising at `level`.

    Raises:
        UsageError: onnxruntime cannot open it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3  # it warns that such a file fits one machine only
        options.intra_op_num_threads = 1
        try:
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _REFUSALS as error:
            text = (str(error).strip().splitlines() or [""])[0][:200]
            raise UsageError(
                f"onnxruntime cannot open it: {text}", where="model.onnx", fix="export it again"
            ) from error
        return onnx.load(path)
