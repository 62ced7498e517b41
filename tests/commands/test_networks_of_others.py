"""`compress` on networks from a user's file: what would fail or mislead is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesafe.commands import compress
from edgesafe.errors import EdgesafeError, ParityError, RefusedError
from edgesafe.recipe import parsing
from edgesafe.train import loop

NETWORKS = """
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DeformConv2d


class Net(nn.Module):
    def __init__(self, k, end=None, middle=None):
        super().__init__()
        self.conv, self.middle, self.fc, self.end = nn.Conv2d(3, 8, 3, 2), middle, nn.Linear(8, k), end

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x if self.middle is None else self.middle(x)
        z = self.fc(x.mean((2, 3)))
        return z if self.end is None else self.end(z)


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset, self.conv = nn.Conv2d(8, 18, 3, padding=1), DeformConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offset(x))


class Flat(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3, 4, 1), nn.Linear(1024, k)

    def forward(self, x):
        return self.fc(self.conv(x).view(x.size(0), -1))


def softmax(num_classes):
    return Net(num_classes, nn.Softmax(1))


def sigmoid(num_classes):
    return Net(num_classes, nn.Sigmoid())


def log_softmax(num_classes):
    return Net(num_classes, nn.LogSoftmax(1))


def zeros(num_classes):
    net = Net(num_classes)
    nn.init.zeros_(net.fc.weight), nn.init.zeros_(net.fc.bias)
    return net


def deformed(num_classes):
    return Net(num_classes, middle=Deformed())


def flat(num_classes):
    return Flat(num_classes)
"""


class Trained(Exception):  # noqa: N818
    """The training began."""


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETWORKS)
    return f"{tmp_path}/nets.py"


def begin(network: str, name: str, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """Run `compress` up to the first training step."""

    def train(*_args: object, **_kwargs: object) -> None:
        raise Trained

    monkeypatch.setattr(loop, "fit", train)
    settings = ["data.train_images=60", "data.test_images=40", "evaluate.corruptions='none'", "evaluate.latency=false"]
    compress.compress(parsing.load(None, [f"model.arch={network}:{name}", *settings, *more]), out / "study")


@pytest.mark.parametrize(
    ("name", "error", "what", "fix"),
    [
        ("softmax", RefusedError, "probabilities", "return the scores before the softmax"),
        (
            "sigmoid",
            RefusedError,
            "not to 1: a sigmoid per class",
            "export the network without its last sigmoid or scaling",
        ),
        ("deformed", ParityError, "DeformConv, which opset 18 does not have", "set export.opset = 19"),
    ],
)
def test_refused_before_the_training(
    network: str, name: str, error: type[EdgesafeError], what: str, fix: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(error, match=what) as raised:
        begin(network, name, tmp_path, monkeypatch)
    assert raised.value.fix == fix


@pytest.mark.parametrize("name", ["log_softmax", "zeros", "flat"])
def test_logits_pass(network: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Trained):
        begin(network, name, tmp_path, monkeypatch)


def test_the_opset_that_is_named_is_right(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Trained):
        begin(network, "deformed", tmp_path, monkeypatch, "export.opset=19")


def test_a_network_that_flattens_by_view_goes_through(network: str, tmp_path: Path) -> None:
    settings = [
        f"model.arch={network}:flat", "data.train_images=100", "data.test_images=60", "train.epochs=1",
        "train.milestones=[]", "recover.epochs=1", "recover.images=60", "recover.bn_images=0",
        "evaluate.corruptions='none'", "evaluate.latency=false", "compress=[{method='filter', ratios=[0.5]}]",
    ]  # fmt: skip
    compress.compress(parsing.load(None, settings), tmp_path / "study")
    assert (tmp_path / "study" / "filter-r0.50-s0" / "model.onnx").is_file()
