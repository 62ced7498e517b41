"""ONNX export: the shipped file takes pixels and gives logits.

Input `image`: uint8 (batch, H, W, C), batch free. Inside: transpose (on bytes, which is cheaper than on floats), cast,
/255, normalise, the network with BatchNorm folded. Output `logits`: float32 (batch, K). Bytes depend on the weights and
on the versions of torch and onnxscript only: what the exporter writes about source files and lines is taken out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgesafe.deploy.graph import strip
from edgesafe.deploy.template import Templates
from edgesafe.errors import NonFiniteError, ParityError, UsageError

__all__ = ["INPUT", "MAX_OPSET", "MIN_OPSET", "OUTPUT", "PixelNet", "export_onnx"]

INPUT, OUTPUT = "image", "logits"
#: What torch.export and the exporter raise on networks that they cannot write.
_FAILURES = (
    torch.onnx.errors.OnnxExporterError,
    torch._dynamo.exc.TorchDynamoException,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
)
MIN_OPSET, MAX_OPSET = 18, 23  #: the exporter writes 18 whatever lower one is asked for; above 23 is not tested


class PixelNet(nn.Module):
    """The network with its preprocessing inside.

    Args:
        model: maps normalised float32 (n, C, H, W) to logits (n, K).
        mean: per channel, of pixels in [0, 1].
        std: per channel, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Pixels uint8 (n, H, W, C) -> logits float32 (n, K)."""
        x = image.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return cast("Tensor", self.model((x - self.mean) / self.std))


def export_onnx(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    opset: int = 18,
    templates: Templates | None = None,
) -> bytes:
    """Export a network with its preprocessing as a self-contained ONNX file.

    Args:
        model: maps normalised float32 (n, C, H, W) to logits float32 (n, K). Not changed; its modes are restored.
        input_shape: (H, W, C).
        mean: per channel, of pixels in [0, 1].
        std: per channel, positive.
        opset: 18 to 23, checked in the file that comes out.
        templates: graphs of networks that were exported before, for the same bytes in less time; None: none.

    Returns:
        The bytes of the file: deterministic, checked by `onnx.checker` in full, free of paths and source lines.

    Raises:
        UsageError: an opset, mean or std that cannot be, or a network that does not map such images to (n, K).
        NonFiniteError: a weight that is NaN or infinite.
        ParityError: the exporter failed, or wrote another opset, input or output than asked.
    """
    _require(input_shape, mean, std, opset)
    modes = [(module, module.training) for module in model.modules()]
    try:
        net = PixelNet(model, mean, std).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError("holds a NaN or an infinity", where=name, fix="train or load the weights again")
        classes = _require_logits(net, input_shape)
        proto = _run_exporter(net, torch.zeros(2, *input_shape, dtype=torch.uint8), opset, templates)
    finally:
        for module, mode in modes:
            module.training = mode
    strip(proto)
    _name_batch(proto)
    _canonical_zeros(proto)
    _require_contract(proto, input_shape, classes, opset)
    return cast("bytes", proto.SerializeToString(deterministic=True))


def _require(input_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], opset: int) -> None:
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UsageError(
            f"opset {opset} cannot be written", where="export.opset", fix=f"give {MIN_OPSET} to {MAX_OPSET}"
        )
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise UsageError(f"{input_shape} is not (H, W, C)", where="input_shape", fix="give for example (32, 32, 3)")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != input_shape[2] or not np.isfinite(values).all():
            raise UsageError(
                f"{tuple(values)} is not one finite number for each of the {input_shape[2]} channels",
                where=f"data.{name}",
                fix="give as many numbers as the images have channels",
            )
    if min(std) <= 0:
        raise UsageError(f"{tuple(std)} is not positive", where="data.std", fix="give standard deviations above 0")


def _require_logits(net: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Run one batch of two; the number of classes."""
    try:
        with torch.no_grad():
            logits: Any = net(torch.zeros(2, *input_shape, dtype=torch.uint8))
    except RuntimeError as error:
        raise UsageError(
            f"the network does not take images of shape {input_shape}: {error}",
            where="input_shape",
            fix="check the image size, the channels and the architecture",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2 or logits.dtype != torch.float32:
        got = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the network gives {got} for a batch of 2, not float32 logits (2, K)",
            where="model.arch",
            fix="wrap it so that it returns one tensor of logits (auxiliary heads off)",
        )
    return int(logits.shape[1])


