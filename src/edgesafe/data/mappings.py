"""Data sets as named arrays: what npz archives, folders of NumPy files and `module:factory` give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.data import keypoints
from edgesafe.data.options import require_none
from edgesafe.data.raw import RawData
from edgesafe.data.rows import LazyImages
from edgesafe.errors import DataError
from edgesafe.records import Images, Task

__all__ = ["numbered", "raw_data"]


def raw_data(mapping: Mapping[str, Any], where: str, args: Mapping[str, Any] | None = None) -> RawData:
    """A data set of named arrays.

    Labels of one number for each image are classes; of x and y for each of some points, keypoints.

    Args:
        mapping: x_train, y_train, x_test, y_test; perhaps x_val, y_val, classes; of keypoints: names, pairs,
            tolerance.
        where: names them in messages.
        args: `data.args` of the recipe.

    Raises:
        DataError: one is missing, or labels cannot be used.
    """
    missing = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in mapping]
    if missing:
        raise DataError(f"no {', '.join(missing)}", where=where, fix="give x_train, y_train, x_test, y_test")
    y_train = np.asarray(mapping["y_train"])
    validation = (mapping["x_val"], mapping["y_val"]) if "x_val" in mapping and "y_val" in mapping else None
    if y_train.ndim == 3 and y_train.shape[2] == 2:
        x_train: Images = (
            mapping["x_train"] if isinstance(mapping["x_train"], LazyImages) else np.asarray(mapping["x_train"])
        )
        if x_train.ndim < 3:
            raise DataError(f"images have shape {x_train.shape}", where=where, fix="store them as (N, H, W, 3)")
        given = {key: np.asarray(mapping[key]).tolist() for key in ("names", "pairs", "tolerance") if key in mapping}
        options = keypoints.options_of({**given, **(args or {})})
        numbers = [str(k) for k in range(1, y_train.shape[1] + 1)]
        task = keypoints.task_of(options, numbers, (x_train.shape[1], x_train.shape[2]))
        return RawData(
            train=(x_train, y_train), test=(mapping["x_test"], mapping["y_test"]), task=task, validation=validation,
            hold_out=max(1, len(y_train) // 10),
        )  # fmt: skip
    require_none(args or {}, "a set of classes in arrays")
    if "classes" in mapping:
        classes = tuple(str(name) for name in np.asarray(mapping["classes"]).ravel())
    else:
        if y_train.size == 0 or y_train.dtype.kind not in "iu":
            raise DataError(
                "labels must be integers, at least one", where=f"{where}: y_train", fix="store class indices from 0"
            )
        classes = numbered(y_train, where)
    return RawData(
        train=(mapping["x_train"], y_train),
        test=(mapping["x_test"], mapping["y_test"]),
        task=Task.classes(classes),
        validation=validation,
        hold_out=max(1, len(y_train) // 10),
    )


def numbered(labels: NDArray[Any], where: str) -> tuple[str, ...]:
    """Names of classes that only their numbers are known of: each of 0..K-1 must have a training image.

    Raises:
        DataError: one has none, as with labels from 1 to K.
    """
    present = np.unique(labels)
    k = int(present[-1]) + 1
    if int(present[0]) >= 0 and len(present) != k:
        least = next(number for number in range(len(present) + 1) if number not in set(present.tolist()))
        raise DataError(
            f"labels run from {int(present[0])} to {k - 1}, but none is {least}",
            where=f"{where}: y_train",
            fix="number the classes from 0 without gaps, or name all of them in an array 'classes'",
        )
    return tuple(str(number) for number in range(k))
