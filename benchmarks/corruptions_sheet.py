"""Draw docs/images/corruptions.png: a small made-up scene under every corruption (no data set's pixels).

python benchmarks/corruptions_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from edgesafe.corruptions import contact_sheet


def scene(side: int = 32) -> np.ndarray:
    """A van on a road in front of hills: uint8 (side, side, 3)."""
    large = Image.new("RGB", (256, 256))
    pen = ImageDraw.Draw(large)
    for y in range(256):
        pen.line((0, y, 256, y), fill=(120 + y // 3, 165 + y // 5, 225 - y // 8))
    pen.polygon([(0, 150), (60, 95), (120, 140), (180, 80), (256, 145), (256, 256), (0, 256)], fill=(82, 120, 70))
    pen.rectangle((0, 185, 256, 256), fill=(92, 90, 94))
    for x in range(-10, 256, 60):
        pen.rectangle((x, 226, x + 30, 232), fill=(225, 222, 205))
    pen.polygon([(45, 190), (50, 130), (75, 105), (205, 105), (212, 190)], fill=(196, 52, 44))
    pen.polygon([(60, 142), (80, 115), (105, 115), (105, 142)], fill=(200, 225, 235))
    pen.rectangle((115, 115, 195, 142), fill=(70, 90, 105))
    for x in (85, 175):
        pen.ellipse((x - 20, 170, x + 20, 210), fill=(28, 28, 30))
        pen.ellipse((x - 9, 181, x + 9, 199), fill=(170, 170, 172))
    pen.ellipse((205, 20, 240, 55), fill=(255, 243, 190))
    return np.asarray(large.resize((side, side), Image.Resampling.BOX))


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "images" / "corruptions.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(scene(), seed=0).quantize(256).save(target, optimize=True)
    print(f"{target.name}: {target.stat().st_size} bytes")