def _run_exporter(net: nn.Module, example: Tensor, opset: int, templates: Templates | None) -> onnx.ModelProto:
    said = io.StringIO()
    try:
        with _quiet(said), torch.no_grad():
            traced = _trace(net, example)
            _pool_as_mean(traced)
            translate = partial(_translated, traced, opset)
            proto = (
                templates.proto(traced, net, translate, (opset, tuple(example.shape[1:])))
                if templates is not None
                else translate()
            )
    except _FAILURES as error:
        cause = error.__cause__ or error
        raise ParityError(
            f"torch.onnx.export failed: {type(cause).__name__}: {_first_line(cause)}",
            where="model.arch",
            fix="write the forward with a free batch size and without branches on values",
        ) from error
    if proto is None:
        raise ParityError(f"torch.onnx.export gave nothing: {said.getvalue()[-200:]}", fix="report this as a bug")
    return proto


def _translated(traced: torch.export.ExportedProgram, opset: int) -> onnx.ModelProto | None:
    """The ONNX file of a trace; None: the exporter gave nothing."""
    program = torch.onnx.export(
        traced, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    return None if program is None else program.model_proto


def _trace(net: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph with a free batch size; by running the Python code first, by analysing its byte code if that fails."""
    shapes = {"image": {0: torch.export.Dim("batch")}}
    try:
        return torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)
    except _FAILURES:
        return torch.export.export(net, (example,), dynamic_shapes=shapes, strict=True)


def _pool_as_mean(traced: torch.export.ExportedProgram) -> None:
    """Write global average pooling as a mean: torch's own decomposition ends in a Gather over flattened memory."""
    pool = torch.ops.aten.adaptive_avg_pool2d.default
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target is pool and list(node.args[1]) == [1, 1]:
            node.target = torch.ops.aten.mean.dim
            node.args = (node.args[0], [2, 3], True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


@contextlib.contextmanager
def _quiet(said: io.StringIO) -> Iterator[None]:
    """Keep the exporter's progress, log lines and warnings off the terminal. Exceptions pass."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _name_batch(proto: onnx.ModelProto) -> None:
    """Rename the free dimension of inputs and outputs, which the exporter numbers (s77, …), to "batch"."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[:1]
        if first and first[0].HasField("dim_param"):
            first[0].dim_param = "batch"


def _canonical_zeros(proto: onnx.ModelProto) -> None:
    """Write -0.0 as 0.0 in the weights (folding a negative BN scale makes them), so that zeros are one bit pattern."""
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if bool(((values == 0) & np.signbit(values)).any()):
            tensor.CopyFrom(numpy_helper.from_array(values + np.float32(0.0), tensor.name))


def _require_contract(proto: onnx.ModelProto, input_shape: tuple[int, int, int], classes: int, opset: int) -> None:
    """The file is valid, and has the opset, the input and the output that were asked for."""
    _require_known(proto, opset)
    onnx.checker.check_model(proto, full_check=True)
    opsets = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    if opsets != {"ai.onnx": opset} or len(proto.functions):
        raise ParityError(f"the exporter wrote opsets {opsets}, not {opset}", where="export.opset", fix="ask for 18")
    written = [_signature(v) for v in (*proto.graph.input, *proto.graph.output)]
    wanted = [
        (INPUT, onnx.TensorProto.UINT8, ("batch", *input_shape)),
        (OUTPUT, onnx.TensorProto.FLOAT, ("batch", classes)),
    ]
    if written != wanted:
        raise ParityError(f"the exporter wrote {written}, not {wanted}", where="model.onnx", fix="report this as a bug")


def _require_known(proto: onnx.ModelProto, opset: int) -> None:
    """Every operator exists at the opset; the exporter writes some that came later (DeformConv: 19)."""
    for node in proto.graph.node:
        if node.domain or onnx.defs.has(node.op_type, opset, ""):
            continue
        since = next((v for v in range(opset + 1, MAX_OPSET + 1) if onnx.defs.has(node.op_type, v, "")), None)
        raise ParityError(
            f"the network needs {node.op_type}, which opset {opset} does not have",
            where="export.opset",
            fix=f"set export.opset = {since}" if since else "replace that operation in the network",
        )


def _signature(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    kind = value.type.tensor_type
    return value.name, kind.elem_type, tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
