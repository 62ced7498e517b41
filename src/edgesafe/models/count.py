"""Parameters and multiply-accumulates.

Convention: one MAC is one multiplication with its addition. Counted are convolutions (transposed ones too) and linear
layers, for one image; biases, BatchNorm (folded away at export), activations, pooling and additions are not. Zeros
count: unstructured sparsity leaves the MACs as they are. ResNet-20 has 40.55 M, as in the literature (0.041 G).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError

__all__ = ["macs", "nonzero_params", "params", "sparsity"]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def params(model: nn.Module) -> int:
    """Number of parameters: trained or frozen, shared ones once; buffers (BN statistics) are not counted."""
    return sum(p.numel() for p in model.parameters())


def nonzero_params(model: nn.Module) -> int:
    """Number of parameters that are not exactly zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image through convolutions and linear layers (see the module's convention).

    Args:
        model: maps float32 (n, C, H, W) to logits. Runs once in eval mode; modes are restored.
        input_shape: (H, W, C).

    Raises:
        UsageError: the network does not take such an image, or holds nothing to count.
    """
    total = 0

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += _macs_of(module, _inputs[0], output)

    modes = [(module, module.training) for module in model.modules()]
    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, (*_CONVS, *_TRANSPOSED, nn.Linear))
    ]
    height, width, channels = input_shape
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, channels, height, width))
    except RuntimeError as error:
        raise UsageError(
            f"the network does not take one image of {height}x{width}x{channels}: {error}",
            where="input_shape",
            fix="check the data set's image size and the architecture",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    if total == 0:
        raise UsageError("no convolution and no linear layer ran", where="model", fix="give a CNN built of modules")
    return total


def _macs_of(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """MACs of one call of one layer, batch 1."""
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, _CONVS):
        return y.numel() * math.prod(module.kernel_size) * module.in_channels // module.groups
    assert isinstance(module, _TRANSPOSED)  # noqa: S101  - hooks are set on these three kinds only
    return x.numel() * math.prod(module.kernel_size) * module.out_channels // module.groups


def sparsity(model: nn.Module) -> float:
    """Share of the convolutions' weights that are exactly zero; 0 without convolutions."""
    weights = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Conv2d)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
