"""From logits to probabilities and to a cell of evidence, in float64, refusing anything that is not a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import (
    DataError,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
)
from edgesafe.records import Cell

__all__ = ["cell_from_logits", "check_labels", "check_logits", "check_probabilities", "log_softmax64", "softmax64"]

_ROW_SUM_TOLERANCE = 1e-3  # float16 probabilities of 1,000 classes still sum to 1 within this
_CHUNK = 65_536  # rows worked on at a time: bounds the float64 temporaries on 750,000 x 1,000 logits


def check_logits(logits: NDArray[Any], *, where: str = "logits") -> None:
    """Refuses logits that no metric may rest on.

    Args:
        logits: floating point (n, K), n >= 1, K >= 2, all finite.
        where: named in the message.

    Raises:
        NothingEvaluated: n = 0.
        DataError: not two-dimensional, not floating point, or K < 2.
        NonFiniteError: NaN or infinity, with the number of rows.
    """
    if logits.ndim != 2:
        raise DataError(
            f"shape {logits.shape} is not (n, K)", where=where, fix="give one row of class scores per image"
        )
    if logits.shape[0] == 0:
        raise NothingEvaluated("no images", where=where, fix="give at least one image")
    if logits.shape[1] < 2:
        raise DataError(
            f"{logits.shape[1]} class column(s)", where=where, fix="give a classifier of two or more classes"
        )
    if not np.issubdtype(logits.dtype, np.floating):
        raise DataError(f"type {logits.dtype} is not floating point", where=where, fix="give the raw class scores")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise NonFiniteError(
            f"{bad} of {len(logits)} rows hold NaN or infinity",
            where=where,
            fix="repair the network; no metric is made of this",
        )


def check_labels(labels: NDArray[Any], n: int, num_classes: int, *, where: str = "labels") -> None:
    """Refuses labels that do not belong to `n` rows of `num_classes` classes.

    Raises:
        DataError: wrong shape, not integers, or outside [0, num_classes).
    """
    if labels.shape != (n,):
        raise DataError(f"shape {labels.shape} is not ({n},)", where=where, fix="give one label per image")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"type {labels.dtype} is not an integer", where=where, fix="give class indices")
    if n and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise DataError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, the network has {num_classes} classes",
            where=where,
            fix="use the data set that the network was trained for",
        )


def check_probabilities(
    probs: NDArray[Any], labels: NDArray[Any] | None = None, *, where: str = "probabilities"
) -> None:
    """Refuses rows that are not probability distributions (and labels that do not fit them).

    Args:
        probs: floating point (n, K), rows in [0, 1] that sum to 1 within 1e-3.
        labels: integers (n,) in [0, K), or None.
        where: named in the message.

    Raises:
        NothingEvaluated: n = 0.
        DataError: wrong shape or type, K < 2, or labels that do not fit.
        NonFiniteError: NaN or infinity.
        RefusedError: values outside [0, 1] (logits?), or rows that do not sum to 1.
    """
    check_logits(probs, where=where)
    if float(probs.min()) < -1e-9 or float(probs.max()) > 1 + 1e-6:
        raise RefusedError(
            f"values from {float(probs.min()):.4g} to {float(probs.max()):.4g} are outside [0, 1]",
            where=where,
            fix="these look like logits: apply softmax, or state that the output is logits",
        )
    off = float(np.abs(probs.sum(axis=1, dtype=np.float64) - 1.0).max())
    if off > _ROW_SUM_TOLERANCE:
        raise RefusedError(f"a row's sum differs from 1 by {off:.3g}", where=where, fix="give softmax probabilities")
    if labels is not None:
        check_labels(labels, probs.shape[0], probs.shape[1])


def log_softmax64(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log of `softmax64`, computed without overflow.

    Args:
        logits: floating point (n, K), finite.

    Returns:
        float64 (n, K), each <= 0.

    Raises:
        NothingEvaluated, DataError, NonFiniteError: see `check_logits`.
    """
    check_logits(logits)
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


def softmax64(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax in float64, whatever the type of the logits.

    float32 softmax makes thousands of confidences exactly 1.0, which then tie; float64 does not.

    Args:
        logits: floating point (n, K), finite.

    Returns:
        float64 (n, K), rows sum to 1.

    Raises:
        NothingEvaluated, DataError, NonFiniteError: see `check_logits`.
    """
    check_logits(logits)
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def cell_from_logits(
    logits: NDArray[Any],
    labels: NDArray[Any],
    indices: NDArray[Any],
    corruption: str = "",
    severity: int = 0,
) -> Cell:
    """Everything that later metrics need of one (corruption, severity).

    Args:
        logits: floating point (n, K), finite.
        labels: integers (n,) in [0, K).
        indices: integers (n,), positions in the test set, each once.
        corruption: name, or "" for clean images.
        severity: 1..5, or 0 for clean images.

    Returns:
        Cell: prediction (first arg max), top-1 confidence, NLL in nats and margin (logit of the label minus the best
        other), all from float64 arithmetic on the given logits.

    Raises:
        NothingEvaluated: n = 0.
        DataError: shapes, types, labels or indices that do not fit.
        NonFiniteError: NaN or infinity.
    """
    where = f"{corruption} {severity}" if corruption else "clean images"
    if (corruption == "") != (severity == 0) or not 0 <= severity <= 5:
        raise DataError(f"severity {severity}", where=where, fix="give 1 to 5 with a corruption, 0 without")
    check_logits(logits, where=where)
    n, k = logits.shape
    check_labels(labels, n, k, where=where)
    if indices.shape != (n,) or not np.issubdtype(indices.dtype, np.integer):
        raise DataError(
            f"indices of shape {indices.shape}, type {indices.dtype}", where=where, fix=f"give {n} integers"
        )
    if int(indices.min()) < 0 or len(np.unique(indices)) != n:
        raise DataError("an index is negative or comes twice", where=where, fix="give each test image once")
    prediction = np.empty(n, np.int64)
    confidence, nll, margin = np.empty(n), np.empty(n), np.empty(n)
    for a in range(0, n, _CHUNK):
        part = slice(a, min(a + _CHUNK, n))
        z = logits[part].astype(np.float64)
        rows, y = np.arange(len(z)), labels[part]
        own = z[rows, y]
        top = z.argmax(axis=1)
        shifted = z - z[rows, top][:, None]
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        prediction[part] = top
        confidence[part] = np.exp(-log_sum)
        nll[part] = log_sum - shifted[rows, y]
        z[rows, y] = -np.inf
        margin[part] = own - z.max(axis=1)
    np.clip(nll, 0.0, None, out=nll)  # log_sum - shifted can be -1e-17
    return Cell(
        corruption=corruption,
        severity=severity,
        index=indices.astype(np.int64),
        label=labels.astype(np.int64),
        prediction=prediction,
        confidence=confidence,
        nll=nll,
        margin=margin,
    )
