"""The steps of channels that a host's convolutions like, found by timing small networks.

fp32: a layer that needs w channels is given the next multiple of a step. Of the steps whose layers take at most 2 %
longer than the fastest, the largest is taken: it keeps more channels in the same time. int8: narrow convolutions,
quantised with pixels grouped for kernels that take so many output channels at a time; of the steps within 10 % of the
fastest the smallest is taken, since groups bring zeros into the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.deploy.int8 import quantise
from edgesafe.measure.inference import latency
from edgesafe.records import Steps

__all__ = ["STEPS", "as_fast", "measure"]

STEPS = (1, 4, 8, 16, 32)  #: that are tried
_WIDTHS = (18, 22, 27, 33, 38, 44, 50, 55, 60)  # that layers might need: none a multiple of a step but 44 of 4
_NARROW = (8, 16)  # channels of the int8 networks: what pruning leaves of small ones
_DEEP, _SIDE = 3, 32  # convolutions in a row, and pixels
_RUNS = 128  # timed runs of each file, over eight sessions
_CLOSE = 1.02  # times as long as the fastest: as fast
_WORTH = 1.1  # likewise, for groups of pixels, which make the file larger


def measure(threads: int, provider: str) -> Steps:
    """Time small networks on this host; some seconds.

    Args:
        threads: of onnxruntime.
        provider: execution provider.
    """
    widths = {width: {step: _rounded(width, step) for step in STEPS} for width in _WIDTHS}
    files = {str(width): _network(width) for width in sorted({w for given in widths.values() for w in given.values()})}
    wide = _timed(files, threads, provider)
    fp32 = {step: _mean([wide[str(given[step])] for given in widths.values()]) for step in STEPS}
    images = np.random.default_rng(0).integers(0, 256, (16, _SIDE, _SIDE, 3), np.uint8)
    narrow = {width: _network(width) for width in _NARROW}
    files = {f"{w} {step}": quantise(narrow[w], images, step=step).onnx for w in _NARROW for step in STEPS}
    grouped = _timed(files, threads, provider)
    int8 = {step: _mean([grouped[f"{width} {step}"] for width in _NARROW]) for step in STEPS}
    return Steps(
        round_to=max(as_fast(fp32, _CLOSE)), int8_step=min(as_fast(int8, _WORTH)),
        fp32_ms={str(step): time for step, time in fp32.items()},
        int8_ms={str(step): time for step, time in int8.items()},
    )  # fmt: skip


def as_fast(milliseconds: Mapping[int, float], factor: float) -> list[int]:
    """The steps that take at most `factor` times as long as the fastest.

    >>> as_fast({1: 2.0, 4: 1.51, 8: 1.0, 16: 0.99, 32: 1.2}, 1.02)
    [8, 16]
    """
    limit = factor * min(milliseconds.values())
    return [step for step, time in milliseconds.items() if time <= limit]


def _mean(milliseconds: Sequence[float]) -> float:
    """The geometric mean: each width counts alike."""
    return float(np.exp(np.mean(np.log(milliseconds))))


def _rounded(width: int, step: int) -> int:
    return -(-width // step) * step


def _timed(files: Mapping[str, bytes], threads: int, provider: str) -> dict[str, float]:
    """Median latency of each file in ms, all of them in turn."""
    image = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in files}
        for name, path in paths.items():
            path.write_bytes(files[name])
        samples = latency.interleaved(paths, image=image, threads=threads, provider=provider, runs=_RUNS)
    return {name: float(np.median(np.median(found.milliseconds, axis=1))) for name, found in samples.items()}


def _network(width: int) -> bytes:
    """uint8 (batch, H, W, 3) -> convolutions of so many channels -> their means over pixels, as logits."""
    rng = np.random.default_rng(width)
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x0"], to=TensorProto.FLOAT),
    ]
    constants: dict[str, NDArray[Any]] = {"axes": np.array([2, 3], np.int64)}
    for i, channels in enumerate([3, *[width] * (_DEEP - 1)]):
        scale = 1.0 / (9 * channels * (255 if i == 0 else 1))
        constants[f"w{i}"] = (scale * rng.standard_normal((width, channels, 3, 3))).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], f"relu{i}"),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"x{_DEEP}", "axes"], ["logits"], "mean", keepdims=0))
    return _file(nodes, constants, width)


def _file(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]], width: int) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", _SIDE, _SIDE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(list(nodes), "edgesafe", [image], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return cast("bytes", model.SerializeToString(deterministic=True))
