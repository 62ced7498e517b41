"""A third-party classifier, not square, with open sizes, BGR and probabilities: audited as its package documents it.

The file is PaddleOCR's text-direction network as `rapidocr-onnxruntime` ships it; no part of edgesafe depends on it:
EDGESAFE_TEXT_DIRECTION names the file, and without it these tests are skipped (see benchmarks/text_direction.py).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edgesafe import data
from edgesafe.commands import evaluate
from edgesafe.measure import evidence as evidence_files
from edgesafe.recipe.sections import DataSection
from edgesafe.study.study import Study

pytestmark = pytest.mark.data
ARGS = "data.args={resize=[48, 192]}"
STATED = evaluate.Statement(mean=(0.5,) * 3, std=(0.5,) * 3, channels="BGR", layout="NCHW")


@pytest.fixture(scope="module")
def file() -> Path:
    path = Path(os.environ.get("EDGESAFE_TEXT_DIRECTION", ""))
    if not path.is_file():
        pytest.skip("EDGESAFE_TEXT_DIRECTION names no file (of rapidocr-onnxruntime: its …_cls_infer.onnx)")
    return path


@pytest.fixture(scope="module")
def lines(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred lines of text, half of them turned."""
    source = Path(__file__).parents[2] / "benchmarks" / "text_direction.py"
    spec = importlib.util.spec_from_file_location("text_direction", source)
    assert spec is not None and spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    drawing.COUNTS = {"train": 4, "validation": 120, "test": 240}
    root = tmp_path_factory.mktemp("text") / "lines"
    drawing.make(root)
    return root


def audited(file: Path, lines: Path, out: Path, statement: evaluate.Statement, *more: str) -> Study:
    overrides = (ARGS, "evaluate.images_per_cell=4", "evaluate.corruptions=['fog']", "evaluate.latency=false", *more)
    return evaluate.evaluate(
        evaluate.AuditRequest(file, None, "imagefolder", str(lines), statement, overrides=overrides), out
    )


def test_the_audit_sees_what_the_documented_preprocessing_sees(file: Path, lines: Path, tmp_path: Path) -> None:
    """Oracle: onnxruntime alone, on the same files resized by Pillow, as the package's config and code say."""
    study = audited(file, lines, tmp_path / "s", STATED)
    evidence = evidence_files.from_bytes(study["candidate-s0"].evidence_bytes())
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    wanted, labels = [], []
    for turned in ("0", "180"):
        for path in sorted((lines / "test" / turned).iterdir()):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB").resize((192, 48), Image.Resampling.BILINEAR))
            bgr = pixels[..., ::-1].astype(np.float32).transpose(2, 0, 1)
            wanted.append(session.run(None, {"x": (bgr[None] / 255 - 0.5) / 0.5})[0][0])
            labels.append(int(turned == "180"))
    probabilities = np.array(wanted)
    assert (evidence.clean.label == labels).all()
    assert np.allclose(np.exp(evidence.logits), probabilities, atol=1e-4)
    accuracy = study["candidate-s0"].measurements.metrics["accuracy"].estimate
    assert accuracy == pytest.approx((probabilities.argmax(1) == labels).mean()) and accuracy > 0.9
    other = audited(file, lines, tmp_path / "rgb", evaluate.Statement(mean=(0.5,) * 3, std=(0.5,) * 3, channels="RGB"))
    rgb = evidence_files.from_bytes(other["candidate-s0"].evidence_bytes())
    assert not np.allclose(np.exp(rgb.logits), probabilities, atol=1e-3)  # the control: the statement is used


def test_the_shape_is_taken_from_the_data(file: Path, lines: Path) -> None:
    bundle = data.load(DataSection(name="imagefolder", root=str(lines), args={"resize": [48, 192]}))
    assert bundle.test.images.shape == (240, 48, 192, 3) and bundle.task.names == ("0", "180")
