"""Unstructured pruning: single convolution weights, one global magnitude threshold (Han et al., arXiv 1506.02626)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgesafe.errors import SurgeryError
from edgesafe.prune.context import PruneContext, PruneOutcome
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Engine, LayerRecord, Proof, SurgeryRecord, Zeroed
from edgesafe.surgery.trace import trace
from edgesafe.surgery.verify import prove_masked

__all__ = ["magnitude_masks", "prune_weights", "zeroed"]

_CONVS = (nn.Conv2d,)


def magnitude_masks(weights: dict[str, Tensor], ratio: float) -> tuple[dict[str, Tensor], float]:
    """Masks that drop exactly round(ratio * N) of all N weights, smallest magnitude first.

    Ties are broken by position (order of `weights`, then row-major): the same on every machine.

    Args:
        weights: float tensors by name.
        ratio: in (0, 1).

    Returns:
        bool masks, True = kept, of the weights' shapes; and the largest dropped magnitude.

    Raises:
        SurgeryError: so few weights that none would be dropped, or none left.
    """
    flat = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    count = round(ratio * flat.numel())
    if not 0 < count < flat.numel():
        raise SurgeryError(
            f"ratio {ratio} of {flat.numel()} weights means dropping {count}",
            where="weights",
            fix="choose another ratio",
        )
    order = torch.argsort(flat, stable=True)[:count]
    kept = torch.ones(flat.numel(), dtype=torch.bool)
    kept[order] = False
    masks = {}
    start = 0
    for name, weight in weights.items():
        masks[name] = kept[start : start + weight.numel()].view(weight.shape).clone()
        start += weight.numel()
    return masks, float(flat[order[-1]])


def prune_weights(model: nn.Module, section: CompressSection, ratio: float, context: PruneContext) -> PruneOutcome:
    """Set the smallest convolution weights to zero (see `prune.prune`)."""
    traced = trace(copy.deepcopy(model), context.inputs())
    pruned, masks, threshold, proof = _zeroed(model, ratio, context)
    own = dict(model.named_parameters())
    modules = {name: module for name, module in model.named_modules() if f"{name}.weight" in masks}
    after = dict(pruned.named_parameters())
    zeros = sum(int((after[name] == 0).sum()) for name in masks)
    total = sum(mask.numel() for mask in masks.values())
    params = sum(p.numel() for p in own.values())
    record = SurgeryRecord(
        method=section.method.value,
        ratio=ratio,
        criterion="magnitude",
        scope="convolutions",
        engine=Engine.NONE,
        layers=tuple(
            _layer(name, module, after[f"{name}.weight"], own[f"{name}.weight"], threshold)
            for name, module in modules.items()
        ),
        params_before=params,
        params_after=params,
        macs_before=traced.macs_total,
        macs_after=traced.macs_total,
        nonzero_params=sum(int(torch.count_nonzero(p)) for p in after.values()),
        sparsity=zeros / total,
        proof=proof,
        notes=("zeros save storage, not time: no runtime skips them; parameters and MACs are counted as dense",),
    )
    return PruneOutcome(pruned, record, masks)


def zeroed(outcome: PruneOutcome, section: CompressSection, context: PruneContext) -> PruneOutcome:
    """Set the smallest of the convolution weights that are left after a structured surgery to zero, too, if asked for.

    Args:
        outcome: of the surgery; its network is not modified.
        section: its `then_weight` is the share of the remaining Conv2d weights, in (0, 1); None: nothing is done.
        context: see `prune.prune`.

    Raises:
        SurgeryError: see `magnitude_masks`, or the result cannot be proven.
    """
    ratio = section.then_weight
    if ratio is None:
        return outcome
    pruned, masks, threshold, proof = _zeroed(outcome.model, ratio, context)
    after = dict(pruned.named_parameters())
    shares = {name.removesuffix(".weight"): float((after[name] == 0).double().mean()) for name in masks}
    record = outcome.record
    layers = tuple(each.model_copy(update={"sparsity": shares.get(each.name, each.sparsity)}) for each in record.layers)
    zeros = sum(int((after[name] == 0).sum()) for name in masks)
    total = sum(mask.numel() for mask in masks.values())
    note = (
        f"then {ratio:.0%} of the remaining convolution weights became zero, the smallest first (proof: "
        f"{proof.method}): that saves storage, not time"
    )
    told = {
        "notes": (*record.notes, note),
        "layers": layers, "sparsity": zeros / total,
        "nonzero_params": sum(int(torch.count_nonzero(p)) for p in after.values()),
        "zeroed": Zeroed(ratio=ratio, threshold=threshold, proof=proof),
    }  # fmt: skip
    return PruneOutcome(pruned, record.model_copy(update=told), masks)


def _zeroed(model: nn.Module, ratio: float, context: PruneContext) -> tuple[nn.Module, dict[str, Tensor], float, Proof]:
    """A copy with the smallest Conv2d weights set to zero, the masks, the largest magnitude that went, the proof."""
    own = dict(model.named_parameters())
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _CONVS)]
    weights = {name: own[name] for name in names if name in own}
    if not weights:
        raise SurgeryError("no Conv2d holds a weight", where="model", fix="give a CNN, or use a structured method")
    masks, threshold = magnitude_masks(dict(weights), ratio)
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in pruned.named_parameters():
            if name in masks:
                parameter.masked_fill_(~masks[name], 0.0)
    return pruned, masks, threshold, prove_masked(model, pruned, masks, context.inputs())


def _layer(name: str, module: nn.Module, after: Tensor, before: Tensor, threshold: float) -> LayerRecord:
    sizes = before.numel() + (module.bias.numel() if isinstance(module.bias, Tensor) else 0)
    magnitudes = before.detach().abs()
    assert isinstance(module, nn.Conv2d)  # noqa: S101  (selected by type above)
    return LayerRecord(
        name=name,
        kind=type(module).__name__,
        out_before=module.out_channels,
        out_after=module.out_channels,
        in_before=module.in_channels,
        in_after=module.in_channels,
        params_before=sizes,
        params_after=sizes,
        sparsity=float((after == 0).double().mean()),
        criterion={
            "min": float(magnitudes.min()),
            "median": float(magnitudes.median()),
            "max": float(magnitudes.max()),
            "threshold": threshold,
        },
    )
