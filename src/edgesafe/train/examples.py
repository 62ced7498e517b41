"""Training images where they are needed: on the device as a whole, or read ahead batch by batch from where they lie."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from edgesafe.data.rows import blocks
from edgesafe.records import ImageSet
from edgesafe.train.augmentation import shared
from edgesafe.train.mode import Mode
from edgesafe.train.tasks import lesson_of

__all__ = ["Examples"]

_AHEAD = 3  # batches that are read before they are asked for


class Examples:
    """The images and labels of a training, on a mode's device.

    An array is there as a whole, and so is a set on disk if it takes at most half of a GPU's free memory. Otherwise a
    thread reads the next batches while the network learns from this one; which images they are, and in which order,
    is the same.

    Args:
        data: uint8 (N, H, W, C) and labels of its task.
        mode: its device.

    Attributes:
        labels: of all images, on the device.
        lesson: the task as training sees it.
    """

    def __init__(self, data: ImageSet, mode: Mode) -> None:
        self._mode, self._data = mode, data
        self.labels = shared(data.labels).to(mode.device)
        self.lesson = lesson_of(data.task)
        self._whole = self._placed()
        self._pool = ThreadPoolExecutor(1) if self._whole is None else None
        self._ahead: deque[Future[Tensor]] = deque()
        self._left: Iterator[Tensor] = iter(())

    @property
    def resident(self) -> bool:
        """Whether all images lie on the device."""
        return self._whole is not None

    def begin(self, batches: Iterable[Tensor]) -> None:
        """Start an epoch.

        Args:
            batches: int64 (n,), rows of each batch, in the order in which `images` will ask for them.
        """
        if self._pool is None:
            return
        for future in self._ahead:  # of an epoch that was given up
            future.cancel()
        self._ahead.clear()
        self._left = iter(batches)
        for _ in range(_AHEAD):
            self._read_on()

    def images(self, rows: Tensor) -> Tensor:
        """The images of the next batch: uint8 (n, H, W, C), on the device.

        Args:
            rows: int64 (n,), on the device.
        """
        if self._whole is not None:
            return self._whole[rows]
        self._read_on()
        return self._ahead.popleft().result().to(self._mode.device)

    def _read_on(self) -> None:
        rows = next(self._left, None)
        if rows is not None and self._pool is not None:
            self._ahead.append(self._pool.submit(self._read, rows))

    def _read(self, rows: Tensor) -> Tensor:
        return shared(self._data.images[rows.cpu().numpy()])

    def _placed(self) -> Tensor | None:
        images = self._data.images
        if isinstance(images, np.ndarray):
            return shared(images).to(self._mode.device)
        if not self._mode.cuda or int(np.prod(images.shape)) > torch.cuda.mem_get_info(self._mode.device)[0] // 2:
            return None
        whole = torch.empty(tuple(images.shape), dtype=torch.uint8, device=self._mode.device)
        for rows in blocks(images):
            whole[rows] = shared(images[rows]).to(self._mode.device)
        return whole
