"""Small networks, small ONNX files made without torch, and where the shared data is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ROOT = Path(__file__).resolve().parents[2]


def shared(name: str) -> Path:
    """A file of the shared golden data, or a skip."""
    path = Path(os.environ.get("EDGESAFE_SHARED", _ROOT.parent / "shared")) / "data" / name
    if not path.is_file():
        pytest.skip(f"shared data has no {name} (set EDGESAFE_SHARED)")
    return path


def cifar10(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The "train" or "test" images of CIFAR-10 with labels, or a skip."""
    path = Path(os.environ.get("EDGESAFE_DATA", _ROOT / "data")) / "cifar10.npz"
    if not path.is_file():
        pytest.skip("no cifar10.npz (edgesafe fetch cifar10, or set EDGESAFE_DATA)")
    with np.load(path, allow_pickle=False) as data:
        return data[f"x_{split}"], data[f"y_{split}"].reshape(-1).astype(np.int64)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics, scales and shifts of its own: fresh ones would hide folding errors."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=g) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=g) + 0.5)
            module.weight.data.copy_(torch.randn(n, generator=g) * 0.3 + 0.5)
            module.bias.data.copy_(torch.randn(n, generator=g) * 0.1)
    return model


class Tiny(nn.Module):
    """Two convolutions, BatchNorm with some negative scales, a residual addition, 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(y + self.bn2(self.conv2(y)), 1).flatten(1))


def tiny() -> nn.Module:
    """`Tiny` with fixed weights, half of conv2's zero."""
    torch.manual_seed(0)
    model = randomise(Tiny())
    model.bn2.weight.data[::2] *= -1
    model.conv2.weight.data[torch.rand(model.conv2.weight.shape) < 0.5] = 0
    return model


def noise(n: int, shape: tuple[int, int, int] = (12, 10, 3), seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels uint8 (n, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def conv_chain(weights: Sequence[NDArray[np.float32]], opset: int = 18, side: int = 6) -> bytes:
    """uint8 NHWC -> Transpose, Cast -> a Conv with each of the weights (O, I, k, k) -> mean over pixels: `logits`."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x0"], to=TensorProto.FLOAT),
    ]
    inits = [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")]
    for i, w in enumerate(weights):
        pad = w.shape[2] // 2
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[pad] * 4))
        inits.append(numpy_helper.from_array(w, f"w{i}"))
    nodes.append(helper.make_node("ReduceMean", [f"x{len(weights)}", "axes"], ["logits"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", side, side, weights[0].shape[1]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights[-1].shape[0]])],
        inits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
