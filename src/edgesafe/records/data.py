"""Labelled images, and what identifies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesafe.records.base import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DataBundle", "DataIdentity", "ImageSet"]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: uint8 (N, H, W, C), C = 3 (RGB) or 1; C-contiguous.
        labels: int64 (N,), 0 <= label < number of classes.
        sha256: hash of images and labels (see `data.identity`).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataBundle:
    """A data set, split. `validation` overlaps neither `train` nor `test`; `test` is touched by measuring only."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]  #: per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    licence: str = ""
    notes: tuple[str, ...] = ()  #: what was skipped, changed or found odd while it was read

    @property
    def num_classes(self) -> int:
        """Number of classes K; labels run from 0 to K - 1."""
        return len(self.classes)


class DataIdentity(Record):
    """A data set without its images: name, classes, sizes and hashes of its parts, and how pixels are normalised."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  #: (H, W, C)
    train_n: int
    validation_n: int
    test_n: int
    train_sha256: str
    validation_sha256: str
    test_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_distinct: int | None = None  #: different test images; None: not counted
    test_in_train: int | None = None  #: test images whose pixels are those of a training or validation image
    notes: tuple[str, ...] = ()  #: what was skipped, changed or found odd while it was read
