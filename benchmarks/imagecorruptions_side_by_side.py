"""Milliseconds per image and corruption at 224 px, one thread: edgesafe beside the package imagecorruptions.

    python -m venv other && other/bin/pip install imagecorruptions pydantic "numpy<2"
    OMP_NUM_THREADS=1 PYTHONPATH=src taskset -c 0 other/bin/python benchmarks/imagecorruptions_side_by_side.py [--images 3] [--size 224]

Both make the same photographs (scikit-image's, cropped and resized) at severities 1 to 5, interleaved, severity by severity; the
figure is the mean over images and severities of the least of the rounds. edgesafe makes the images of a cell together, as it
does when it measures; imagecorruptions makes one after another, as it can.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from importlib import metadata

import cv2
import numpy as np
from imagecorruptions import corrupt as theirs
from imagecorruptions import corruptions as their_functions
from PIL import Image
from skimage import data
from skimage.filters import gaussian

from edgesafe.corruptions import corrupt as ours
from edgesafe.recipe.sections import CORRUPTIONS


def photographs(count: int, size: int) -> np.ndarray:
    """uint8 (count, size, size, 3): the middles of photographs that scikit-image ships."""
    found = []
    for picture in (data.astronaut(), data.chelsea(), data.coffee())[:count]:
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = Image.fromarray(picture[top : top + side, left : left + side])
        found.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(found)


def _gaussian(image, *given, multichannel=False, **more):
    """skimage's, called as it was before 0.20: the argument has another name there, which imagecorruptions does not know."""
    return gaussian(image, *given, channel_axis=-1 if multichannel else None, **more)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    their_functions.gaussian = _gaussian
    cv2.setNumThreads(1)
    images = photographs(arguments.images, arguments.size)
    indices = np.arange(len(images))
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("imagecorruptions", "numpy", "scikit-image", "pillow")
    )
    print(f"{platform.processor() or platform.machine()}; {versions}; {len(images)} images of {arguments.size} px")
    print("| corruption | edgesafe | imagecorruptions | ratio |\n|---|---|---|---|")
    totals = np.zeros(2)
    for name in CORRUPTIONS:
        spent = np.zeros(2)
        for severity in range(1, 6):
            least = np.full(2, np.inf)
            for _ in range(arguments.rounds + 1):  # the first fills tables and caches, and counts if it is the fastest
                start = time.perf_counter()
                ours(images, indices, name, severity, seed=0)
                middle = time.perf_counter()
                for image in images:
                    theirs(image, corruption_name=name, severity=severity)
                end = time.perf_counter()
                least = np.minimum(least, (middle - start, end - middle))
            spent += least / len(images) / 5 * 1000
        totals += spent / len(CORRUPTIONS)
        print(f"| {name} | {spent[0]:.2f} | {spent[1]:.2f} | {spent[1] / spent[0]:.1f} |", flush=True)
    print(f"| mean | {totals[0]:.2f} | {totals[1]:.2f} | {totals[1] / totals[0]:.1f} |")


if __name__ == "__main__":
    main()
