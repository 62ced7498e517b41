"""What a network must keep to before anything is trained: checked on a few images, refused by layer.

A classifier here maps normalised float32 (n, C, H, W), any n, to one float32 tensor of scores (n, K), and in eval mode
the scores of an image depend on that image alone. Networks of others break that in ways that show only after hours of
training, or never: they count on one batch size, return tuples, use the statistics of the batch, draw random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from edgesafe.errors import NonFiniteError, RefusedError, UsageError, one_line

__all__ = ["require_classifier", "require_plain_weights"]

_FORWARD = "a factory's network must take float32 (n, C, H, W), any n, and return one tensor of scores (n, classes)"
_TOLERANCE = 1e-3  #: of the largest score: rounding differs with the batch size, by 1e-6 on ordinary networks


@dataclass(frozen=True)
class _Call:
    """One call of one module, reduced to what concerns the first image."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def require_plain_weights(model: nn.Module) -> None:
    """Every weight is a parameter or a buffer of its module, not something that a hook computes before each call.

    Raises:
        RefusedError: `torch.nn.utils.weight_norm`, `spectral_norm`, `prune` or a parametrisation is still on a layer;
            it names the layer and the call that removes it.
    """
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            for kind, (attribute, call) in _COMPUTED.items():
                if isinstance(hook, kind):
                    tensor = getattr(hook, attribute)
                    raise RefusedError(
                        f"its {tensor} is computed before each call ({type(hook).__name__})",
                        where=name or "model",
                        fix=f"call {call}(layer, {tensor!r}) first: it makes the computed {tensor} a parameter",
                    )
        if parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            raise RefusedError(
                f"its {tensor} is computed from a parametrisation",
                where=name or "model",
                fix=f"call torch.nn.utils.parametrize.remove_parametrizations(layer, {tensor!r}) first: it makes the "
                f"computed {tensor} a parameter",
            )
        computed = next((k for k, v in vars(module).items() if isinstance(v, Tensor) and not v.is_leaf), None)
        if computed is not None:
            raise RefusedError(
                f"its {computed} is a computed tensor, neither a parameter nor a buffer",
                where=name or "model",
                fix="store it as an nn.Parameter or with register_buffer",
            )


#: Hooks that compute a weight: the attribute that names it, and what removes the hook.
_COMPUTED: Mapping[type, tuple[str, str]] = {
    WeightNorm: ("name", "torch.nn.utils.remove_weight_norm"),
    SpectralNorm: ("name", "torch.nn.utils.remove_spectral_norm"),
    BasePruningMethod: ("_tensor_name", "torch.nn.utils.prune.remove"),
}


def require_classifier(model: nn.Module, images: Tensor, classes: int, arch: str) -> Tensor:
    """Check a network before it is trained.

    Args:
        model: weights and modes stay as they are. If its forward needs contiguous memory (`x.view(n, -1)` after a
            convolution) while images come in channels-last order, a hook is added that makes its input contiguous.
        images: normalised float32 (n, C, H, W), n >= 3, as training will give them.
        classes: K.
        arch: as the recipe names it, for messages.

    Returns:
        Its scores, float32 (n, K), in eval mode.

    Raises:
        UsageError: the forward fails, or gives something else than (n, K).
        NonFiniteError: a score is NaN or infinite.
        RefusedError: a score depends on the other images of the batch or on chance; the layer is named.
    """
    require_plain_weights(model)
    trial = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _require_runs(model, trial, images, arch)
        scores = _scores(trial, images, classes, arch)
        _scores(copy.deepcopy(model).train(), images, classes, arch, mode=" in training mode")
        if not bool(torch.isfinite(scores).all()):
            raise NonFiniteError("a score is NaN or infinite", where=arch, fix="check the initial or given weights")
        _require_same(trial, images, images, scores, "two runs on the same images differ", _CHANCE)
        alone = torch.cat([_scores(trial, image[None], classes, arch) for image in images])
        _require_same(trial, images, images[:1], scores, "its answer depends on the other images", _BATCH, alone)
    return scores


_CHANCE = "draw random numbers only if self.training (F.dropout(x, p, self.training), nn.Dropout)"
_BATCH = "use statistics kept from training (BatchNorm with track_running_stats = True, in eval mode)"


