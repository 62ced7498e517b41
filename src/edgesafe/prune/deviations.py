"""How much lighting moves the channels of a network: the statistics behind the criteria usn, usn_absolute and usn_l1.

For a channel with pre-activations z for an image and z' for a copy of it under another lighting, over images, copies
and positions:

    squared    E[(z' - z)^2]             bias^2 + variance of the change
    relative   E[(z' - z)^2] / Var[z]    does not change if the channel is scaled or shifted

z is what the BatchNorms on the channel give; without any, what the layer that produces it gives. One pass: a batch's
clean values are held, of its lit copies only sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.records import Calibration
from edgesafe.surgery.propagation import DimensionRole, Slot
from edgesafe.surgery.units import ChannelGraph, ChannelGroup

__all__ = ["Deviation", "Lighting", "LitBatch", "deviations", "spots"]

LitBatch = tuple[Tensor, Iterable[Tensor]]
"""Normalised images, float32 (n, C, H, W), and their lit copies, each likewise."""

_CONSTANT = 1e-12  # variance of a channel's pre-activations below which it counts as constant
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip


@dataclass(frozen=True)
class Lighting:
    """Images and copies of them under other lightings.

    Attributes:
        batches: gives them, the same at every call.
        calibration: what they are, for the record.
    """

    batches: Callable[[], Iterable[LitBatch]]
    calibration: Calibration


@dataclass(frozen=True)
class Deviation:
    """Of the channels of one layer, each float64 (channels,); see the module.

    Attributes:
        squared: >= 0.
        variance: of the clean values, >= 0.
    """

    squared: Tensor
    variance: Tensor

    @property
    def relative(self) -> Tensor:
        """Quotient of squared and variance; 0 for a channel that is constant."""
        constant = self.variance < _CONSTANT
        return torch.where(constant, 0.0, self.squared / self.variance.masked_fill(constant, 1.0))


def spots(model: nn.Module, graph: ChannelGraph, group: ChannelGroup) -> tuple[Slot, ...]:
    """Where a group's pre-activations can be seen: its BatchNorms, or else the layers that produce it.

    Empty where neither is a module of torch.nn (a normalisation or convolution by a function).
    """
    norms = [s for s in group.units[0].indices if graph.trace.roles[s] == DimensionRole.SCALE]
    seen = tuple(slot for slot in norms if isinstance(_module(model, slot), _NORMS))
    return seen or tuple(slot for slot in group.producers if isinstance(_module(model, slot), _LAYERS))


def _module(model: nn.Module, slot: Slot) -> nn.Module | None:
    path, _, attribute = slot.tensor.rpartition(".")
    return model.get_submodule(path) if attribute == "weight" else None


def deviations(model: nn.Module, where: Iterable[Slot], lighting: Lighting) -> dict[Slot, Deviation]:
    """The deviation of each slot's layer, in eval mode.

    Args:
        model: not modified.
        where: of `spots`.
        lighting: images and lit copies.

    Raises:
        SurgeryError: no images, no copies, or a layer that did not run.
        NonFiniteError: a pre-activation is not finite.
    """
    slots = tuple(dict.fromkeys(where))
    network = copy.deepcopy(model).eval()
    sums = {slot: _Sums() for slot in slots}
    with torch.no_grad(), _watched(network, sums):
        for clean, copies in lighting.batches():
            for each in sums.values():
                each.begin()
            network(clean)
            for lit in copies:
                for each in sums.values():
                    each.compare()
                network(lit)
    return {slot: each.deviation(slot) for slot, each in sums.items()}


@dataclass
class _Sums:
    """Running sums of one layer. Mean and squared deviations of the clean values are merged batch by batch (Chan)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    around: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # sum of (z - mean)^2
    change: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # sum of (z' - z)^2
    compared: int = 0
    held: list[Tensor] = field(default_factory=list)  # of the batch: one for each call of the layer
    call: int | None = None  # of the lit pass under way; None: the clean one

    def begin(self) -> None:
        self.held, self.call = [], None

    def compare(self) -> None:
        self.call = 0

    def see(self, z: Tensor) -> None:
        """Values of one call of the layer, float64 (channels, m), that nothing else holds."""
        if self.call is None:
            self.held.append(z)
            self._merge(z)
        else:
            self.change = self.change + (z - self.held[self.call]).square().sum(1)
            self.compared += z.shape[1]
            self.call += 1

    def _merge(self, z: Tensor) -> None:
        n, mean = z.shape[1], z.mean(1)
        gap, total = mean - self.mean, self.count + n
        self.around = self.around + (z - mean[:, None]).square().sum(1) + gap.square() * (self.count * n / total)
        self.mean, self.count = self.mean + gap * (n / total), total

    def deviation(self, slot: Slot) -> Deviation:
        if not self.compared:
            raise SurgeryError("no lit copy passed through it", where=slot.tensor, fix="give images and draws")
        found = Deviation(self.change / self.compared, self.around / self.count)
        if not bool(torch.isfinite(found.squared).all() and torch.isfinite(found.variance).all()):
            raise NonFiniteError("a pre-activation is not finite", where=slot.tensor, fix="check images and weights")
        return found


@contextmanager
def _watched(network: nn.Module, sums: Mapping[Slot, _Sums]) -> Iterator[None]:
    """Hand the outputs of every slot's layer to its sums, copied: the next operation may work in place."""

    def watch(sums: _Sums, last: bool) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            rows = output.movedim(-1 if last else 1, 0).flatten(1)
            sums.see(rows.to(torch.float64, copy=True))

        return hook

    hooks = []
    for slot, each in sums.items():
        module = network.get_submodule(slot.tensor.rpartition(".")[0])
        hooks.append(module.register_forward_hook(watch(each, isinstance(module, nn.Linear))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
