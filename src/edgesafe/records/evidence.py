"""Evidence: what was seen of one ONNX file, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgesafe.records.provenance import Provenance
from edgesafe.records.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Cell", "Evidence"]


@dataclass(frozen=True)
class Cell:
    """One (corruption, severity), or clean = ("", 0). All arrays have n rows.

    A prediction that equals the label is right, and then the margin is positive. Of keypoints, label and prediction are
    sets of keypoints as bits: all of them, and those that are within the tolerance.
    """

    corruption: str
    severity: int
    index: NDArray[np.int64]  #: position in the test set
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]  #: top-1, of the float64 softmax; keypoints: 1, none is stated
    nll: NDArray[np.float64]  #: of the label, nats; keypoints: 0, there is none
    margin: NDArray[np.float64]  #: logit of the label minus the best other; or tolerance minus the worst error, px
    errors: NDArray[np.float64] | None = None  #: keypoints: (n, P), distance of each to its label, px


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of one ONNX file: enough to recompute every metric without inference.

    Attributes:
        clean: the cell of the untouched test images.
        logits: float32 (n, K), of `clean`: what the file put out.
        provenance: which file saw which pixels.
        cells: the corrupted cells, keyed by (corruption, severity).
        task: what was asked of the file.
    """

    clean: Cell
    logits: NDArray[np.float32]
    provenance: Provenance
    cells: Mapping[tuple[str, int], Cell] = field(default_factory=dict)
    task: Task = field(default_factory=Task)
