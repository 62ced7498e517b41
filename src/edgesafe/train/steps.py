"""One step of a training, on the CPU or a GPU, there replayed as a CUDA graph: a step is then one launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgesafe.train.augmentation import FitPlan, Normalisation, crop, shifts
from edgesafe.train.batchnorm import BATCHNORMS
from edgesafe.train.examples import Examples
from edgesafe.train.losses import BatchLoss

__all__ = ["Replayed", "Step", "penalise"]

_WARM = 3  # steps before a graph is captured: libraries choose their kernels and workspaces in the first ones


class Step:
    """Forward, loss, backward, penalty, SGD, masks: one batch. Nothing here waits for the device.

    Args:
        model: on the mode's device, in training mode when called.
        optimiser: of its parameters.
        examples: the training images, which an epoch has begun to give.
        normalise: as the exported file will do it.
        plan: objective, penalty, batch size, mode.
        masks: parameter name -> bool tensor, True = kept.

    Attributes:
        total: sums over all images since they were last set to zero, float64 (1 + terms,) on the device: of the loss,
            and of each term of the objective without its weight.
        average: running means of weights and BatchNorm statistics by name, if the plan asks for them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        examples: Examples,
        normalise: Normalisation,
        plan: FitPlan,
        masks: Mapping[str, Tensor] | None,
    ) -> None:
        self.model, self.optimiser, self.plan = model, optimiser, plan
        self._forward = plan.mode.compile(model)
        self._examples = examples
        self._loss = BatchLoss(model, plan.objective, normalise, plan.mode)
        named = dict(model.named_parameters())
        self._masks = [(named[name], mask.to(named[name])) for name, mask in (masks or {}).items()]
        self._scales = [m.weight for m in model.modules() if isinstance(m, BATCHNORMS) and m.affine]
        self.average = {
            name: value.detach().clone()
            for name, value in (model.state_dict() if plan.average else {}).items()
            if value.is_floating_point()
        }
        self._averaged = [(mean, model.state_dict()[name]) for name, mean in self.average.items()]
        self.total = torch.zeros(1 + len(plan.objective.terms), dtype=torch.float64, device=plan.mode.device)

    def __call__(self, draws: Tensor) -> None:
        """Learn from one batch: int64 (5, n) of `epoch_draws`, on the device."""
        examples = self._examples
        x, labels = examples.images(draws[0]), examples.labels[draws[0]]
        if self.plan.augment:
            x, labels = crop(x, draws[1:4]), examples.lesson.moved(labels, shifts(draws[1:4]), draws[3].bool())
        forward = self._forward if draws.shape[1] == self.plan.batch_size else self.model
        loss, terms = self._loss(forward, x, labels, draws[4])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        penalise(self._scales, self.plan.bn_l1)
        self.optimiser.step()
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
            for mean, value in self._averaged:
                mean.lerp_(value, 1.0 - self.plan.average)
            self.total += torch.cat((loss.detach().float()[None], terms)).double() * draws.shape[1]


class Replayed:
    """A step on a GPU that is captured once for each batch size and learning rate, and then replayed.

    The first steps of each size run as they are.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._rate: float | None = None
        self._runs: Counter[int] = Counter()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, draws: Tensor) -> None:
        """As `Step`; on the current stream, which must not be the default one."""
        size = draws.shape[1]
        if self._runs[size] < _WARM:
            self._runs[size] += 1
            self._step(draws)
            return
        rate = self._step.optimiser.param_groups[0]["lr"]
        if rate != self._rate:  # it is a constant of the graphs
            self._graphs.clear()
            self._rate = rate
        if size not in self._graphs:
            self._graphs[size] = self._captured(draws.clone())
        graph, place = self._graphs[size]
        place.copy_(draws)
        graph.replay()

    def _captured(self, place: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._step.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self._step(place)
        return graph, place


def penalise(scales: Sequence[Tensor], weight: float) -> None:
    """Add the sub-gradient of weight * sum |gamma| over all BatchNorm scales (Liu et al. 2017, equation 1)."""
    if weight == 0.0:
        return
    for scale in scales:
        if scale.grad is not None:
            scale.grad.add_(torch.sign(scale.detach()), alpha=weight)
