import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_fixtures import MEAN, STD, Tiny, cifar10, noise, randomise, shared, tiny
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgesafe import models
from edgesafe.deploy import parity, transport_bytes
from edgesafe.deploy.export import export_onnx
from edgesafe.errors import NonFiniteError, ParityError, UsageError
from edgesafe.measure.inference.session import OnnxClassifier

SHAPE = (12, 10, 3)


def by_hand(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The logits in float64, preprocessing written out in numpy."""
    x = (images.transpose(0, 3, 1, 2) / 255.0 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(torch.from_numpy(x)).numpy()


def test_the_file_computes_what_float64_arithmetic_gives(exported: bytes) -> None:
    images = noise(9)
    np.testing.assert_allclose(OnnxClassifier(exported).logits(images), by_hand(tiny(), images), atol=2e-6)


def test_onnx_reference_implementation_agrees(exported: bytes) -> None:
    images = noise(3)
    (found,) = ReferenceEvaluator(onnx.load_from_string(exported)).run(None, {"image": images})
    np.testing.assert_allclose(found, by_hand(tiny(), images), atol=2e-6)


def test_contract_of_the_file(exported: bytes) -> None:
    proto = onnx.load_from_string(exported)
    onnx.checker.check_model(proto, full_check=True)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert (image.name, image.type.tensor_type.elem_type, shapes[0]) == (
        "image",
        onnx.TensorProto.UINT8,
        ["batch", *SHAPE],
    )
    assert (logits.name, shapes[1]) == ("logits", ["batch", 5])
    ops = [node.op_type for node in proto.graph.node]
    assert ops[:2] == ["Transpose", "Cast"]
    assert "BatchNormalization" not in ops
    assert not {"Gather", "Shape", "Range"} & set(ops)  # what a decomposed global pooling would leave


def test_batch_size_is_free_and_does_not_change_bits(exported: bytes) -> None:
    images, net = noise(13), OnnxClassifier(exported)
    whole = net.logits(images, batch_size=13)
    for size in (1, 4):
        assert np.array_equal(net.logits(images, batch_size=size), whole)


def test_nothing_of_this_machine_is_in_the_file(exported: bytes) -> None:
    proto = onnx.load_from_string(exported)
    assert not proto.metadata_props
    assert not proto.doc_string
    assert not proto.graph.value_info
    assert proto.producer_version == torch.__version__.split("+")[0]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    for trace in (b".py", b"/usr", b"site-packages", str(Path.cwd()).encode(), b"stack_trace", b"forward"):
        assert trace not in exported


def test_no_negative_zero_is_in_the_weights(exported: bytes) -> None:
    folded = [
        onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(exported).graph.initializer if len(t.dims) == 4
    ]
    assert sum(int((w == 0).sum()) for w in folded) > 50  # conv2's zeros survive folding
    assert not any(((w == 0) & np.signbit(w)).any() for w in folded)


@pytest.mark.parametrize("opset", [20, 23])
def test_the_opset_asked_for_is_written(opset: int) -> None:
    proto = onnx.load_from_string(export_onnx(tiny(), input_shape=SHAPE, mean=MEAN, std=STD, opset=opset))
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", opset)]


SCRIPT = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from deploy_fixtures import MEAN, STD, tiny
from edgesafe.deploy.export import export_onnx
print(hashlib.sha256(export_onnx(tiny(), input_shape=(12, 10, 3), mean=MEAN, std=STD)).hexdigest())
"""


def test_same_bytes_in_another_process_and_directory(exported: bytes, tmp_path: Path) -> None:
    """The network's source lies in another directory there."""
    elsewhere = tmp_path / "deep" / "down"
    elsewhere.mkdir(parents=True)
    source = Path(__file__).with_name("deploy_fixtures.py").read_text()
    (elsewhere / "deploy_fixtures.py").write_text("# a line more\n" + source)
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(elsewhere)],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env=environment,
        check=True,
    )
    assert done.stdout.split() == [hashlib.sha256(exported).hexdigest()]
    assert done.stderr == ""


def test_same_bytes_again(exported: bytes) -> None:
    assert export_onnx(tiny(), input_shape=SHAPE, mean=MEAN, std=STD) == exported


def test_the_model_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny().train()
    model.bn2.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    export_onnx(model, input_shape=SHAPE, mean=MEAN, std=STD)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("arch", ["smallnet", "preresnet8"])
def test_our_families_export_with_parity(arch: str) -> None:
    torch.manual_seed(0)
    model = randomise(models.build(arch, 10, {}))
    images = noise(16, (32, 32, 3))
    data = export_onnx(model, input_shape=(32, 32, 3), mean=MEAN, std=STD)
    result = parity.check_torch(model, data, images, MEAN, STD)
    assert result.max_abs_logit < 1e-4
    assert result.argmax_agreement == 1.0


