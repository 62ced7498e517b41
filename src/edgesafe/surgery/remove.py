"""Physical removal: slice parameters and buffers, then make each module's attributes say what its tensors are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.surgery.propagation import Slot

__all__ = ["owners", "remove", "set_tensors", "sync_module", "tensors"]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, also the buffers that a state dict leaves out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def owners(model: nn.Module) -> dict[str, tuple[tuple[nn.Module, str], ...]]:
    """Every (module, attribute) that holds each parameter or buffer, by the tensor's first name."""
    first: dict[int, str] = {}
    places_of: dict[str, list[tuple[nn.Module, str]]] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        path, _, attribute = name.rpartition(".")
        places_of.setdefault(first.setdefault(id(tensor), name), []).append((model.get_submodule(path), attribute))
    return {name: tuple(places) for name, places in places_of.items()}


def remove(model: nn.Module, keep: Mapping[Slot, tuple[int, ...]]) -> None:
    """Keep only the given indices, in place.

    Args:
        model: changed. Trainability flags stay; shared parameters stay shared.
        keep: indices that stay, by slot.
    """
    state = tensors(model)
    new: dict[str, Tensor] = {}
    for slot, indices in keep.items():
        tensor = new.get(slot.tensor, state[slot.tensor].detach())
        new[slot.tensor] = tensor.index_select(slot.dim, torch.tensor(indices, device=tensor.device))
    set_tensors(model, new)


def set_tensors(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors of other shapes into a model, in place, and mend the attributes of the modules that hold them."""
    places = owners(model)
    touched: dict[int, tuple[nn.Module, dict[str, torch.Size]]] = {}
    for name, tensor in values.items():
        replacement: Tensor | None = None
        for module, attribute in places[name]:
            old = getattr(module, attribute)
            shapes = touched.setdefault(id(module), (module, {}))[1]
            shapes.setdefault(attribute, old.shape)  # a module with two names is met twice
            if isinstance(old, nn.Parameter):
                if replacement is None:
                    replacement = nn.Parameter(tensor.clone(), requires_grad=old.requires_grad)
                setattr(module, attribute, replacement)
            else:
                replacement = tensor.clone() if replacement is None else replacement
                module._buffers[attribute] = replacement
    for module, shapes in touched.values():
        sync_module(module, shapes)


def sync_module(module: nn.Module, before: Mapping[str, torch.Size]) -> None:
    """Make a module's size attributes agree with its tensors.

    Args:
        module: changed in place; unknown types are left as they are.
        before: shapes of the tensors that were replaced, by attribute.

    Raises:
        SurgeryError: the number of groups of a grouped layer would not be whole.
    """
    shape = getattr(module, "weight", None)
    size = None if shape is None else tuple(shape.shape)
    if isinstance(module, (*_CONVS, *_TRANSPOSED)) and size is not None:
        old = before.get("weight", torch.Size(size))
        _sync_convolution(module, old, size)
    elif isinstance(module, nn.Linear) and size is not None:
        module.out_features, module.in_features = size
    elif isinstance(module, _BATCH_NORMS):
        tensor = module.weight if module.weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = tensor.shape[0]
    elif isinstance(module, nn.LayerNorm) and size is not None:
        module.normalized_shape = size
    elif isinstance(module, nn.GroupNorm) and size is not None:
        old = before.get("weight", torch.Size(size))
        module.num_groups = 1 if module.num_groups == 1 else _whole(module.num_groups * size[0], old[0])
        module.num_channels = size[0]
    elif isinstance(module, nn.PReLU) and size is not None:
        module.num_parameters = size[0]


def _sync_convolution(module: nn.Module, old: torch.Size, size: tuple[int, ...]) -> None:
    transposed = isinstance(module, _TRANSPOSED)
    groups = int(module.groups)  # type: ignore[arg-type]
    if groups > 1 and size[1] == old[1] and groups * size[0] % old[0] == 0:
        groups = _whole(groups * size[0], old[0])
    elif groups > 1 and size[0] % groups:
        _whole(groups * size[0], old[0])
    module.groups = groups  # type: ignore[assignment]
    first, second = size[0], size[1] * groups
    module.in_channels = first if transposed else second  # type: ignore[assignment]
    module.out_channels = second if transposed else first  # type: ignore[assignment]


def _whole(numerator: int, denominator: int) -> int:
    if numerator % denominator or not numerator:
        raise SurgeryError(
            f"{numerator}/{denominator} is not a whole number of groups",
            where="grouped layer",
            fix="remove whole groups only; this tensor does not fit the architecture",
        )
    return numerator // denominator
