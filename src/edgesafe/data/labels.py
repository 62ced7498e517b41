"""Labels of images, checked: classes as whole numbers, keypoints as places in px."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.records import Task, TaskKind

__all__ = ["checked", "hashed"]


def checked(labels: object, task: Task, n: int, where: str) -> NDArray[Any]:
    """The labels of n images: int64 (n,), or float32 (n, P, 2).

    Raises:
        DataError: another shape, type or range than the task's.
    """
    return _CHECKS[task.kind](np.asarray(labels), task, n, where)


def hashed(labels: NDArray[Any]) -> bytes:
    """Labels as bytes that do not depend on the machine."""
    return labels.astype(labels.dtype.newbyteorder("<")).tobytes()


def _classes(y: NDArray[Any], task: Task, n: int, where: str) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) != n:
        raise DataError(f"{n} images but labels of shape {y.shape}", where=where, fix="store one integer per image")
    if n == 0:
        return np.empty(0, np.int64)
    if y.dtype.kind not in "iu":
        raise DataError(f"labels are {y.dtype}, not integers", where=where, fix="store class indices from 0")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= task.outputs:
        raise DataError(
            f"labels run from {low} to {high}, but there are {task.outputs} classes",
            where=where,
            fix="label classes 0..K-1",
        )
    return np.ascontiguousarray(y.astype(np.int64))


def _keypoints(y: NDArray[Any], task: Task, n: int, where: str) -> NDArray[np.float32]:
    points = len(task.names)
    if y.shape == (n, 2 * points):
        y = y.reshape(n, points, 2)
    if y.shape != (n, points, 2):
        raise DataError(
            f"{n} images but keypoints of shape {y.shape}", where=where,
            fix=f"store x and y of {points} keypoints for each image: ({n}, {points}, 2)",
        )  # fmt: skip
    if y.dtype.kind not in "iuf":
        raise DataError(f"keypoints are {y.dtype}, not numbers", where=where, fix="store x and y in px")
    places = np.ascontiguousarray(y.astype(np.float32))
    if not np.isfinite(places).all():
        row = int(np.flatnonzero(~np.isfinite(places).all(axis=(1, 2)))[0])
        raise DataError(f"a keypoint of image {row} is not finite", where=where, fix="leave out images without labels")
    height, width = task.shape or (0, 0)
    outside = ((places < 0.0) | (places > np.array([width, height]))).any(axis=(1, 2))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{int(outside.sum())} images have keypoints outside of their {width}x{height} pixels "
            f"(first: image {row}, {places[row].round(1).tolist()})"[:300],
            where=where, fix="give x from 0 to the width and y from 0 to the height, in px, from the upper left corner",
        )  # fmt: skip
    return places


_CHECKS: dict[TaskKind, Callable[[NDArray[Any], Task, int, str], NDArray[Any]]] = {
    TaskKind.CLASSIFICATION: _classes,
    TaskKind.KEYPOINTS: _keypoints,
}
