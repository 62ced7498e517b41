"""What sampling misses: grids of images of a range of contrast, against every image of it.

    python benchmarks/certify_sampling.py --root data --images 260 model.onnx

Takes the right test images of lowest margin. A grid of k is k contrasts at equal steps from one end of the range to the other,
each stored in 8 bits by exact arithmetic of its own: what a test that samples a range would run. "missed" are images that are
right on the whole grid and wrong on an image of the set. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import numpy as np

from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.ids import parse
from edgesafe.certificates.sets import PointSet
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Standing, Task

GRIDS = (3, 5, 11, 21, 101)
HALF = Fraction(1, 2)
PIVOT = Fraction(255, 2)


def table(change: Fraction) -> np.ndarray:
    """What each pixel value becomes when its distance from 127.5 grows by a share; a half goes away from 127.5."""
    values = [PIVOT + (1 + change) * (x - PIVOT) for x in range(256)]
    rounded = [floor(v + HALF) if v >= PIVOT else ceil(v - HALF) for v in values]
    return np.clip(rounded, 0, 255).astype(np.uint8)


def grid_survivors(file: OnnxClassifier, images: Images, share: Fraction, k: int) -> np.ndarray:
    """Which images are right on the untouched image and on all k of the grid: bool (n,)."""
    rules = rules_of(Task())
    right = rules.margins(file.logits(images.pixels, 64), images.labels) > 0
    for step in range(k):
        looked_up = table(-share + 2 * share * step / (k - 1))[images.pixels]
        right &= rules.margins(file.logits(looked_up, 64), images.labels) > 0
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--percent", type=int, default=5)
    parser.add_argument("--images", type=int, default=260)
    asked = parser.parse_args()
    with np.load(asked.root / "cifar10.npz") as data:
        pixels, labels = data["x_test"], data["y_test"].astype(np.int64)
    file = OnnxClassifier(asked.file.read_bytes())
    margin = rules_of(Task()).margins(file.logits(pixels, 64), labels)
    order = np.argsort(np.where(margin > 0, margin, np.inf), kind="stable")[: asked.images]
    rows = np.sort(order)
    images = Images(pixels[rows], labels[rows], rows)

    finite, share = parse(f"contrast={asked.percent}%"), Fraction(asked.percent, 100)
    assert isinstance(finite, PointSet)
    known = {one.tobytes() for one in finite.tables.luts}
    assert all(table(-share + 2 * share * s / (k - 1)).tobytes() in known for k in GRIDS for s in range(k))

    whole = enumerate_chunk(file, images, SetPlan(finite, complete=True))
    falsified = whole.standing == Standing.FALSIFIED
    starts = np.concatenate([[0], np.cumsum(whole.answer_count)])
    wrong = np.array([np.mean(whole.answers[a:b] != y) if b > a else 0.0 for a, b, y in
                      zip(starts[:-1], starts[1:], whole.label, strict=True)])  # fmt: skip
    found = {
        "file": asked.file.name, "set": finite.id, "n": len(rows), "highest_margin": round(float(margin[rows].max()), 3),
        "images_of_one": float(np.median(whole.members)), "certified": int((~falsified).sum()),
        "falsified": int(falsified.sum()), "grids": {},
    }  # fmt: skip
    for k in GRIDS:
        survives = grid_survivors(file, images, share, k)
        missed = survives & falsified
        assert not (~survives & ~falsified).any()  # what a grid falsifies, enumeration does
        share_wrong = [round(float(v), 4) for v in np.quantile(wrong[missed], [0.0, 0.5, 1.0])] if missed.any() else []
        found["grids"][k] = {
            "survive": int(survives.sum()), "missed": int(missed.sum()), "wrong_share_of_missed": share_wrong,
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
