"""Labelled images, and what identifies them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.task import Task, TaskKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DataBundle", "DataIdentity", "ImageSet", "Images"]


class Images(Protocol):
    """Images that are given by rows: a NumPy array, or a set that is read, decoded or made when rows are asked for.

    Stages take rows, a block at a time, and never the whole, so that memory is bounded whatever the size of the set.
    """

    @property
    def shape(self) -> tuple[Any, ...]:
        """(N, H, W, C), whole numbers."""
        ...

    @property
    def ndim(self) -> int:
        """4."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """A row as uint8 (H, W, C); a slice, or int64 (n,), as uint8 (n, H, W, C), in memory."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, in memory or given by rows.

    Attributes:
        images: uint8 (N, H, W, C), C = 3 (RGB) or 1; a C-contiguous array, or see `Images`.
        labels: of the task: int64 (N,), 0 <= label < number of classes; or float32 (N, P, 2), px.
        sha256: hash of images and labels (see `data.identity`).
        task: what is asked of a network.
    """

    images: Images
    labels: NDArray[Any]
    sha256: str
    task: Task = field(default_factory=Task)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataBundle:
    """A data set, split. `validation` overlaps neither `train` nor `test`; `test` is touched by measuring only."""

    name: str
    mean: tuple[float, ...]  #: per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    licence: str = ""
    notes: tuple[str, ...] = ()  #: what was skipped, changed or found odd while it was read

    @property
    def task(self) -> Task:
        """What is asked of a network: the same of all three parts."""
        return self.test.task


class DataIdentity(Record):
    """A data set without its images: name, task, sizes and hashes of its parts, and how pixels are normalised."""

    name: str
    classes: tuple[str, ...]  #: names of the classes, or of the keypoints
    #: None, and not stored: a classification
    task: Task | None = Field(default=None, exclude_if=lambda task: task is None)
    shape: tuple[int, int, int]  #: (H, W, C)
    train_n: int = Field(ge=0)
    validation_n: int = Field(ge=0)
    test_n: int = Field(ge=1)
    train_sha256: str
    validation_sha256: str
    test_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_distinct: int | None = Field(default=None, ge=1)  #: different test images; None: not counted
    test_in_train: int | None = Field(
        default=None, ge=0
    )  #: test images whose pixels are those of a training or validation image
    notes: tuple[str, ...] = ()  #: what was skipped, changed or found odd while it was read

    @property
    def noun(self) -> str:
        """What `classes` are the names of, in the plural."""
        return (self.task or Task()).noun

    @property
    def kind(self) -> TaskKind:
        """The kind of task that the data set is for."""
        return TaskKind.CLASSIFICATION if self.task is None else self.task.kind
