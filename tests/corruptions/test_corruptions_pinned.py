"""The very bytes of the generator. If one of these changes, every stored result loses its pixels: raise
`manifest.GENERATOR`, say so in the change log, and pin again (`python tests/corruptions/test_corruptions_pinned.py`).
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from corruption_fixtures import picture

from edgesafe import corruptions
from edgesafe.corruptions.manifest import GENERATOR


def digest(name: str) -> str:
    """Hash over five severities of eight images of 32x32."""
    images, where = picture(8, 32, 32), np.arange(8) * 7 + 3
    sha = hashlib.sha256()
    for severity in range(1, 6):
        sha.update(corruptions.corrupt(images, where, name, severity, seed=1).tobytes())
    return sha.hexdigest()[:16]


PINNED = {
    "gaussian_noise": "77728d722d0cf2d5",
    "shot_noise": "ca899bef1bac751b",
    "impulse_noise": "40f913752ca6b695",
    "defocus_blur": "13d94fcfa34a260c",
    "glass_blur": "16b3656048f85b09",
    "motion_blur": "38f1b12e96d1a35c",
    "zoom_blur": "c8a547d65de4149d",
    "snow": "390d05d17c527edb",
    "frost": "3afcb67a3f136d90",
    "fog": "15210932d1ab95b1",
    "brightness": "c3d5a5e0146451bb",
    "contrast": "48bf8ccab42c7348",
    "elastic_transform": "b07196eabd2e1781",
    "pixelate": "8841cf0b5cd679f3",
    "jpeg_compression": "c8ea7da211cad495",
    "speckle_noise": "052e6362abe7ed3e",
    "gaussian_blur": "7df5623362103207",
    "spatter": "6ed26ec9634d9f08",
    "saturate": "7b777ba704ce9cc5",
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
