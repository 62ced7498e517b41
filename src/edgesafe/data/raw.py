"""What a reader of images gives, and a loader of a data set, before it is checked, split and hashed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.records import Images, Task

__all__ = ["ClassImages", "RawData"]


@dataclass(frozen=True)
class ClassImages:
    """Decoded images with their classes: of one part of a set, or of a whole one that is to be split.

    Attributes:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,), positions in `classes`.
        classes: their names.
        names: of the images, as a table of parts names them.
        notes: what was skipped or changed.
    """

    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawData:
    """What a loader gives. `validation` None: held out of train by `load`."""

    train: tuple[object, object]
    test: tuple[object, object]
    task: Task
    validation: tuple[object, object] | None = None
    hold_out: int = 0  #: images held out if the recipe does not say
    mean: tuple[float, ...] | None = None  #: None: computed from train
    std: tuple[float, ...] | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()
