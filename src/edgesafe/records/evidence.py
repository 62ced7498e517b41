"""Evidence: what was seen of one ONNX file, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgesafe.records.provenance import Provenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Cell", "Evidence"]


@dataclass(frozen=True)
class Cell:
    """One (corruption, severity), or clean = ("", 0). All arrays have n rows."""

    corruption: str
    severity: int
    index: NDArray[np.int64]  #: position in the test set
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]  #: top-1, of the float64 softmax
    nll: NDArray[np.float64]  #: of the label, nats
    margin: NDArray[np.float64]  #: logit of the label minus the best other


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of one ONNX file: enough to recompute every metric without inference.

    Attributes:
        clean: the cell of the untouched test images.
        logits: float32 (n, K), of `clean`.
        provenance: which file saw which pixels.
        cells: the corrupted cells, keyed by (corruption, severity).
    """

    clean: Cell
    logits: NDArray[np.float32]
    provenance: Provenance
    cells: Mapping[tuple[str, int], Cell] = field(default_factory=dict)
