"""Temperature scaling (Guo et al., arXiv 1706.04599): one number that softens the softmax, from validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.measure.probabilities import check_labels, check_logits

__all__ = ["T_MAX", "T_MIN", "apply", "fit"]

T_MIN, T_MAX = 0.2, 20.0
"""The search interval. The lower end is reached when validation holds no error at all: without an end, T would fall
to 0 and every confidence would become 1."""

_STEPS = 100  # Newton needs about 6; bisection from the ends would need 60


def _loss(beta: float, z: NDArray[np.float64], own: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean NLL of softmax(beta z) and its two derivatives; z has its row maximum at 0: exp cannot overflow."""
    e = np.exp(beta * z)
    total = e.sum(axis=1)
    first = (e * z).sum(axis=1) / total
    second = (e * z * z).sum(axis=1) / total
    return (
        float((np.log(total) - beta * own).mean()),
        float((first - own).mean()),
        float((second - first * first).mean()),
    )


def fit(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float, float]:
    """The temperature that minimises the NLL of softmax(logits / T).

    The NLL is convex in 1/T; Newton's method, kept inside a shrinking bracket, to machine precision in float64.

    Args:
        logits: floating point (n, K), of validation images: never of the images that are measured on.
        labels: integers (n,) in [0, K).

    Returns:
        (T in [T_MIN, T_MAX], mean NLL before, mean NLL after), nats; after <= before.

    Raises:
        NothingEvaluated: no rows.
        DataError, NonFiniteError: see `check_logits`, `check_labels`; and logits that are all equal.
    """
    check_logits(logits)
    check_labels(labels, *logits.shape)
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    own = z[np.arange(len(labels)), labels]
    if not z.any():
        raise DataError(
            "all logits are equal", where="temperature", fix="check that the network was trained and exported"
        )
    low, high = 1.0 / T_MAX, 1.0 / T_MIN
    beta, before = 1.0, _loss(1.0, z, own)[0]
    for _ in range(_STEPS):
        _, slope, curvature = _loss(beta, z, own)
        if slope > 0.0:
            high = beta
        else:
            low = beta
        step = beta - slope / curvature if curvature > 0.0 else low
        following = step if low < step < high else 0.5 * (low + high)
        if abs(following - beta) <= 1e-14 * beta or slope == 0.0:
            break
        beta = following
    after = _loss(beta, z, own)[0]
    if after > before:  # only by rounding, at T = 1
        return 1.0, before, before
    return 1.0 / beta, before, after


def apply(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Logits divided by T, float64 (n, K).

    Raises:
        DataError: T is not a positive finite number.
    """
    if not (np.isfinite(temperature) and temperature > 0.0):
        raise DataError(f"temperature {temperature}", where="temperature", fix="give a positive number")
    return logits.astype(np.float64) / temperature
