"""What a training minimises: the loss of the task, and further terms that are added to it with weights.

    loss of a batch = base(outputs, targets) + sum over terms of weight * term

A term is a function of what the batch showed (`Seen`) and says what must be computed for it (`needs`): only what some
term asks for is computed. Knowledge distillation, for instance, is a term that needs nothing but `inputs` and
`outputs`; a loss under other lighting needs `Need.LIT`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgesafe.errors import UsageError

__all__ = ["Base", "Need", "Objective", "Seen", "Term"]

Base = Callable[[Tensor, Tensor], Tensor]
"""outputs (n, …) and targets (n, …) to their mean loss, a scalar."""


class Need(StrEnum):
    """What a term needs beyond the network's outputs for the images as they are."""

    LIT = "lit"  #: the outputs for one copy of each image under another lighting
    CHANNELS = "channels"  #: the pre-activations of every layer, for the images and their lit copies


@dataclass(frozen=True)
class Seen:
    """What one batch showed.

    Attributes:
        inputs: normalised images, (n, C, H, W).
        targets: (n, …), as `Base` takes them.
        outputs: of the network for `inputs`, (n, …).
        lit: of the network for a copy of each image under another lighting; None unless a term needs them.
        channels: for each watched layer in the order of the forward pass, its pre-activations for the images and for
            their lit copies, each (n, channels, …); empty unless a term needs them.
    """

    inputs: Tensor
    targets: Tensor
    outputs: Tensor
    lit: Tensor | None = None
    channels: tuple[tuple[Tensor, Tensor], ...] = ()

    def of_lit(self) -> Tensor:
        """The outputs for the lit copies.

        Raises:
            UsageError: the term that asks did not say that it needs them.
        """
        if self.lit is None:
            raise UsageError("a term asks for lit copies without needing them", where="loss", fix="add Need.LIT to it")
        return self.lit


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        name: under which its mean is reported; unique within an objective.
        weight: >= 0.
        value: what the batch showed, to a scalar in the network's graph.
        needs: what must be computed for it.
    """

    name: str
    weight: float
    value: Callable[[Seen], Tensor]
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class Objective:
    """The loss of a batch.

    Attributes:
        base: the loss of the task.
        terms: what is added to it.
        tables: uint8 (m, 256): the look-up tables of the lightings; each lit copy is made by one of them, all equally
            likely. Needed where a term needs lit copies.
    """

    base: Base = F.cross_entropy
    terms: tuple[Term, ...] = ()
    tables: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if len(set(names)) != len(names):
            raise UsageError(f"two terms of one loss are called alike ({', '.join(names)})", where="loss")
        if self.needs and (self.tables is None or not len(self.tables)):
            raise UsageError("a term needs lit copies, and no lighting is given", where="loss", fix="give tables")

    @property
    def needs(self) -> frozenset[Need]:
        """What must be computed for some term."""
        return frozenset().union(*(term.needs for term in self.terms))
