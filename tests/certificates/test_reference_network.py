"""The third-party ResNet-20 on CIFAR-10: counts as first measured, and images that a continuous method misses."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.ids import parse
from edgesafe.certificates.line import least_margin, segment_of
from edgesafe.certificates.operators import Network
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Standing, Task

pytestmark = [pytest.mark.data, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def test_set() -> tuple[np.ndarray, np.ndarray]:
    path = Path(os.environ.get("EDGESAFE_DATA", str(ROOT / "data"))) / "cifar10.npz"
    if not path.is_file():
        pytest.skip("no CIFAR-10: edgesafe fetch cifar10, or set EDGESAFE_DATA")
    with np.load(path) as data:
        return data["x_test"], data["y_test"].astype(np.int64)


@pytest.fixture(scope="module")
def model() -> bytes:
    weights = Path(os.environ.get("EDGESAFE_SHARED", str(ROOT.parent / "shared"))) / "data" / "resnet20-12fca82f.th"
    if not weights.is_file():
        pytest.skip("no weights of the third-party ResNet-20: set EDGESAFE_SHARED")
    from edgesafe import models
    from edgesafe.deploy import export

    net = models.build("resnet20", 10, {})
    models.load_weights(net, weights)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return export.export_onnx(net.eval(), input_shape=(32, 32, 3), mean=mean, std=std, opset=18)


def test_brightness_of_two_levels_on_the_first_thousand(test_set: tuple[np.ndarray, np.ndarray], model: bytes) -> None:
    pixels, labels = (column[:1000] for column in test_set)
    found = enumerate_chunk(
        OnnxClassifier(model), Images(pixels, labels, np.arange(1000)), SetPlan(parse("brightness=2"))
    )
    counts = [int((found.standing == s).sum()) for s in (Standing.CERTIFIED, Standing.FALSIFIED, Standing.WRONG)]
    assert counts == [911, 4, 85]


@pytest.mark.parametrize(("index", "margin"), [(1304, -0.014), (5656, -0.026), (1470, -0.085)])
def test_images_that_the_exact_line_certifies_and_an_eight_bit_image_falsifies(
    index: int, margin: float, test_set: tuple[np.ndarray, np.ndarray], model: bytes
) -> None:
    """Under contrast ±5 % the real-valued function is right all along; the stored image is rounded, and is not."""
    label, segment = test_set[1][index : index + 1], segment_of(parse("contrast=5%"))
    line = least_margin(Network(model), segment, test_set[0][index], label, rules_of(Task()))
    assert line.margin == pytest.approx({1304: 0.341, 5656: 0.375, 1470: 0.553}[index], abs=0.002)
    one = Images(test_set[0][index : index + 1], test_set[1][index : index + 1], np.array([index]))
    found = enumerate_chunk(OnnxClassifier(model), one, SetPlan(parse("contrast=5%"), complete=True))
    assert found.standing[0] == Standing.FALSIFIED
    assert found.margin[0] == pytest.approx(margin, abs=0.002)
    assert found.members[0] > 500
