"""The network of each seed before compression: built, loaded or trained once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgesafe import models
from edgesafe.recipe.sections import CompressSection, ExportSection, ModelSection, RecoverSection, TrainSection
from edgesafe.records import BaselineTraining
from edgesafe.stages import contract
from edgesafe.stages.train import Trainer

__all__ = ["Baselines"]


class Baselines:
    """Gives each seed's network when it is first asked for. One is held at a time: a study goes seed by seed.

    Args:
        model: the recipe's [model]: an architecture, and weights or none.
        train: the recipe's [train], for a network without weights.
        export: the recipe's [export]: a network of others is exported once before it is trained.
        trainer: trains it.
        blocks: the recipe's [[compress]], for what they say of single layers.
    """

    def __init__(
        self, model: ModelSection, train: TrainSection, export: ExportSection, trainer: Trainer,
        blocks: Sequence[CompressSection] = (),
    ) -> None:  # fmt: skip
        self._model, self._train, self._export, self._trainer = model, train, export, trainer
        self._blocks = blocks
        self._held: tuple[int, nn.Module, BaselineTraining | None] | None = None

    def of(self, seed: int) -> nn.Module:
        """The network of a seed, in eval mode. It is shared by all variants of the seed: nothing may change it."""
        return self._of(seed)[1]

    def training(self, seed: int) -> BaselineTraining | None:
        """How that network was trained; None: it was given."""
        return self._of(seed)[2]

    def slimmed(self, block: CompressSection, recover: RecoverSection, seed: int) -> nn.Module:
        """A copy after network slimming's sparsity training, which prepares it for method channel.

        The shared network itself where the block asks for none, or where nothing can be slimmed (no BatchNorm: pruning
        then refuses it and says why).
        """
        network = self.of(seed)
        if block.slim_epochs == 0 or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            return network
        return self._trainer.slim(copy.deepcopy(network), block, recover, seed)

    def tuned(self, recover: RecoverSection, seed: int) -> nn.Module:
        """A copy after a recovery's fine-tuning, before anything was cut; the network itself for 0 epochs."""
        network = self.of(seed)
        return self._trainer.tune(copy.deepcopy(network), recover, seed) if recover.epochs else network

    def _of(self, seed: int) -> tuple[int, nn.Module, BaselineTraining | None]:
        if self._held is None or self._held[0] != seed:
            self._held = seed, *self._made(seed)
        return self._held

    def _made(self, seed: int) -> tuple[nn.Module, BaselineTraining | None]:
        torch.manual_seed(seed)  # initial weights
        network = models.build(self._model.arch, self._trainer.bundle.task.outputs, self._model.args)
        contract.check(network, self._model, self._trainer.bundle, self._export)
        height, width, channels = self._trainer.bundle.train.images.shape[1:]
        contract.check_layers(network, (height, width, channels), self._blocks)
        weights = self._model.weights_of(seed)
        if weights is None:
            return network, self._trainer.baseline(network, self._model, self._train, seed)
        names = self._trainer.bundle.task.class_names
        models.load_weights(network, models.find_weights(weights, self._model.arch, names))
        return network.eval(), None
