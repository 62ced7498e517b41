"""Parameters and multiply-accumulates.

Convention: one MAC is one multiplication with its addition. Counted are convolutions (transposed ones too) and linear
layers, for one image, as operations that ran (`F.conv2d` counts like `nn.Conv2d`), by the formulas of torch's own
counter; biases, BatchNorm (folded away at export), activations, pooling, additions and batched products of activations
(attention) are not. Zeros count: unstructured sparsity leaves the MACs as they are. ResNet-20 has 40.55 M, as in the
literature (0.041 G).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgesafe.errors import UsageError

__all__ = ["macs", "macs_of", "nonzero_params", "params", "sparsity"]

_LAYERS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


def params(model: nn.Module) -> int:
    """Number of parameters: trained or frozen, shared ones once; buffers (BN statistics) are not counted."""
    return sum(p.numel() for p in model.parameters())


def nonzero_params(model: nn.Module) -> int:
    """Number of parameters that are not exactly zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def macs_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """MACs of one call of an aten operation that gave `result`; 0 for what is not counted."""
    if func.overloadpacket not in _LAYERS:
        return 0
    return int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)) // 2


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    total = 0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += macs_of(func, args, kwargs or {}, result)
        return result


def macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image through convolutions and linear layers (see the module's convention).

    Args:
        model: maps float32 (n, C, H, W) to logits. Runs once in eval mode; modes are restored.
        input_shape: (H, W, C).

    Raises:
        UsageError: the network does not take such an image, or holds nothing to count.
    """
    modes = [(module, module.training) for module in model.modules()]
    height, width, channels = input_shape
    counter = _Counter()  # type: ignore[no-untyped-call]
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(torch.zeros(1, channels, height, width))
    except RuntimeError as error:
        raise UsageError(
            f"the network does not take one image of {height}x{width}x{channels}: {error}",
            where="input_shape",
            fix="check the data set's image size and the architecture",
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if counter.total == 0:
        raise UsageError("no convolution and no linear layer ran", where="model", fix="give a CNN")
    return counter.total


def sparsity(model: nn.Module) -> float:
    """Share of the convolutions' weights that are exactly zero; 0 without convolutions."""
    weights = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Conv2d)]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
