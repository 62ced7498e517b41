"""What a pruner gets besides the network, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from edgesafe.errors import (
    NonFiniteError,
    RecipeError,
    SurgeryError,
    UsageError,
)
from edgesafe.models.contract import require_plain_weights
from edgesafe.prune.deviations import Lighting
from edgesafe.records import AllocationRecord, SurgeryRecord

__all__ = ["PruneContext", "PruneOutcome", "require_prunable"]


@dataclass(frozen=True)
class PruneContext:
    """Facts from outside the recipe's [[compress]] section.

    Attributes:
        input_shape: (H, W, C) of one image.
        seed: of everything random.
        round_to: used where the section names none (the target's).
        mean: per channel, of pixels in [0, 1]; not needed by the built-in criteria.
        std: likewise.
        gradient_batches: gives (images float32 (n, C, H, W) normalised, their labels); for criteria that need
            gradients.
        lighting: images and lit copies, for the criteria usn.
        loss: of these gradients: sum over images of outputs and labels; None: cross entropy.
        paper_layers: module paths for scope "paper".
        allocation: what narrowing each layer alone costs and saves (`curves`), for the allocations that are measured.
        example_inputs: instead of input_shape, for networks with several inputs: tensors of batch 1.
    """

    input_shape: tuple[int, int, int]
    seed: int = 0
    round_to: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    gradient_batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None
    lighting: Lighting | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    paper_layers: tuple[str, ...] = ()
    allocation: AllocationRecord | None = None
    example_inputs: tuple[Tensor, ...] | None = None
    only: tuple[str, ...] | None = None  #: within the scope, narrow only groups with one of these layers
    engine: bool = True  #: let torch-pruning remove, compared with our slices; False: slices only (faster, same result)

    def inputs(self) -> tuple[Tensor, ...]:
        """Example inputs of batch 1, float32 seeded noise unless given.

        Raises:
            UsageError: a size is not positive, or an example has another batch size.
        """
        if self.example_inputs is not None:
            if not self.example_inputs or any(t.dim() < 1 or t.shape[0] != 1 for t in self.example_inputs):
                raise UsageError("example inputs must have batch size 1", where="example_inputs", fix="give x[:1]")
            return self.example_inputs
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise UsageError(f"{self.input_shape} is not (H, W, C)", where="input_shape", fix="give e.g. (32, 32, 3)")
        height, width, channels = self.input_shape
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(1, channels, height, width, generator=generator),)


@dataclass(frozen=True)
class PruneOutcome:
    """A pruned network, what was done, and, for method "weight", which weights stay.

    Attributes:
        model: a new module; the input model is not modified.
        record: proven (`record.proof`).
        masks: bool, True = kept, by parameter name; None for structured methods.
    """

    model: nn.Module
    record: SurgeryRecord
    masks: Mapping[str, Tensor] | None = None


def require_prunable(model: nn.Module, ratio: float) -> None:
    """Refuse what no method can prune.

    Raises:
        RecipeError: the ratio is not in (0, 1).
        SurgeryError: the network is lazy, frozen, or has no parameters.
        RefusedError: a layer's weight is computed by a hook (weight_norm, an unremoved prune).
        NonFiniteError: a weight is NaN or infinite.
    """
    if not 0.0 < ratio < 1.0:
        raise RecipeError(f"ratio {ratio} is outside (0, 1)", where="compress.ratios", fix="give a ratio such as 0.5")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | nn.UninitializedBuffer):
            raise SurgeryError("its shape is not known yet (lazy module)", where=name, fix="run one forward pass first")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError("a weight is NaN or infinite", where=name, fix="train again, or load other weights")
    require_plain_weights(model)
    parameters = list(model.parameters())
    if not parameters:
        raise SurgeryError("the network has no parameters", where="model", fix="give a CNN")
    if not any(parameter.requires_grad for parameter in parameters):
        raise SurgeryError(
            "all parameters are frozen (requires_grad = False), so nothing could recover from pruning",
            where="model",
            fix="call model.requires_grad_(True) first",
        )
