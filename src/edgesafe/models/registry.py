"""From a name to a network: the built-in architectures, and which of their layers the benchmark study prunes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from edgesafe.errors import UsageError, hint
from edgesafe.models.cnn7 import cnn7
from edgesafe.models.densenet import cifar_densenet
from edgesafe.models.external import build_external, is_external
from edgesafe.models.preresnet import preresnet
from edgesafe.models.resnet import cifar_resnet, smallnet
from edgesafe.models.resnet18 import resnet18
from edgesafe.models.vgg import cifar_vgg

__all__ = ["ARCHITECTURES", "Architecture", "build", "paper_layers"]

_FAMILIES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"resnet": cifar_resnet, "preresnet": preresnet, "vgg": cifar_vgg, "densenet": cifar_densenet}
)


_ALONE: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"smallnet": smallnet, "cnn7": cnn7, "resnet18": resnet18}
)


@dataclass(frozen=True)
class Architecture:
    """A built-in architecture: what it is, and where it is from."""

    name: str
    family: str
    summary: str
    source: str


_RESNET, _PRERESNET = "He et al., arXiv 1512.03385", "He et al., arXiv 1603.05027"
_LISTED = (
    Architecture("smallnet", "smallnet", "3 residual blocks, stride-2 stem: the quickstart's", _RESNET),
    Architecture("cnn7", "cnn7", "six convolutions, one linear layer; args width, size, head", "Hu, arXiv 2510.00083"),
    Architecture("resnet18", "resnet18", "four stages of two basic blocks, 3x3 stem; args width, size, head", _RESNET),
    *(
        Architecture(f"resnet{d}", "resnet", f"CIFAR ResNet, {(d - 2) // 6} basic blocks a stage, option A", _RESNET)
        for d in (20, 32, 44, 56, 110)
    ),
    Architecture("vgg16", "vgg", "CIFAR VGG-16 with BN, one linear layer", "Liu et al., arXiv 1810.05270"),
    Architecture("vgg19", "vgg", "CIFAR VGG-19 with BN, one linear layer", "Liu et al., arXiv 1810.05270"),
    Architecture("preresnet110", "preresnet", "pre-activation, 18 basic blocks a stage", _PRERESNET),
    Architecture("preresnet164", "preresnet", "pre-activation, 18 bottlenecks a stage", _PRERESNET),
    Architecture("densenet40", "densenet", "3 dense blocks of 12 layers, growth 12", "Huang et al., arXiv 1608.06993"),
)

#: The built-in architectures by name. Other valid depths (resnet14, preresnet56, …) are built as well.
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({a.name: a for a in _LISTED})


def build(arch: str, num_classes: int, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with fresh weights (from torch's global generator), in training mode.

    Args:
        arch: a name of `ARCHITECTURES` (or another depth of a family), "torchvision:NAME", "timm:NAME",
            "path/to/file.py:factory" or "package.module:factory".
        num_classes: K >= 2.
        args: keyword arguments of the architecture.

    Raises:
        UsageError: an unknown name (the nearest is given), unknown arguments, or a factory that fails.
    """
    options = dict(args or {})
    if num_classes < 2:
        raise UsageError(f"{num_classes} classes cannot be told apart", where=arch, fix="give at least 2")
    if "num_classes" in options:
        raise UsageError("num_classes comes from the data", where="model.args.num_classes", fix="remove it")
    if is_external(arch):
        return build_external(arch, num_classes, options)
    factory, leading = _resolve(arch)
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            fix = hint(key, known, "remove it: it takes none")
            raise UsageError(f"{arch} takes no argument {key!r}", where=f"model.args.{key}", fix=fix)
    try:
        return factory(*leading, num_classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"cannot be built with {options}: {error}", where=arch, fix="check model.args") from error


def _resolve(arch: str) -> tuple[Callable[..., nn.Module], tuple[int, ...]]:
    """The factory of a built-in architecture and the arguments that come before the number of classes."""
    if arch in _ALONE:
        return _ALONE[arch], ()
    match = re.fullmatch(r"([a-z]+?)(\d{1,4})", arch)
    if match is None or match[1] not in _FAMILIES:
        raise UsageError(
            f"unknown architecture {arch!r}",
            where="model.arch",
            fix=hint(arch, ARCHITECTURES, "edgesafe models lists them"),
        )
    return _FAMILIES[match[1]], (int(match[2]),)


def paper_layers(arch: str, model: nn.Module) -> tuple[str, ...] | None:
    """The convolutions that the benchmark study narrows (Mitra et al., arXiv 2405.20876), or None if it says nothing.

    - VGG-16, filter pruning: convolutions 1 and 8 to 13.
    - VGG-19, channel pruning: every convolution.
    - CIFAR ResNets, filter pruning: the first convolution of each block of the first stage. (The study: ResNet-110.)
    - PreResNet with bottlenecks, channel pruning: the two inner convolutions of each block. The study also masks the
      channels that enter a block (`channel_selection`); that removes nothing from the residual stream, so we do not.

    Args:
        arch: as given to `build`.
        model: the network it built.

    Returns:
        Module paths, in the order of the network.
    """
    convs = tuple(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if arch == "vgg16":
        return (convs[0], *convs[7:13])
    if arch == "vgg19":
        return convs
    if re.fullmatch(r"resnet\d+", arch) and arch not in _ALONE:
        return tuple(name for name in convs if re.fullmatch(r"layer1\.\d+\.conv1", name))
    inner = tuple(name for name in convs if re.fullmatch(r"layer\d\.\d+\.conv[12]", name))
    if re.fullmatch(r"preresnet\d+", arch) and any(name.endswith(".conv3") for name in convs):
        return inner
    return None
