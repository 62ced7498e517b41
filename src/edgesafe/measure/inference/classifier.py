"""What measuring and certifying need of an open file: logits of images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesafe.records import Images

__all__ = ["Classifier"]


class Classifier(Protocol):
    """A network that gives logits: `session.OnnxClassifier`, or anything like it."""

    def logits(self, images: Images, batch_size: int = 32) -> NDArray[np.float32]:
        """Logits of images, `batch_size` of them at a time.

        Args:
            images: uint8 (n, H, W, C), asked for batch by batch.
            batch_size: images per run, >= 1.

        Returns:
            float32 (n, K).
        """
        ...
