"""Checks of a finished surgery; a network that fails one of them is not returned.

Mask equivalence: the pruned network must equal the original one in which exactly the input columns that were cut are
zero. That holds for every element-wise activation, so it proves that producers and consumers were cut at matching
places. Where a LayerNorm, or another operation over all channels, runs over narrowed ones, zeroing is not removing;
there the reference computes it on the kept channels only (`surgery.whole`), and the proof says so.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.records import Proof
from edgesafe.surgery.propagation import DimensionRole, Slot
from edgesafe.surgery.remove import tensors
from edgesafe.surgery.units import ChannelGraph, layer_name
from edgesafe.surgery.whole import KeptOnly, Weights, describe, narrowed_calls, widened

__all__ = [
    "BATCH_SIZES",
    "TOLERANCE",
    "ForwardError",
    "Surgery",
    "evaluate",
    "example_batch",
    "prove_masked",
    "prove_removed",
    "require_runs",
]

TOLERANCE = 1e-5  #: relative, DESIGN section 5
BATCH_SIZES = (1, 2, 3)


class ForwardError(SurgeryError):
    """The pruned network does not run at all (as a rule: a size written as a number in its forward)."""


@dataclass(frozen=True)
class Surgery:
    """What is to be proven.

    Attributes:
        original: the network before.
        pruned: after.
        graph: of `original`.
        keep: what stayed, by slot.
        inputs: example inputs, batch 1 each.
        min_channels: no narrowed layer has fewer.
    """

    original: nn.Module
    pruned: nn.Module
    graph: ChannelGraph
    keep: Mapping[Slot, tuple[int, ...]]
    inputs: tuple[Tensor, ...]
    min_channels: int


def example_batch(inputs: Sequence[Tensor], batch: int, seed: int) -> tuple[Tensor, ...]:
    """Seeded normal noise of the inputs' shapes and types (integers: the example repeated), `batch` rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for tensor in inputs:
        shape = (batch, *tensor.shape[1:])
        if tensor.is_floating_point():
            rows.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(tensor.dtype))
        else:
            rows.append(tensor[:1].expand(shape).clone())
    return tuple(rows)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode for a while; each module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluate(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output tensors in eval mode, without gradients."""
    with evaluating(model), torch.no_grad():
        return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def prove_removed(surgery: Surgery, batches: Sequence[int] = BATCH_SIZES) -> Proof:
    """Prove a structured surgery.

    Args:
        surgery: see there.
        batches: batch sizes to try.

    Returns:
        Method "mask-equivalence"; `equivalence` is the largest difference over all outputs and batch sizes, relative to
        the largest output.

    Raises:
        ForwardError: the pruned network does not run.
        SurgeryError: one of the proofs fails; the message names the layer.
        NonFiniteError: an output is not finite.
    """
    _prove_widths(surgery)
    calls = narrowed_calls(surgery.graph, surgery.keep)
    double = _can_double(surgery.original, surgery.inputs)
    pruned, reference = copy.deepcopy(surgery.pruned), _masked(surgery)
    if double:
        pruned, reference = pruned.double(), reference.double()
    worst, standardised = 0.0, tuple[str, ...]()
    for batch in batches:
        inputs = example_batch(surgery.inputs, batch, batch)
        inputs = tuple(t.double() if double and t.is_floating_point() else t for t in inputs)
        with Weights() if surgery.graph.trace.standardised else nullcontext() as recorded:
            result = require_runs(pruned, inputs)
        weights, standardised = widened(surgery.graph, surgery.keep, recorded.seen if recorded else ())
        with KeptOnly(calls, weights) if calls or weights else nullcontext():
            expected = evaluate(reference, inputs)
        worst = max(worst, _difference(result, expected))
    if worst > TOLERANCE:
        roles = surgery.graph.trace.roles
        layers = sorted({layer_name(slot.tensor) for slot in surgery.keep if roles[slot] == DimensionRole.OUT})
        raise SurgeryError(
            f"the pruned network differs by {worst:.2g} (relative) from the original with those channels zeroed",
            where=", ".join(layers[:4]) + (", …" if len(layers) > 4 else ""),
            fix="leave these layers out (scope), and please report the architecture",
        )
    return Proof(
        method="mask-equivalence",
        equivalence=worst,
        tolerance=TOLERANCE,
        reason=describe(calls, standardised),
        batch_sizes=tuple(batches),
        classifier_intact=True,
        min_channels=_narrowest(surgery),
    )


def prove_masked(
    original: nn.Module, pruned: nn.Module, masks: Mapping[str, Tensor], inputs: tuple[Tensor, ...]
) -> Proof:
    """Prove an unstructured surgery: kept weights are untouched, the others exactly zero, nothing else changed.

    Args:
        original: before.
        pruned: after; same shapes.
        masks: bool, True = kept, by parameter.
        inputs: example inputs, batch 1 each.

    Raises:
        SurgeryError: a weight is not what the masks say, with the parameter's name.
    """
    before, after = original.state_dict(), pruned.state_dict()
    if before.keys() != after.keys():
        raise SurgeryError("parameters appeared or vanished", where="state_dict")
    for name, tensor in before.items():
        expected = torch.where(masks[name], tensor, torch.zeros_like(tensor)) if name in masks else tensor
        if not torch.equal(after[name], expected):
            raise SurgeryError("the weights are not the masked originals", where=name)
    worst = 0.0
    for batch in BATCH_SIZES:
        rows = example_batch(inputs, batch, batch)
        reference = copy.deepcopy(original)
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                if name in masks:
                    parameter.mul_(masks[name])
        worst = max(worst, _difference(require_runs(pruned, rows), evaluate(reference, rows)))
    if worst > TOLERANCE:
        raise SurgeryError(
            f"the masked network differs by {worst:.2g} from the original times its masks", where="masks"
        )
    return Proof(
        method="masked-weights", equivalence=worst, batch_sizes=BATCH_SIZES, classifier_intact=True, tolerance=TOLERANCE
    )


def require_runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of a pruned network.

    Raises:
        ForwardError: it does not run.
    """
    try:
        return evaluate(model, inputs)
    except Exception as error:  # a forward of others may raise anything
        raise ForwardError(
            f"the pruned network does not run: {(str(error).splitlines() or [type(error).__name__])[0]}",
            where="forward",
            fix="replace sizes written as numbers in the forward, such as x.view(-1, 1024), by x.flatten(1)",
        ) from error


def _difference(results: list[Tensor], expected: list[Tensor]) -> float:
    """Largest absolute difference over the largest absolute expected value, over all outputs."""
    worst = 0.0
    if [tuple(t.shape) for t in results] != [tuple(t.shape) for t in expected]:
        raise SurgeryError("the shape of the output changed: the classifier is not intact", where="output")
    for result, wanted in zip(results, expected, strict=True):
        if not bool(torch.isfinite(result).all() and torch.isfinite(wanted).all()):
            raise NonFiniteError(
                "an output of the pruned network is not finite", where="forward", fix="check the weights"
            )
        scale = float(wanted.abs().max())
        gap = float((result - wanted).abs().max())
        worst = max(worst, gap / scale if scale > 0 else gap)
    return worst


def _masked(surgery: Surgery) -> nn.Module:
    """A copy of the original with the cut input columns zeroed."""
    reference = copy.deepcopy(surgery.original)
    parameters = tensors(reference)
    with torch.no_grad():
        for slot, kept in surgery.keep.items():
            if surgery.graph.trace.roles[slot] != DimensionRole.IN:
                continue
            parameter = parameters[slot.tensor]
            mask = torch.zeros(parameter.shape[slot.dim], dtype=parameter.dtype)
            mask[list(kept)] = 1
            shape = [1] * parameter.dim()
            shape[slot.dim] = -1
            parameter.mul_(mask.view(shape))
    return reference


def _prove_widths(surgery: Surgery) -> None:
    """The classifier keeps its rows; no narrowed layer is below the minimum."""
    before, after = tensors(surgery.original), tensors(surgery.pruned)
    for layer in surgery.graph.layers:
        old, new = before[layer.weight].shape[layer.out.dim], after[layer.weight].shape[layer.out.dim]
        if layer.classifier and old != new:
            raise SurgeryError(f"the classifier was narrowed from {old} to {new} outputs", where=layer.name)
        if new < min(old, surgery.min_channels):
            raise SurgeryError(
                f"{new} channels are left, fewer than min_channels = {surgery.min_channels}",
                where=layer.name,
                fix="lower the ratio or min_channels",
            )


def _narrowest(surgery: Surgery) -> int:
    """The least number of channels that a narrowed layer keeps; 0 if none is narrowed."""
    widths = [len(kept) for slot, kept in surgery.keep.items() if surgery.graph.trace.roles[slot] == DimensionRole.OUT]
    return min(widths) if widths else 0


def _can_double(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the network runs in float64 (some create float32 tensors inside)."""
    try:
        evaluate(copy.deepcopy(model).double(), tuple(t.double() if t.is_floating_point() else t for t in inputs))
    except RuntimeError:
        return False
    return True
