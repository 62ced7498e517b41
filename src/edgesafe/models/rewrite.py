"""Option-A shortcuts (take every s-th pixel, pad the channels with zeros) as fixed 1x1 convolutions.

torch-pruning cannot follow a strided slice with zero padding; it can follow a convolution. The output stays bit-equal:
each output channel is one input channel times one, plus exact zeros.

Two ways to find them, both by what they do and not by how they are written (`F.pad`, `torch.cat` with zeros,
`x.mul(0)`, average pooling before it):

1. a submodule without parameters, run on random numbers, is seen to select and pad;
2. inside a block's own `forward`, torch.fx shows each intermediate result; the block is then replaced by its traced
   copy, with the same parameter names, in which a convolution stands for the selecting and padding.

The convolution's weight does not require gradients: fine-tuning leaves it alone. Set `requires_grad` to train it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgesafe.errors import SurgeryError, UsageError

__all__ = ["fixed_convolution", "option_a_to_conv"]

_MAX_STRIDE = 4
_NAME = "option_a"  #: of the convolution inside a traced block


@dataclass(frozen=True)
class _Selection:
    """Average pooling (1: none) and step in space; then channel i goes to i + before, the others of `out` are 0."""

    channels: int
    out: int
    before: int
    stride: int
    pool: int

    def apply(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, out, H', W')."""
        pads = (0, 0, 0, 0, self.before, self.out - self.channels - self.before)
        return F.pad(self._spatial(x), pads)

    def _spatial(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.pool, self.stride) if self.pool > 1 else x[:, :, :: self.stride, :: self.stride]

    def module(self, like: Tensor) -> nn.Module:
        """The same as a convolution, behind the pooling if there is one; frozen, of the dtype and device of `like`."""
        convolution = fixed_convolution(self.channels, self.out, self.before, 1 if self.pool > 1 else self.stride)
        convolution.to(dtype=like.dtype, device=like.device)
        return nn.Sequential(nn.AvgPool2d(self.pool, self.stride), convolution) if self.pool > 1 else convolution


def fixed_convolution(channels: int, out: int, before: int, stride: int) -> nn.Conv2d:
    """A 1x1 convolution without bias that copies channel i to channel i + before. Its weight is frozen."""
    convolution = nn.Conv2d(channels, out, 1, stride, bias=False)
    convolution.weight.requires_grad_(False).zero_()
    index = torch.arange(channels)
    convolution.weight[index + before, index, 0, 0] = 1.0
    return convolution


