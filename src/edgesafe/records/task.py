"""What a network is asked to say of an image. The data carry it; labels, loss, margin and metrics follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from edgesafe.records.base import Record

__all__ = ["MOST_KEYPOINTS", "Task", "TaskKind"]

MOST_KEYPOINTS = 16  #: an answer is stored as 16 bits, one for each keypoint


class TaskKind(StrEnum):
    """The kinds of task that edgesafe trains, measures and certifies."""

    CLASSIFICATION = "classification"  #: one of K classes; labels int64 (n,), outputs logits (n, K)
    KEYPOINTS = "keypoints"  #: the places of P points; labels float32 (n, P, 2) in px, outputs (n, 2 P), see `Task`

    @property
    def noun(self) -> str:
        """What the names of such a task are of, in the plural: "classes" or "keypoints"."""
        return "keypoints" if self is TaskKind.KEYPOINTS else "classes"


class Task(Record):
    """A task. As it stands: a classification among classes whose names are not known.

    The outputs of a network for keypoints are x1, y1, x2, y2, …, as fractions of the image's width and height: a label
    (x, y) px of an image (H, W) is (x / W, y / H). The corner of the image is at (0, 0), the centre of its first pixel
    at (0.5, 0.5) px.
    """

    kind: TaskKind = TaskKind.CLASSIFICATION
    names: tuple[str, ...] = ()  #: of the classes, or of the keypoints
    outputs: int = Field(default=0, ge=0)  #: numbers that the network gives for an image; 0: not known
    tolerance_px: float | None = Field(default=None, gt=0.0)  #: a keypoint nearer than this to its label is right
    shape: tuple[int, int] | None = None  #: keypoints: (H, W) of the images, in px
    mirror: tuple[int, ...] = ()  #: keypoints: which keypoint each one is in a mirrored image

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind is not TaskKind.KEYPOINTS:
            return self
        points = len(self.names)
        if not 1 <= points <= MOST_KEYPOINTS or self.outputs != 2 * points:
            raise ValueError(f"{points} keypoints and {self.outputs} outputs")
        if self.tolerance_px is None or self.shape is None or min(self.shape) < 1:
            raise ValueError("keypoints need a tolerance in px and the shape of the images")
        if sorted(self.mirror) != list(range(points)) or any(self.mirror[k] != p for p, k in enumerate(self.mirror)):
            raise ValueError("mirror must exchange keypoints in pairs")
        return self

    @staticmethod
    def classes(names: Sequence[str]) -> Task:
        """The classification among these classes."""
        return Task(names=tuple(names), outputs=len(names))

    @staticmethod
    def keypoints(
        names: Sequence[str], tolerance_px: float, shape: tuple[int, int], mirror: Sequence[int] = ()
    ) -> Task:
        """The keypoints of these names in images (H, W); no `mirror`: each stays what it is in a mirrored image."""
        return Task(
            kind=TaskKind.KEYPOINTS, names=tuple(names), outputs=2 * len(names), tolerance_px=tolerance_px,
            shape=shape, mirror=tuple(mirror) or tuple(range(len(names))),
        )  # fmt: skip

    def compares_with(self, other: Task) -> bool:
        """Whether right means the same in both: names may be unknown in one of them."""
        return (self.kind, self.tolerance_px, self.shape) == (other.kind, other.tolerance_px, other.shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; of keypoints, whose names are of something else, none."""
        return self.names if self.kind is TaskKind.CLASSIFICATION else ()

    @property
    def noun(self) -> str:
        """What the names are of, in the plural: "classes" or "keypoints"."""
        return self.kind.noun
