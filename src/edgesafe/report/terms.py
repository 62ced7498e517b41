"""What the columns of the tables mean, for the readers of the page: the terms of the study's task."""

from __future__ import annotations

from edgesafe import metrics
from edgesafe.records import TaskKind

__all__ = ["terms"]

#: A metric that a task must have for the term to be shown (None: any), the term, and what it means.
_TERMS: tuple[tuple[str | None, str, str], ...] = (
    (None, "Baseline", "The network before compression, exported and measured in the same way."),
    (None, "pp", "Percentage points: the difference of two percentages."),
    (
        "pck@2", "Keypoints within 2 px",
        "Share of all keypoints that the network puts nearer than 2 px to their labels; accuracy is the share of "
        "images with all keypoints within the tolerance.",
    ),
    ("error.mean_px", "Keypoint error", "Mean distance of the keypoints to their labels, in pixels."),
    (
        "ece_em10_top1", "ECE",
        "Expected calibration error of the top-1 confidence, 10 bins of equal mass, ties kept together. 0 % is "
        "perfect. Floor: the 95th percentile that a perfectly calibrated network would show with as few images; below "
        "it, an ECE cannot be told from perfect.",
    ),
    (
        "ece_em10_top1", "ECE after temperature",
        "The same after temperature scaling, fitted on validation images only.",
    ),
    (
        "nll", "NLL",
        "Mean negative log-likelihood of the right class. Lower is better; unlike ECE it cannot be improved by losing "
        "accuracy.",
    ),
    ("mpc", "mPC", "Mean performance under corruption: accuracy averaged over all corruptions and severities."),
    (
        "brier", "Brier score",
        "Squared error of the class probabilities, summed over classes, averaged over images: 0 (perfect) to 2.",
    ),
    (None, "MACs", "Multiply-accumulate operations for one image."),
    (None, "Sparsity", "Share of the convolution weights that are exactly zero."),
    (
        None, "Latency ratio",
        "Median latency divided by the baseline's, timed in turns in one process. Below 1 is faster.",
    ),
    (None, "ONNX file", "1 MB is 1,000,000 bytes. The sparse file gives bit-equal outputs and is smaller to store."),
)  # fmt: skip
_FLIPS = {
    TaskKind.CLASSIFICATION: "Images on which variant and baseline predict different classes.",
    TaskKind.KEYPOINTS: "Images of which variant and baseline put different keypoints within the tolerance.",
}
_SIBLING = (
    "fp32 sibling",
    "The float32 file with the same weights that a file of another precision was converted from.",
)


def terms(kind: TaskKind, *, siblings: bool) -> tuple[tuple[str, str], ...]:
    """Terms and what they mean.

    Args:
        kind: of the study's task.
        siblings: whether files of other precisions are compared with the fp32 files they came from.
    """
    shown = [(name, text) for metric, name, text in _TERMS if metric is None or kind in metrics.get(metric).tasks]
    return (*shown, *((_SIBLING,) if siblings else ()), ("Flips", _FLIPS[kind]))
