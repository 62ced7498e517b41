"""Trained and measured on a folder of 224-px images that is not held in memory: the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_RUN = """
import sys
from pathlib import Path
from edgesafe.commands.compress import compress
from edgesafe.recipe import parsing
root, store, out = sys.argv[1:]
recipe = parsing.load(None, [
    "name=streamed", "model.arch=smallnet", "data.name=imagefolder", f"data.root={root}",
    f"data.store={store}", f"data.cache_dir={root}/../cache", "data.validation=40",
    "data.args={resize=256, crop=224}", "train.epochs=1", "train.milestones=[]", "train.batch_size=16", "threads=1",
    "compress=[{method='filter', ratios=[0.5]}]", "recover.epochs=0", "recover.bn_images=32",
    "evaluate.corruptions=['brightness']", "evaluate.severities=[1]", "evaluate.latency=false", "certify.sets=[]",
    "export.precisions=['fp32']", "export.temperature=false",
])
compress(recipe, Path(out))
import json
print(json.loads((Path(out) / "study.json").read_text())["digest"])
"""


@pytest.mark.slow
def test_training_on_a_streamed_folder_is_the_training_in_memory(tmp_path: Path) -> None:
    """600 images of 224 px. Peak memory is not compared: torch's own varies by as much from run to run."""
    rng, root = np.random.default_rng(0), tmp_path / "set"
    for part, count in (("train", 400), ("test", 200)):
        for k in range(count):
            place = root / part / "ab"[k % 2] / f"{k:04}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            small = rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)
            small[..., k % 2] //= 3  # the classes differ in colour
            Image.fromarray(small).resize((300, 270), Image.Resampling.BICUBIC).save(place)
    digests = {}
    for store in ("memory", "disk"):
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(root), store, str(tmp_path / store)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests[store] = done.stdout.strip()
    assert digests["disk"] == digests["memory"]
