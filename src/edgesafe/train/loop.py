"""Training: fine-tuning, slimming, and training a baseline from scratch; and the accuracy by which it is judged.

Everything random is a pure function of (seed, epoch), so that a run that stops after any epoch and is started again
ends with the same bytes. The optimiser is always built here, after surgery: one built before would hold dead
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, RefusedError
from edgesafe.records import ImageSet
from edgesafe.train.augmentation import FitPlan, Normalisation, epoch_draws, epoch_seed, shared
from edgesafe.train.checkpoints import Checkpoints, tensors_of, weights_of
from edgesafe.train.examples import Examples
from edgesafe.train.mode import Mode, placed
from edgesafe.train.optimiser import optimiser_of, restore, stored
from edgesafe.train.steps import Replayed, Step
from edgesafe.train.tasks import lesson_of

__all__ = ["History", "Training", "accuracy", "fit", "right"]

_JUDGED = 250  # images per forward pass where nothing is learned


def accuracy(model: nn.Module, data: ImageSet, normalise: Normalisation, mode: Mode | None = None) -> float:
    """Share of images that are answered rightly, see `right`."""
    return int(right(model, data, normalise, mode).sum()) / len(data)


def right(model: nn.Module, data: ImageSet, normalise: Normalisation, mode: Mode | None = None) -> Tensor:
    """Which images are answered rightly, in PyTorch: to judge a training, not to report.

    Args:
        model: any network for the task of the data; in eval mode afterwards.
        data: images and their labels.
        normalise: as the exported file will do it.
        mode: device and arithmetic; None: float32 on the CPU.

    Returns:
        bool (n,), on the CPU.
    """
    mode = mode or Mode()
    model.eval()
    with placed(model, mode), _reproducible(mode), torch.no_grad():
        hits, lesson = [], lesson_of(data.task)
        for start in range(0, len(data), _JUDGED):
            images = shared(data.images[start : start + _JUDGED]).to(mode.device)
            labels = shared(data.labels[start : start + _JUDGED]).to(mode.device)
            with mode.autocast():
                outputs = model(mode.lay(normalise(images)))
            hits.append(lesson.right(outputs, labels))
        return torch.cat(hits).cpu()


@dataclass(frozen=True)
class History:
    """Means over the images of each epoch.

    Attributes:
        losses: of the whole loss, one for each epoch.
        terms: likewise of each term of the objective, without its weight, by name.
    """

    losses: tuple[float, ...]
    terms: Mapping[str, tuple[float, ...]]


def fit(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalisation,
    plan: FitPlan,
    *,
    masks: Mapping[str, Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int], None] | None = None,
) -> History:
    """Train in place on the plan's objective; leaves the model in eval mode, on the CPU.

    Args:
        model: any network for the task of the data; parameters with requires_grad False stay as they are.
        data: training images.
        normalise: as the exported file will do it.
        plan: objective, schedule, seed, device and arithmetic.
        masks: parameter name -> bool tensor, True = kept; masked weights are held at zero after every step.
        checkpoints: if given, the state is kept after each epoch and found again.
        progress: called with the number of images done.

    Returns:
        Losses and terms of all epochs, those of a kept state included.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        RefusedError: nothing can be trained (all parameters frozen, or fewer than two images), or a term of the
            objective does not fit the network.
    """
    with placed(model, plan.mode):
        training = Training(model, data, normalise, plan, masks=masks, checkpoints=checkpoints)
        if progress is not None:
            progress(training.epochs * len(data))
        for _ in range(training.epochs, plan.epochs):
            with training.epoch() as sizes:
                for size in sizes:
                    training.step()
                    if progress is not None:
                        progress(size)
        model.load_state_dict(training.average, strict=False)
    model.eval()
    return training.history


class Training:
    """A training that can be driven step by step, so that several can share a GPU, each on a stream of its own.

    Arguments as of `fit`; the model already lies on the plan's device.

    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        normalise: Normalisation,
        plan: FitPlan,
        *,
        masks: Mapping[str, Tensor] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise RefusedError(
                "every parameter is frozen, so nothing can be trained", fix="set requires_grad or epochs = 0"
            )
        if len(data) < 2:
            raise RefusedError(f"{len(data)} training image", where="data", fix="BatchNorm needs at least two")
        self.plan, self._model, self._mode, self._checkpoints = plan, model, plan.mode, checkpoints
        self._optimiser = optimiser_of(plan, trained)
        self._rows, means = _resume(model, self._optimiser, checkpoints)
        self._n = len(data)
        self._examples = Examples(data, plan.mode)
        step = Step(model, self._optimiser, self._examples, normalise, plan, masks)
        self._total, self.average = step.total, step.average
        for name, value in means.items():
            self.average[name].copy_(value)
        self._step = Replayed(step) if plan.mode.cuda and self._examples.resident else step
        self._stream = torch.cuda.Stream(plan.mode.device) if plan.mode.cuda else None  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(1) if plan.mode.cuda else None
        self._ahead: Future[Tensor] | None = None
        self._left: Iterator[Tensor] = iter(())

    @property
    def epochs(self) -> int:
        """How many are done, those of a kept state included."""
        return len(self._rows)

    @property
    def history(self) -> History:
        """Losses and terms of the epochs that are done."""
        losses, *terms = zip(*self._rows, strict=True) if self._rows else ((),)
        names = [term.name for term in self.plan.objective.terms]
        return History(tuple(losses), dict(zip(names, map(tuple, terms), strict=bool(self._rows))))

    @contextmanager
    def epoch(self) -> Iterator[tuple[int, ...]]:
        """One epoch: gives the sizes of its batches, for each of which `step` must be called."""
        number = self.epochs
        for group in self._optimiser.param_groups:
            group["lr"] = self.plan.rate(number)
        self._model.train()
        devices = [self._mode.device] if self._mode.cuda else []
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._mode.device))
        with self._on_stream(), _reproducible(self._mode), torch.random.fork_rng(devices=devices):
            torch.manual_seed(epoch_seed(self.plan.seed, number, "net"))  # dropout and the like
            self._total.zero_()
            batches = torch.split(self._draws(number), self.plan.batch_size, dim=1)
            self._examples.begin(batch[0] for batch in batches)
            self._left = iter(batches)
            yield self.plan.batches(self._n)
            self._rows.append(_finite((self._total / self._n).tolist(), number))
        if self._checkpoints is not None:
            state = _state(self._model, self._optimiser, self._rows, self.average)
            with self._as_given():
                self._checkpoints.save(state)

    def step(self) -> None:
        """Learn from the next batch; on a GPU this only starts it."""
        with self._on_stream():
            self._step(next(self._left))

    @contextmanager
    def _as_given(self) -> Iterator[None]:
        """The network as the training would give it now, with running means if there are any, to be scored."""
        if not self.average:
            yield
            return
        own = {name: value.clone() for name, value in self._model.state_dict().items() if name in self.average}
        self._model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self._model.load_state_dict(own, strict=False)

    def _draws(self, number: int) -> Tensor:
        """Those of an epoch; with a GPU, the next epoch's are drawn while it is at work."""
        drawn = epoch_draws(self.plan, self._n, number) if self._ahead is None else self._ahead.result()
        if self._pool is not None and number + 1 < self.plan.epochs:
            self._ahead = self._pool.submit(epoch_draws, self.plan, self._n, number + 1)
        return drawn.to(self._mode.device)

    def _on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()