def test_grey_images() -> None:
    model = models.build("resnet8", 3, {"in_channels": 1})
    data = export_onnx(model, input_shape=(16, 16, 1), mean=(0.3,), std=(0.2,))
    assert parity.check_torch(model, data, noise(4, (16, 16, 1)), (0.3,), (0.2,)).n == 4


# ------------------------------------------------------------------------------------------------------ bad input


class Giving(nn.Module):
    """Returns what a function makes of the logits."""

    def __init__(self, function) -> None:
        super().__init__()
        self.net, self.function = Tiny(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.net(x))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda y: (y, y), "gives tuple"),
        (lambda y: {"logits": y}, "gives dict"),
        (lambda y: y[:, :, None, None], r"\(2, 5, 1, 1\)"),
        (lambda y: y.double(), "float64"),
        (lambda y: y[:1], r"\(1, 5\)"),
    ],
)
def test_networks_that_give_no_logits_are_refused(function, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        export_onnx(Giving(function), input_shape=SHAPE, mean=MEAN, std=STD)


class Branching(nn.Module):
    """What it computes depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum() > 0 else self.net(-x)


class FixedBatch(nn.Module):
    """Works for a batch of two only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).reshape(2, 5)


@pytest.mark.parametrize("net", [Branching, FixedBatch])
def test_networks_that_cannot_be_exported_are_refused_on_one_line(net, capfd: pytest.CaptureFixture[str]) -> None:
    model = net().train()
    with pytest.raises(ParityError, match="export failed") as caught:
        export_onnx(model, input_shape=SHAPE, mean=MEAN, std=STD)
    assert "\n" not in str(caught.value)
    assert model.training
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"opset": 17}, "opset 17"),
        ({"opset": 24}, "opset 24"),
        ({"mean": (0.5,)}, "data.mean"),
        ({"std": (0.2, 0.2)}, "data.std"),
        ({"std": (0.2, 0.0, 0.2)}, "not positive"),
        ({"mean": (0.5, float("nan"), 0.5)}, "data.mean"),
        ({"input_shape": (12, 10)}, "not \\(H, W, C\\)"),
        ({"input_shape": (12, 10, 0)}, "not \\(H, W, C\\)"),
        ({"input_shape": (12, 10, 4), "mean": (0.5,) * 4, "std": (0.5,) * 4}, "does not take images"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        export_onnx(tiny(), **{"input_shape": SHAPE, "mean": MEAN, "std": STD, **options})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = tiny()
    model.bn2.running_mean[3] = value
    with pytest.raises(NonFiniteError, match=r"bn2.running_mean"):
        export_onnx(model, input_shape=SHAPE, mean=MEAN, std=STD)


# ------------------------------------------------------------------------------------------------------ real data


@pytest.mark.data
def test_the_third_party_resnet20_scores_exactly_as_known() -> None:
    images, labels = cifar10("test")
    model = models.build("resnet20", 10, {})
    models.load_weights(model, shared("resnet20-12fca82f.th"))
    data = export_onnx(model, input_shape=(32, 32, 3), mean=MEAN, std=STD)
    result = parity.check_torch(model, data, images[:500], MEAN, STD)
    assert result.max_abs_logit < 5e-5
    assert result.argmax_agreement == 1.0
    logits = OnnxClassifier(data, threads=2).logits(images).astype(np.float64)
    assert int((logits.argmax(1) == labels).sum()) == 9173
    # ECE with 10 equal-mass bins, written out: no two confidences tie across a bin edge here.
    p = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (p / p.sum(1, keepdims=True)).max(1)
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - (logits.argmax(1) == labels))[order].reshape(10, 1000).mean(1)
    assert round(float(np.abs(gap).mean()) * 100, 3) == 5.288


# ----------------------------------------------------------------------------------------- slow: every architecture

BIG = (
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s", "densenet121", "squeezenet1_1", "googlenet",
    "inception_v3", "regnet_y_400mf", "mnasnet1_0", "convnext_tiny", "shufflenet_v2_x1_0",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_torchvision_exports_with_parity(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(models.build(f"torchvision:{name}", 10, {}))
    side = 299 if name == "inception_v3" else 224
    data = export_onnx(model, input_shape=(side, side, 3), mean=MEAN, std=STD)
    result = parity.check_torch(model, data, noise(4, (side, side, 3)), MEAN, STD)
    assert result.argmax_agreement == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("arch", models.ARCHITECTURES)
def test_every_listed_architecture_exports_with_parity(arch: str) -> None:
    torch.manual_seed(0)
    model = randomise(models.build(arch, 10, {}))
    data = export_onnx(model, input_shape=(32, 32, 3), mean=MEAN, std=STD)
    result = parity.check_torch(model, data, noise(16, (32, 32, 3)), MEAN, STD)
    assert result.argmax_agreement == 1.0
    assert transport_bytes(data)[0] < len(data)
