"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599) inside the file: logits / T.

A division of the logits, not a rescaled last layer. Division by one positive number keeps order (it is monotone in
floating point too), so the winning class keeps a largest logit on every input whatsoever; rescaled weights would be
rounded one by one, and could turn a close decision. What remains: logits that were 1 unit in the last place apart can
become equal. One division of (batch, K) numbers cannot be seen in the latency.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgesafe.deploy.graph import parse
from edgesafe.errors import UsageError

__all__ = ["fold"]

_RAW, _VALUE = "logits_before_temperature", "temperature"


def fold(onnx_bytes: bytes, temperature: float) -> bytes:
    """The same file with its output divided by `temperature`.

    Args:
        onnx_bytes: an ONNX classifier with one float32 output.
        temperature: T > 0; above 1 the confidence falls, below 1 it rises.

    Returns:
        The bytes of the new file, deterministic.

    Raises:
        UsageError: T is not a positive finite float32, the file is not valid ONNX, or a temperature is in it already.
    """
    limits = np.finfo(np.float32)
    if not (math.isfinite(temperature) and float(limits.tiny) <= temperature <= float(limits.max)):
        raise UsageError(
            f"{temperature} is not a temperature", where="temperature", fix="give a positive finite number"
        )
    proto = parse(onnx_bytes)
    graph = proto.graph
    if len(graph.output) != 1 or graph.output[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UsageError("has no single float32 output", where="model.onnx", fix="export one tensor of logits")
    names = {name for node in graph.node for name in node.output} | {i.name for i in graph.initializer}
    if {_RAW, _VALUE} & names:
        raise UsageError("holds a temperature already", where="model.onnx", fix="give the file without calibration")
    output = graph.output[0].name
    for node in graph.node:  # whoever writes or reads the old output now does so under another name
        for names_of in (node.input, node.output):
            for i, name in enumerate(names_of):
                if name == output:
                    names_of[i] = _RAW
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _VALUE))
    graph.node.append(helper.make_node("Div", [_RAW, _VALUE], [output], name="temperature_scaling"))
    onnx.checker.check_model(proto, full_check=True)
    return cast("bytes", proto.SerializeToString(deterministic=True))