# ------------------------------------------------------------------------------------------------------- details


def _reproducible(mode: Mode) -> AbstractContextManager[None]:
    """On a GPU: only kernels that add in a fixed order, and float32 that is not shortened to TF32."""
    if not mode.cuda:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _finite(row: list[float], epoch: int) -> list[float]:
    """The means of an epoch: of the loss, and of each term."""
    loss = next((value for value in row if not math.isfinite(value)), None)
    if loss is not None:
        raise NonFiniteError(
            f"the loss is {loss} in epoch {epoch + 1}", where="training", fix="lower the learning rate"
        )
    return row


def _state(
    model: nn.Module, optimiser: torch.optim.Optimizer, rows: list[list[float]], average: Mapping[str, Tensor]
) -> bytes:
    tensors = {f"model.{name}": _stored(value) for name, value in model.state_dict().items()}
    tensors |= {f"optimiser.{name}": _stored(value) for name, value in stored(optimiser).items()}
    tensors |= {f"average.{name}": _stored(value) for name, value in average.items()}
    tensors["losses"] = torch.tensor(rows, dtype=torch.float64)
    return save_tensors(tensors)


def _stored(value: Tensor) -> Tensor:
    """A copy on the CPU, whatever the layout."""
    return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _resume(
    model: nn.Module, optimiser: torch.optim.Optimizer, checkpoints: Checkpoints | None
) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Take up a kept state: the rows of the epochs that are done, and the running means, if there are any."""
    data = checkpoints.load() if checkpoints is not None else None
    tensors = tensors_of(data) if data is not None else {}
    if not tensors:
        return [], {}
    model.load_state_dict(weights_of(tensors))
    restore(optimiser, _named(tensors, "optimiser."))
    rows: list[list[float]] = tensors["losses"].tolist()
    return rows, _named(tensors, "average.")


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
