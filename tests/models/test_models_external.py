import builtins
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from edgesafe import models
from edgesafe.errors import UsageError

FACTORY = """
from dataclasses import dataclass
import torch

@dataclass
class Options:
    width: int = 4

def tiny(num_classes, width=4):
    width = Options(width).width
    return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.Linear(width, num_classes))

def number(num_classes):
    return num_classes

def broken(num_classes):
    raise ArithmeticError("no such\\nwidth")

_hidden = tiny
"""


@pytest.fixture
def factory_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(FACTORY)
    return path


def test_a_factory_in_a_file(factory_file: Path) -> None:
    model = models.build(f"{factory_file}:tiny", 5, {"width": 6})
    assert model[0].out_channels == 6
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_two_files_of_the_same_name_do_not_meet(factory_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "my_net.py"
    other.parent.mkdir()
    other.write_text(FACTORY.replace("width=4", "width=9"))
    assert models.build(f"{factory_file}:tiny", 5)[0].out_channels == 4
    assert models.build(f"{other}:tiny", 5)[0].out_channels == 9


def test_a_factory_in_a_package() -> None:
    model = models.build("torchvision.models:resnet18", 5, {"weights": None})
    assert model.fc.out_features == 5


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("tyni", {}, "did you mean 'tiny'"),
        ("number", {}, "returned int"),
        ("broken", {}, "ArithmeticError: no such width"),
        ("tiny", {"depth": 3}, "TypeError"),
    ],
)
def test_a_factory_that_fails_is_a_usage_error(factory_file: Path, name: str, args: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        models.build(f"{factory_file}:{name}", 5, args)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        models.build(f"{tmp_path}/absent.py:tiny", 5)
    bad = tmp_path / "bad.py"
    bad.write_text("def tiny(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        models.build(f"{bad}:tiny", 5)
    bad.write_text("import not_installed_anywhere\n")
    with pytest.raises(UsageError, match="not_installed_anywhere"):
        models.build(f"{bad}:tiny", 5)


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("no_such_package_at_all:net", "no_such_package_at_all"),
        ("torchvision:resnet81", "did you mean"),
        ("torchvision:maskrcnn_resnet50_fpn", "no classifier"),
        (":net", "source:name"),
        ("torchvision:", "source:name"),
    ],
)
def test_unknown_sources_and_names(arch: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        models.build(arch, 5)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_off(name: str) -> None:
    with torch.device("meta"):  # no time spent on initial values
        model = models.build(f"torchvision:{name}", 5, {"init_weights": False})
    assert model.aux_logits is False
    assert not any(key.lower().startswith("aux") for key in model.state_dict())


def test_timm_absent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> object:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UsageError, match="pip install timm"):
        models.build("timm:resnet18", 5)


def test_timm_is_asked_for_no_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeTimm:
        asked: dict[str, object]

        def is_model(self, name: str) -> bool:
            return name == "net"

        def list_models(self) -> list[str]:
            return ["net", "other"]

        def create_model(self, **options: object) -> nn.Module:
            self.asked = options
            return nn.Identity()

    fake, real = FakeTimm(), importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda n, p=None: fake if n == "timm" else real(n, p))
    models.build("timm:net", 5, {"drop_rate": 0.1})
    assert fake.asked == {"model_name": "net", "pretrained": False, "num_classes": 5, "drop_rate": 0.1}
    with pytest.raises(UsageError, match="did you mean 'net'"):
        models.build("timm:nett", 5)


def test_torchvision_absent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name == "torchvision":
            raise ImportError("No module named 'torchvision'")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match="not installed"):
        models.build("torchvision:resnet18", 5)
