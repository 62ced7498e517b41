"""What a network is trained for: the loss of a task, right answers, and how labels move with the image."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgesafe.records import Task, TaskKind

__all__ = ["Lesson", "lesson_of"]


class Lesson(Protocol):
    """A task as training sees it. Labels are those of the data, on the device of the outputs.

    Attributes:
        distils: whether a network can learn from another one's outputs as from shares of classes.
    """

    distils: bool

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean over the images of outputs (n, K), a scalar."""
        ...

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum over the images, a scalar."""
        ...

    def constant_loss(self, labels: Tensor) -> float:
        """Mean loss of the mean answer to these labels, which looks at no image: what a network must fall below."""
        ...

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which answers are right: bool (n,)."""
        ...

    def moved(self, labels: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:
        """The labels of cropped images.

        Args:
            labels: of the whole images.
            shift: int64 (2, n), by how many rows and columns the crop lies below and right of the image.
            flipped: bool (n,), which crops are mirrored.
        """
        ...


class _Classes:
    """Cross entropy of logits (n, K) and labels int64 (n,)."""

    distils = True

    def __init__(self, task: Task) -> None:
        pass

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum")

    def constant_loss(self, labels: Tensor) -> float:
        return float(torch.special.entr(torch.bincount(labels).double() / len(labels)).sum())

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.argmax(1) == labels

    def moved(self, labels: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:  # noqa: ARG002 - what is seen stays
        return labels


class _Keypoints:
    """Huber's loss of fractions of the image, linear beyond the tolerance; mean over coordinates.

    Labels are float32 (n, P, 2) in px. In fractions, gradients are as large as those of a cross entropy, so that the
    usual learning rates serve.
    """

    distils = False

    def __init__(self, task: Task) -> None:
        height, width = task.shape or (0, 0)  # `Task` sees to it that there is a shape, and a tolerance
        self._size, self._mirror = (float(width), float(height)), task.mirror
        self._tolerance = task.tolerance_px or 0.0
        self._bend = self._tolerance / max(height, width)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        fractions = labels / _constant(self._size, str(labels.device))
        return F.smooth_l1_loss(_pairs(outputs), fractions, beta=self._bend)

    def total(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(outputs, labels) * len(labels)

    def constant_loss(self, labels: Tensor) -> float:
        fractions = labels / _constant(self._size, str(labels.device))
        return float(self.loss(fractions.mean(0).expand_as(fractions).flatten(1), labels))

    def right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        places = _pairs(outputs) * _constant(self._size, str(labels.device))
        errors: Tensor = torch.linalg.vector_norm(places - labels, dim=2)
        return errors.amax(1) < self._tolerance

    def moved(self, labels: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:
        x, y = labels[:, :, 0] - shift[1, :, None], labels[:, :, 1] - shift[0, :, None]
        mirrored = torch.stack((self._size[0] - x, y), dim=2)[:, _constant(self._mirror, str(labels.device))]
        return torch.where(flipped[:, None, None], mirrored, torch.stack((x, y), dim=2))


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...] | tuple[int, ...], device: str) -> Tensor:
    """The values on the device; kept, since a CUDA graph must not copy from the CPU."""
    return torch.tensor(values).to(device)


def _pairs(outputs: Tensor) -> Tensor:
    """Outputs (n, 2 P) as float32 (n, P, 2)."""
    return outputs.float().view(len(outputs), -1, 2)


_LESSONS: dict[TaskKind, type[_Classes | _Keypoints]] = {
    TaskKind.CLASSIFICATION: _Classes,
    TaskKind.KEYPOINTS: _Keypoints,
}


def lesson_of(task: Task) -> Lesson:
    """What training does for this task."""
    return _LESSONS[task.kind](task)
