"""What does conversion to int8 alone cost in accuracy? fp32 files, converted as edgesafe does, on all test images.

    python benchmarks/int8_loss.py STUDY/filter-r0.50-s0/model.onnx … --data data [--validation 5000]

Ranges are read off 512 training images. Difference: int8 minus fp32 on the same images, with its paired 95 % interval
(Bonett & Price 2012); flips: images that get another answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgesafe import data
from edgesafe.deploy.int8 import quantise
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import paired_difference
from edgesafe.recipe.sections import DataSection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--validation", type=int, default=5000)
    arguments = parser.parse_args()
    section = DataSection(name="cifar10", root=str(arguments.data), validation=arguments.validation)
    loaded = data.load(section)
    test, calibration = loaded.test, loaded.train.images[:512]
    for path in arguments.files:
        content = path.read_bytes()
        answers = [
            OnnxClassifier(one).logits(test.images, 64).argmax(axis=1)
            for one in (content, quantise(content, calibration).onnx)
        ]
        right = [answer == test.labels for answer in answers]
        found = paired_difference(right[1], right[0], 0.95, kind="rate")
        print(
            f"{path}: fp32 {100 * right[0].mean():.2f} %, int8 {100 * right[1].mean():.2f} %, difference "
            f"{100 * found.estimate:+.2f} pp [{100 * (found.low or 0):+.2f}, {100 * (found.high or 0):+.2f}], flips "
            f"{100 * np.mean(answers[0] != answers[1]):.2f} % (n={len(test):,})", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
