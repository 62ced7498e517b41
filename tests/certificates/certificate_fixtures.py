"""Small classifiers with known answers, and images; brute force as the oracle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates.certification import Work
from edgesafe.certificates.enumeration import Images
from edgesafe.certificates.sets import FiniteSet
from edgesafe.records.certificates import CertificateProvenance

SHAPE = (6, 5, 3)
ORIGIN = CertificateProvenance(onnx_sha256="sha256:o", test_sha256="sha256:t", provider="CPU", runtime="fake 1")


class Nowhere:
    """Keeps in memory."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.parts.get(name)

    def put(self, name: str, data: bytes) -> None:
        self.parts[name] = data


class Net:
    """A fixed random two-layer network on 8-bit pixels, which counts what it is asked."""

    def __init__(self, seed: int = 0, classes: int = 3, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.first = rng.normal(size=(size, 12)).astype(np.float64)
        self.second = (scale * rng.normal(size=(12, classes))).astype(np.float64)
        self.asked = 0
        self.batches: list[int] = []

    def logits(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:  # noqa: ARG002
        assert images.dtype == np.uint8
        self.asked += len(images)
        self.batches.append(len(images))
        x = (images.reshape(len(images), -1) / 255.0 - 0.5) @ self.first
        return (np.maximum(x, 0.0) @ self.second).astype(np.float32)


def pictures(n: int, seed: int = 1, net: Net | None = None) -> Images:
    """Noise images; labels are the network's own answers but for a tenth of them."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    labels = (net or Net()).logits(pixels).argmax(axis=1).astype(np.int64)
    other = rng.random(n) < 0.1
    labels[other] = (labels[other] + 1) % 3
    return Images(pixels, labels, np.arange(10, 10 + n))


def brute_force(net: Net, images: Images, finite: FiniteSet) -> list[list[tuple[float, float, int]]]:
    """Per image: (distance, margin, answer) of every distinct image of the set, in the order of their numbers."""
    found = []
    for pixels, label in zip(images.pixels, images.labels, strict=True):
        members = finite.members(pixels)
        logits = net.logits(members.make(np.arange(len(members)))).astype(np.float64)
        rows = []
        for z, distance in zip(logits, members.distance, strict=True):
            best_other = max(v for k, v in enumerate(z) if k != label)
            rows.append((float(distance), float(z[label] - best_other), int(z.argmax())))
        found.append(rows)
    return found


def work(net: Net, images: Images, workers: int = 1, keeper: Nowhere | None = None) -> Work:
    return Work(net, images, ORIGIN, keeper or Nowhere(), lambda _: None, workers)
