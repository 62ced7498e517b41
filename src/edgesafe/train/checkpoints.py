"""Where a training keeps its state after each epoch, and its best network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from edgesafe.files import Keeper

__all__ = ["Best", "Checkpoints", "Parts", "result_of", "tensors_of", "weights_of"]


class Checkpoints(Protocol):
    """Where `fit` keeps its state after each epoch."""

    def load(self) -> bytes | None:
        """The state that was saved last, or None if none was."""

    def save(self, state: bytes) -> None:
        """Keep a state in the place of the last one."""


class Parts(Checkpoints, Keeper, Protocol):
    """Checkpoints that can keep something beside the state."""


class Best:
    """Checkpoints that also keep the best network by a score, the start (epoch 0) included; the latest wins a tie.

    The best is kept before the state is, so a training that stops between the two does that epoch again, with the same
    result.

    Args:
        model: at its start; `fit` trains this very object.
        score: higher is better; must leave the network as it is.
        parts: where state and best are kept.
        start: the score of the network at its start, if it is known.

    Attributes:
        value: the best score so far.
    """

    def __init__(
        self, model: nn.Module, score: Callable[[nn.Module], float], parts: Parts, start: float | None = None
    ) -> None:
        self._model, self._score, self._parts = model, score, parts
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.value = score(model) if start is None else start
        self._epoch = 0
        kept = parts.get("best")
        tensors = tensors_of(kept) if kept is not None else {}
        if tensors:
            first = self._state
            self._take(tensors)
            model.load_state_dict(self._state)
            self.value = score(model)
            model.load_state_dict(first)

    def load(self) -> bytes | None:
        """The state that was saved last, or None if none was; the best network is kept apart from it."""
        return self._parts.load()

    def save(self, state: bytes) -> None:
        """Keep a state, and see whether it is the best."""
        value = self._score(self._model)
        if value >= self.value:
            self.value = value
            self._take(load_tensors(state))
            self._parts.put("best", state)
        self._parts.save(state)

    def restore(self) -> int:
        """Make the network what it was at its best; gives the epoch, 0 for the start."""
        self._model.load_state_dict(self._state)
        return self._epoch

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        self._state, self._epoch = result_of(tensors), len(tensors["losses"])


def tensors_of(state: bytes) -> dict[str, Tensor]:
    """The tensors of a kept state, by name; none if it is damaged: the training then starts again and ends the same."""
    try:
        return load_tensors(state)
    except SafetensorError:
        return {}


def weights_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own among the tensors of a state, by their names in its state_dict."""
    return {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}


def result_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a training that ended with this state would give: its weights, or their running means if it has them."""
    means = {name[8:]: value for name, value in tensors.items() if name.startswith("average.")}
    return weights_of(tensors) | means
