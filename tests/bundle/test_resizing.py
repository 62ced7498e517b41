"""How image files came to the size of the input stands in the bundle."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from edgesafe import data
from edgesafe.commands import bundle as bundles
from edgesafe.commands import evaluate
from edgesafe.recipe.sections import DataSection
from edgesafe.study.study import read


def test_resizing_and_cropping_stand_in_config_and_card(models: tuple[Path, Path], made: Path, tmp_path: Path) -> None:
    digits = data.load(DataSection(name="digits"))
    for part, images in (("train", digits.train), ("validation", digits.validation), ("test", digits.test)):
        for k in range(120):
            place = tmp_path / "set" / part / str(images.labels[k]) / f"{k}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[k].repeat(2, axis=0).repeat(2, axis=1)).save(place)  # twice as large
    request = evaluate.AuditRequest(
        models[0], None, "imagefolder", str(tmp_path / "set"), overrides=(
            "evaluate.corruptions=none", "evaluate.latency=false",
            "data.args={resize=32, crop=32, interpolation='box'}",
        ),
    )  # fmt: skip
    study = evaluate.evaluate(request, tmp_path / "study")
    out = tmp_path / "bundle"
    bundles.bundle(read(study.root), bundles.BundleRequest("candidate-s0", "host-1t", out))
    said = json.loads((out / "config.json").read_text())["resizing"]
    assert said == {"resize": 32, "crop": 32, "interpolation": "box"}
    assert "a shorter side of 32 (box), the middle 32x32" in (out / "README.md").read_text()
    assert "resizing" not in json.loads((made / "config.json").read_text())  # the control: these images had that size
