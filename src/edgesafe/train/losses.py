"""The loss of a batch, computed: one forward pass, the task's loss, and the terms that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgesafe.errors import RefusedError
from edgesafe.train.augmentation import Normalisation, shared
from edgesafe.train.batchnorm import BATCHNORMS
from edgesafe.train.mode import Mode
from edgesafe.train.objective import Need, Objective, Seen

__all__ = ["BatchLoss", "relight", "watched"]

_PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def relight(images: Tensor, tables: Tensor, which: Tensor) -> Tensor:
    """Each image with every pixel value looked up in one table.

    Args:
        images: uint8 (n, H, W, C).
        tables: uint8 (m, 256), on the same device.
        which: int64 (n,): the table of each image, 0 <= which < m.

    Returns:
        uint8 (n, H, W, C).
    """
    return tables[which].gather(1, images.flatten(1).long()).view_as(images)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """The pre-activations of each layer, in the order of the forward passes made inside, in the list that it gives.

    They are the outputs of the BatchNorms; in a network without any, of convolutions and linear layers, the last call
    included. Each is copied, since the operation after it may work in place.
    """
    modules = list(model.modules())
    kinds = BATCHNORMS if any(isinstance(module, BATCHNORMS) for module in modules) else _PRODUCERS
    chosen = [module for module in modules if isinstance(module, kinds)]
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _m, _i, output: seen.append(output.clone())) for module in chosen]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class BatchLoss:
    """The values that an objective gives for batches.

    Args:
        model: on the mode's device; its layers are watched where a term needs it.
        objective: see `Objective`.
        normalise: as the exported file will do it.
        mode: arithmetic, layout, device.
    """

    def __init__(self, model: nn.Module, objective: Objective, normalise: Normalisation, mode: Mode) -> None:
        self._model, self._objective, self._normalise, self._mode = model, objective, normalise, mode
        self._tables = None if objective.tables is None else shared(objective.tables).to(mode.device)

    def __call__(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, which: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the terms that it is made of.

        Args:
            forward: the model, or a compiled form of it.
            images: uint8 (n, H, W, C), cropped.
            targets: (n, …).
            which: int64 (n,): the lighting of each image's copy; not looked at unless a term needs it.

        Returns:
            The loss, a scalar in the network's graph; and float32 (terms,), the terms without their weights, detached.

        Raises:
            RefusedError: a term needs pre-activations, and the network has fewer than two layers to look at.
        """
        with self._mode.autocast():
            seen = self._seen(forward, images, targets, which)
            loss = self._objective.base(seen.outputs, targets)
            values = [term.value(seen) for term in self._objective.terms]
        for term, value in zip(self._objective.terms, values, strict=True):
            loss = loss + term.weight * value
        parts = [value.detach().float() for value in values]
        return loss, torch.stack(parts) if parts else loss.new_zeros(0, dtype=torch.float32)

    def _seen(self, forward: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, which: Tensor | None) -> Seen:
        """Images and lit copies pass in one batch, so that BatchNorm normalises both alike."""
        needs = self._objective.needs
        if not needs or self._tables is None or which is None:
            x = self._mode.lay(self._normalise(images))
            return Seen(x, targets, forward(x))
        n = len(images)
        x = self._mode.lay(self._normalise(torch.cat((images, relight(images, self._tables, which)))))
        if Need.CHANNELS not in needs:
            outputs = forward(x)
            return Seen(x[:n], targets, outputs[:n], outputs[n:])
        with watched(self._model) as layers:
            outputs = forward(x)
        if len(layers) < 2:
            raise RefusedError(
                f"{len(layers)} layer with channels to compare", where="robust", fix="use robust.lit alone"
            )
        channels = tuple((z[:n].float(), z[n:].float()) for z in layers)
        return Seen(x[:n], targets, outputs[:n], outputs[n:], channels)
