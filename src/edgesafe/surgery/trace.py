"""One forward pass that finds out which channels depend on each other.

The network runs once on an example, and every aten operation that it calls is mirrored on channel labels (`labels`):
data movement is replayed on the labels themselves, element-wise operations merge them, layers record which label owns
which index of which parameter. Whatever is not understood freezes the channels it touches; nothing is guessed. Hence
option-A shortcuts, concatenations, flattening, pixel shuffle and squeeze-excitation need no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgesafe.errors import EdgesafeError, SurgeryError, one_line
from edgesafe.models import count
from edgesafe.surgery.aliases import Views
from edgesafe.surgery.labels import Cause, Reason
from edgesafe.surgery.propagation import Trace, Tracer, fixed
from edgesafe.surgery.rules import apply_rule

__all__ = ["trace"]


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tracer: Tracer, apply: Callable[..., None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracer, self.apply, self.views = tracer, apply, Views()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        name = func.overloadpacket.__name__
        self.tracer.called[name] = self.tracer.called.get(name, 0) + 1
        self.tracer.ran += count.macs_of(func, args, given, result)
        self.apply(self.tracer, func, args, given, result)
        self.views.follow(self.tracer, func, args, given, result)
        return result


def trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> Trace:
    """Run `model` once in eval mode and mirror it on labels.

    Args:
        model: runs on the CPU; its modes are restored. Give a copy: a forward may change its own module.
        inputs: positional arguments, batch 1 each.

    Raises:
        SurgeryError: the forward depends on the data, or cannot run.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names: dict[int, str] = {}
    for name, tensor in tensors:
        names.setdefault(id(tensor), name)
    tracer = Tracer(
        names,
        {name: tensor.detach() for name, tensor in tensors if tensor.dim() == 1},
        {name: tuple(tensor.shape) for name, tensor in tensors},
    )
    for tensor in inputs:
        tracer.put(tensor, fixed(tensor))
    outputs = _run(model, inputs, tracer, apply_rule)
    if tracer.drew is not None:
        place, name = tracer.drew
        raise SurgeryError(
            f"the forward draws random numbers in eval mode (aten.{name})",
            where=place,
            fix="draw them only if self.training: F.dropout(x, p, self.training), nn.Dropout",
        )
    _freeze_unsaved(model, tracer)
    for output in outputs:
        labels = tracer.get(output)
        if labels is not None:
            tracer.atoms.freeze(labels, Reason(Cause.OUTPUT, "its channels are the network's outputs"))
    tracer.resolve()
    traced = Trace(
        atoms=tracer.atoms,
        slots=tracer.slots,
        roles=tracer.roles,
        groups=tracer.groups,
        macs=tracer.macs,
        order=tuple(tracer.macs),
        outputs=tuple(tuple(output.shape) for output in outputs),
        calls=tracer.calls,
        computed=tracer.computed,
        sizes=tuple(tracer.sizes),
        whole=tuple(tracer.whole),
        kept_groups=tracer.kept_groups,
        standardised=tuple(tracer.standardised),
    )
    if traced.macs_total != tracer.ran:
        raise SurgeryError(
            f"{tracer.ran:,} multiply-accumulates ran in convolutions and linear layers, {traced.macs_total:,} of them "
            "were followed",
            where="forward",
            fix="please report the architecture: a layer ran on a tensor whose origin is not known",
        )
    return traced


def _freeze_unsaved(model: nn.Module, tracer: Tracer) -> None:
    """A buffer that the weights file does not hold is narrowed only where all its slices are alike (blur pooling)."""
    unsaved = {
        f"{path}.{name}" if path else name: module.get_buffer(name)
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
        if name in module._buffers and module._buffers[name] is not None
    }
    for slot, labels in tracer.slots.items():
        buffer = unsaved.get(slot.tensor)
        if buffer is not None and not torch.equal(buffer, buffer.narrow(slot.dim, 0, 1).expand_as(buffer)):
            text = f"{slot.tensor} is a buffer that is not saved (persistent = False)"
            tracer.atoms.freeze(labels, Reason(Cause.COMPUTED, text))


def _run(model: nn.Module, inputs: tuple[Tensor, ...], tracer: Tracer, apply: Callable[..., None]) -> list[Tensor]:
    modes = {module: module.training for module in model.modules()}
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _m, _i, name=name: tracer.enter(name)))
        hooks.append(module.register_forward_hook(lambda _m, _i, _o: tracer.leave()))
    try:
        model.eval()
        with torch.no_grad(), _Mode(tracer, apply):
            result = model(*inputs)
    except EdgesafeError:
        raise
    except Exception as error:  # a forward of others may raise anything
        raise SurgeryError(
            f"the network does not run on inputs of shape {[tuple(t.shape) for t in inputs]}: {one_line(error)}",
            where=tracer.place,
            fix="check input_shape, or give PruneContext.example_inputs",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if tracer.built(model):
        raise SurgeryError(
            f"the forward creates layers ({', '.join(tracer.built(model)[:3])})",
            where="forward",
            fix="run one forward pass first, then prune",
        )
    if not outputs:
        raise SurgeryError("the network returns no tensor", where="forward", fix="return the logits")
    return outputs