def _require_runs(model: nn.Module, trial: nn.Module, images: Tensor, arch: str) -> None:
    """Run a batch; add the hook to both if contiguous memory is what is missing."""
    error = _failure(trial, images)
    if error is None:
        return
    if not images.is_contiguous() and _failure(trial, images.contiguous()) is None:
        for network in (model, trial):
            network.register_forward_pre_hook(_contiguous)
        return
    n, channels, height, width = images.shape
    what = f"its forward fails on a batch of {n} images {height}x{width}x{channels}: {error}"
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    fix = _FORWARD
    if first is not None and first.in_channels != channels:
        fix = f"its first convolution takes {first.in_channels} channels: build it for {channels} (model.args)"
    elif _failure(trial, images[:1].contiguous()) is None:
        what = f"its forward takes one image, but fails on a batch of {n}: {error}"
        fix = f"write x.flatten(1) instead of sizes as numbers; {_FORWARD}"
    raise UsageError(what, where=arch, fix=fix)


def _contiguous(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args)


def _failure(model: nn.Module, images: Tensor) -> str | None:
    """The error of a forward in a line, or None. A network of others may raise anything."""
    try:
        model(images)
    except Exception as error:  # noqa: BLE001
        return one_line(error)
    return None


def _scores(model: nn.Module, images: Tensor, classes: int, arch: str, mode: str = "") -> Tensor:
    try:
        scores = model(images)
    except Exception as error:
        raise UsageError(
            f"its forward fails{mode} on {len(images)} images: {one_line(error)}", where=arch, fix=_FORWARD
        ) from error
    if not isinstance(scores, Tensor):
        raise UsageError(
            f"its forward returns a {type(scores).__name__}{mode}, not a tensor",
            where=arch,
            fix=f"return the scores alone (auxiliary outputs off); {_FORWARD}",
        )
    if tuple(scores.shape) != (len(images), classes) or scores.dtype is not torch.float32:
        got = f"{scores.dtype} {tuple(scores.shape)}{mode}"
        raise UsageError(
            f"its forward gives {got}, for {len(images)} images and {classes} classes",
            where=arch,
            fix=_FORWARD,
        )
    return scores.clone()


def _require_same(
    model: nn.Module,
    images: Tensor,
    others: Tensor,
    scores: Tensor,
    what: str,
    fix: str,
    again: Tensor | None = None,
) -> None:
    """The scores of `images` are those of another run, `again` or a second one; else name the layer where it starts."""
    again = model(images) if again is None else again
    if _close(scores, again):
        return
    first, second = _calls(model, images), _calls(model, others)
    culprit = next((a for a, b in zip(first, second, strict=False) if _starts(a, b)), None)
    where = "the network's forward" if culprit is None or not culprit.name else f"{culprit.name} ({culprit.kind})"
    raise RefusedError(f"in eval mode {what}", where=where, fix=fix)


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(a.abs().max()) if a.numel() else 0.0
    return a.shape == b.shape and bool(((a - b).abs() <= _TOLERANCE * scale).all())


def _starts(a: _Call, b: _Call) -> bool:
    """Whether the two calls of a module had equal inputs and gave different outputs."""
    same = len(a.inputs) == len(b.inputs) and all(_close(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
    return same and not all(_close(x, y) for x, y in zip(a.outputs, b.outputs, strict=False))


def _calls(model: nn.Module, images: Tensor) -> list[_Call]:
    """The calls of all modules, in the order in which they end: a layer before the block that holds it."""
    calls: list[_Call] = []

    def watch(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            parts = tuple(_first(t, len(images)) for t in tree_leaves((args, dict(kwargs))) if isinstance(t, Tensor))
            results = tuple(_first(t, len(images)) for t in tree_leaves(output) if isinstance(t, Tensor))
            calls.append(_Call(name, type(module).__name__, parts, results))

        return record

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules(remove_duplicate=True)
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first(tensor: Tensor, n: int) -> Tensor:
    """The part of a batch of `n` that belongs to the first image, as float64; all of it if there is no batch axis."""
    part = tensor[:1] if tensor.dim() and tensor.shape[0] == n else tensor
    return part.detach().clone().double()