def option_a_to_conv(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Replace every option-A shortcut by a fixed convolution, in place; the output is proven bit-equal.

    Args:
        model: the network; modes are restored, parameter names stay, the weight of each fixed convolution is added.
        input_shape: (H, W, C).

    Returns:
        Module paths of what was replaced: shortcut modules, or blocks that were traced.

    Raises:
        SurgeryError: none is found, or the output is not the same bit for bit (the network is then as it was).
        UsageError: the network does not take such images.
    """
    modes = {module: module.training for module in model.modules()}
    height, width, channels = input_shape
    probe = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    model.eval()
    done: dict[str, nn.Module] = {}
    try:
        with torch.no_grad():
            inputs, before = _record(model, probe)
            _replace_modules(model, inputs, done)
            _replace_in_blocks(model, inputs, done)
            _prove(model, probe, before, tuple(done))
    except SurgeryError:
        for name, module in done.items():
            _set(model, name, module)
        raise
    finally:
        for name, old in done.items():
            for module in model.get_submodule(name).modules():
                module.training = modes[old]
        for module, mode in modes.items():
            module.training = mode
    return tuple(sorted(done))


def _prove(model: nn.Module, probe: Tensor, before: Tensor, names: tuple[str, ...]) -> None:
    if not names:
        raise SurgeryError(
            "has no option-A shortcut that can be recognised",
            where=type(model).__name__,
            fix="set rewrite = false, or put the slice and the padding into a module of their own",
        )
    where, fix = ", ".join(names), "set rewrite = false"
    try:
        after = model(probe)
    except RuntimeError as error:
        raise SurgeryError(f"the rewritten network does not run: {error}", where=where, fix=fix) from error
    if not torch.equal(before, after):
        raise SurgeryError(
            f"the rewritten network differs by {float((before - after).abs().max()):.3g}", where=where, fix=fix
        )


def _record(model: nn.Module, probe: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Each submodule's input where it has exactly one, a (n, C, H, W) tensor; and the network's output."""
    inputs: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():

        def keep(_module: nn.Module, args: tuple[Any, ...], _name: str = name) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and args[0].ndim == 4:
                inputs[_name] = args[0].clone()

        hooks.append(module.register_forward_pre_hook(keep))
    try:
        output = model(probe)
    except RuntimeError as error:
        raise UsageError(
            f"the network does not take images of shape {tuple(probe.shape[1:])} (C, H, W): {error}",
            where="input_shape",
            fix="check the image size and the architecture",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise UsageError(f"the network gives {type(output).__name__}", where="model.arch", fix="return one tensor")
    return inputs, output


def _recognise(function: Callable[[Tensor], Any], like: Tensor) -> _Selection | None:
    """What selection and padding `function` does on tensors shaped like `like`, or None if it does anything else."""
    generator = torch.Generator().manual_seed(1)
    probes = [torch.randn(like.shape, generator=generator).to(like) for _ in range(2)]
    try:
        results = [function(probe.clone()) for probe in probes]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    first, channels = results[0], like.shape[1]
    if not isinstance(first, Tensor) or first.ndim != 4 or first.shape[1] <= channels:
        return None
    used = torch.nonzero(first.abs().sum((0, 2, 3))).flatten()
    before = int(used[0]) if len(used) else 0
    if before + channels > first.shape[1]:
        return None
    for stride in range(1, _MAX_STRIDE + 1):
        for pool in {1, stride}:
            selection = _Selection(channels, int(first.shape[1]), before, stride, pool)
            if all(torch.equal(selection.apply(p), r) for p, r in zip(probes, results, strict=True)):
                return selection
    return None


def _replace_modules(model: nn.Module, inputs: dict[str, Tensor], done: dict[str, nn.Module]) -> None:
    """First way: submodules without parameters, outer ones first."""
    for name, module in list(model.named_modules()):
        if not name or name not in inputs or _has_state(module) or _inside(name, done):
            continue
        selection = _recognise(module, inputs[name])
        if selection is not None:
            done[name] = module
            _set(model, name, selection.module(inputs[name]))


def _replace_in_blocks(model: nn.Module, inputs: dict[str, Tensor], done: dict[str, nn.Module]) -> None:
    """Second way: modules whose own forward selects and pads, inner ones first."""
    for name, block in reversed(list(model.named_modules())):
        own_code = not type(block).__module__.startswith("torch.nn.")
        if not name or name not in inputs or not own_code or not _has_state(block):
            continue
        if any(_inside(other, {name}) for other in done):
            continue
        traced = _rewrite_block(block, inputs[name])
        if traced is not None:
            done[name] = block
            _set(model, name, traced)


def _rewrite_block(block: nn.Module, x: Tensor) -> fx.GraphModule | None:
    """A traced copy of the block, convolutions for its option-A shortcuts; None if it has none or defies tracing."""
    try:
        traced = _trace(block)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        return None
    if any("training" in node.kwargs for node in traced.graph.nodes):
        return None  # functional dropout and the like: the mode would be frozen in
    interpreter = fx.Interpreter(traced, garbage_collect_values=False)
    interpreter.run(x.clone())
    values = dict(interpreter.env)
    count = 0
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in (F.pad, torch.cat, torch.concat):
            continue
        for source in _sources(node):
            value = values[source]
            selection = None
            if isinstance(value, Tensor) and value.ndim == 4:
                selection = _recognise(_function(traced, source, node, x), value)
            if selection is not None:
                name = f"{_NAME}{count}" if count else _NAME
                traced.add_module(name, selection.module(x))
                with traced.graph.inserting_after(node):
                    node.replace_all_uses_with(traced.graph.call_module(name, (source,)))
                count += 1
                break
    if not count:
        return None
    for name, child in block.named_children():  # those that the forward does not use: their weights stay in the file
        if not hasattr(traced, name):
            traced.add_module(name, child)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _trace(block: nn.Module) -> fx.GraphModule:
    """torch.fx's trace, which by itself stops at `torch.zeros(x.size(0), …)`: sizes are proxies there."""
    tracer, zeros = fx.Tracer(), torch.zeros

    def traced_zeros(*args: Any, **kwargs: Any) -> Any:
        symbolic = any(
            isinstance(item, fx.Proxy) for arg in args for item in (arg if isinstance(arg, tuple) else (arg,))
        )
        return tracer.create_proxy("call_function", zeros, args, kwargs) if symbolic else zeros(*args, **kwargs)

    with mock.patch.object(torch, "zeros", traced_zeros):  # as torch.fx itself patches Module.__call__ meanwhile
        graph = tracer.trace(block)
    return fx.GraphModule(block, graph)


def _function(traced: fx.GraphModule, source: fx.Node, node: fx.Node, x: Tensor) -> Callable[[Tensor], Any]:
    """The value of `node` as a function of the value of `source`, the block's input being `x`."""

    def run(value: Tensor) -> Any:
        interpreter = fx.Interpreter(traced, garbage_collect_values=False)
        interpreter.run(x.clone(), initial_env={source: value})
        return interpreter.env[node]

    return run


def _sources(node: fx.Node) -> list[fx.Node]:
    """Nodes upstream of `node`, farthest first, not beyond the nearest modules and inputs."""
    upstream: list[fx.Node] = []
    queue = list(node.all_input_nodes)
    while queue:
        current = queue.pop(0)
        if current not in upstream:
            upstream.append(current)
            if current.op in ("call_function", "call_method"):
                queue += current.all_input_nodes
    return upstream[::-1]


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _inside(name: str, outer: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in outer)


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
