"""Pictures to corrupt."""

from __future__ import annotations

import numpy as np


def picture(n: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Images with flat parts, edges, gradients, texture, black and white: uint8 (n, height, width, channels)."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.empty((n, height, width, channels))
    for i in range(n):
        for c in range(channels):
            out[i, ..., c] = 127 + 90 * np.sin(x / (2.5 + i % 7) + c) * np.cos(y / (3.5 + i % 5) - i) + (x - y) * 0.8
        out[i, height // 4 : height // 2, width // 4 : width // 2] = (i * 37) % 256
        out[i, : 1 + i % 5, :, :] = 255
        out[i, :, -1 - i % 3 :, 0] = 0
    noise = np.random.default_rng(5).integers(-12, 13, out.shape)
    return np.clip(out + noise, 0, 255).astype(np.uint8)
