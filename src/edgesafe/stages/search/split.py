"""The test images in two parts, by the hash of their pixels: one decides on trials, the other is kept untouched.

Of many variants that are tried, the one that is chosen is partly chosen for its luck on the images that chose it. On
images that no trial saw it has no such luck. The parts depend on the pixels alone, so copies of an image are on one
side, and neither the order of the images nor what was tried moves an image to the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import DataError
from edgesafe.files import sha256_bytes
from edgesafe.measure.inference import robustness
from edgesafe.records import ImageSet, Sample, SampleDesign
from edgesafe.stages.observe import Bench

__all__ = ["LEAST_IMAGES", "Halves", "halves", "restricted"]

LEAST_IMAGES = 50  #: of each part: fewer decide nothing


@dataclass(frozen=True)
class Halves:
    """Positions in the test set, int64, rising: of the images that decide, and of those that are kept untouched."""

    decision: NDArray[np.int64]
    untouched: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Of the positions that decide."""
        return sha256_bytes(self.decision.astype("<i8").tobytes())


def halves(test: ImageSet, share: float, seed: int) -> Halves:
    """Part the test images by the hash of their pixels.

    Args:
        test: uint8 images (N, H, W, C).
        share: in (0, 1), that is expected to decide.
        seed: another one gives another split.

    Raises:
        DataError: a part has fewer than `LEAST_IMAGES` images.
    """
    salt = f"edgesafe.search/1 {seed}".encode()
    keys = [hashlib.sha256(salt + image.tobytes()).digest()[:8] for image in test.images]
    decides = np.array([int.from_bytes(key, "big") < share * 2**64 for key in keys])
    parts = Halves(np.flatnonzero(decides).astype(np.int64), np.flatnonzero(~decides).astype(np.int64))
    for name, part in (("decide", parts.decision), ("confirm", parts.untouched)):
        if len(part) < LEAST_IMAGES:
            raise DataError(
                f"{len(part)} of {len(test):,} test images would {name}",
                where="search.share",
                fix=f"give another share, or more test images: at least {LEAST_IMAGES} must be on each side",
            )
    return parts


def restricted(bench: Bench, images: NDArray[np.int64], what: str, rivals: int = 1) -> Bench:
    """A bench that shows some of the test images only, clean and corrupted.

    Where the bench shows the same images in each cell, those of them that are left are shown. Where each cell drew its
    own, it draws as many anew from what is left.

    Args:
        bench: of all test images.
        images: int64 (n,), rising positions in the test set.
        what: the part is called, in what intervals say of their population.
        rivals: files that may be judged on these images.

    Raises:
        DataError: too few of the images that the cells show are among them.
    """
    cells, sample = bench.cells, bench.sample
    if cells and sample is not None:
        names = tuple(dict.fromkeys(name for name, _ in cells))
        severities = tuple(dict.fromkeys(severity for _, severity in cells))
        count = max(2, round(len(next(iter(cells.values()))) * len(images) / len(bench.test)))
        within = dict.fromkeys(cells, images)
        drawn = robustness.plan_cells(
            "quick", names, severities, len(bench.test), count, bench.section.seed, within=within
        )
        cells, sample = drawn, Sample(design=SampleDesign.CELL, seed=sample.seed, benchmark=len(images))
    elif cells:
        cells = {key: np.intersect1d(indices, images) for key, indices in cells.items()}
    if cells and min(map(len, cells.values())) < 2:
        raise DataError(
            f"{min(map(len, cells.values()))} images of a corrupted cell are among the {what}",
            where="evaluate.images_per_cell",
            fix="give more images per cell",
        )
    said = f"{bench.population.rpartition(', ')[0]}, {len(images):,} of {len(bench.test):,} images ({what})"
    return replace(bench, cells=cells, sample=sample, population=said, shown=images, rivals=rivals)
