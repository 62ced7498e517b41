"""The very bytes of the generator. If one of these changes, every stored result loses its pixels: raise
`manifest.GENERATOR`, say so in the change log, and pin again (`python tests/corruptions/test_corruptions_pinned.py`).
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgesafe import corruptions
from edgesafe.corruptions.manifest import GENERATOR


def digest(name: str) -> str:
    """Hash over five severities of eight images of 32x32."""
    i, y, x, c = np.mgrid[0:8, 0:32, 0:32, 0:3]  # whole numbers only: the same picture on every machine
    images = ((5 * x + 3 * y + 37 * i + 60 * c + (x // 5) * (y // 7) * 11) % 256).astype(np.uint8)
    where = np.arange(8) * 7 + 3
    sha = hashlib.sha256()
    for severity in range(1, 6):
        sha.update(corruptions.corrupt(images, where, name, severity, seed=1).tobytes())
    return sha.hexdigest()[:16]


PINNED = {
    "gaussian_noise": "a781d7bf2ed26a8c",
    "shot_noise": "523deb932670d6a2",
    "impulse_noise": "8b4af18a9f336ce8",
    "defocus_blur": "bfec0a07a7163d70",
    "glass_blur": "844bd0577268b90f",
    "motion_blur": "f7df4b3f03fdeb0c",
    "zoom_blur": "7472beb3142cd1b5",
    "snow": "9b6bea5481ebcd20",
    "frost": "871ee166c73cd9c7",
    "fog": "d4576a1fd0b3ca61",
    "brightness": "5f70254eeaf4d11b",
    "contrast": "94ebfdc2060ed3aa",
    "elastic_transform": "8c8fbcf9236bd43c",
    "pixelate": "07099f6388321dfa",
    "jpeg_compression": "9a302a74e3833e6b",
    "speckle_noise": "349c21e89f21d9f6",
    "gaussian_blur": "2b112005c7e47904",
    "spatter": "bd256c9d5d6a1288",
    "saturate": "24e97e1204ec6807",
}  # fmt: skip


def test_the_pins_are_of_this_generator():
    assert GENERATOR == "edgesafe.corruptions/1"
    assert tuple(PINNED) == corruptions.ALL


@pytest.mark.parametrize("name", corruptions.ALL)
def test_bytes_are_pinned(name):
    assert digest(name) == PINNED[name]


if __name__ == "__main__":
    for each in corruptions.ALL:
        print(f'    "{each}": "{digest(each)}",')
