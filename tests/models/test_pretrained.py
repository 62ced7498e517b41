"""Weights that are named by a library or lie in a folder: found in local caches, compared, never fetched here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize

from edgesafe.errors import RefusedError, WeightsError
from edgesafe.models import build, find_weights, load_weights
from edgesafe.models.contract import require_plain_weights

CLASSES = ("cat", "dog", "owl")


def folder(path: Path, config: object) -> Path:
    """A folder of one small network."""
    torch.manual_seed(3)
    path.mkdir()
    save_file(build("smallnet", 3).state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def test_files_and_keys_are_what_they_say() -> None:
    assert find_weights("runs/w.pt", "smallnet") == Path("runs/w.pt")
    assert find_weights("runs/w.pt#ema", "smallnet") == Path("runs/w.pt#ema")


@pytest.mark.parametrize(
    "config",
    [
        {"label_names": CLASSES}, {"id2label": {str(i): name for i, name in enumerate(CLASSES)}},
        {"pretrained_cfg": {"label_names": CLASSES}}, {"architectures": ["Anything"]},
        {"id2label": {"0": "cat", "5": "dog"}},
    ],
)  # fmt: skip
def test_a_folder_gives_its_safetensors(tmp_path: Path, config: object) -> None:
    path = find_weights(str(folder(tmp_path / "m", config)), "smallnet", CLASSES)
    model = build("smallnet", 3)
    load_weights(model, path)
    torch.manual_seed(3)
    assert torch.equal(next(model.parameters()), next(build("smallnet", 3).parameters()))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"label_names": ["dog", "cat", "owl"]}, "another order: class 0 is 'dog' there and 'cat' in the data"),
        ({"label_names": ["cat", "dog"]}, "other classes: 2 there, 3 in the data; not in both: owl"),
        ("[1]", "not a configuration"),
        ("{", "not JSON"),
        ({"architecture": "resnet26"}, 'resnet26, not resnet18; give arch = "timm:resnet26"'),
    ],
)
def test_what_was_made_for_something_else_is_refused(tmp_path: Path, config: object, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        find_weights(str(folder(tmp_path / "m", config)), "timm:resnet18", CLASSES)


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        find_weights(str(tmp_path), "smallnet")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="several files"):
        find_weights(str(tmp_path), "smallnet")


def test_torchvisions_weights_come_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = models.get_model_weights("squeezenet1_1").DEFAULT.url
    file = tmp_path / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir()
    own = build("torchvision:squeezenet1_1", 7)
    torch.save(own.state_dict(), file)
    found = find_weights("torchvision", "torchvision:squeezenet1_1")
    assert found == file
    other = build("torchvision:squeezenet1_1", 7)
    load_weights(other, found)
    assert torch.equal(next(own.parameters()), next(other.parameters()))
    with pytest.raises(WeightsError, match="goes with an architecture of torchvision"):
        find_weights("torchvision", "smallnet")


def test_what_cannot_be_fetched_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(WeightsError, match=r"cannot be downloaded: no route; put the file at .*checkpoints/resnet18-"):
        find_weights("torchvision", "torchvision:resnet18")


def test_timms_weights_come_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    timm = pytest.importorskip("timm")
    kept = str(tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def cached(repository: str, file: str) -> str | None:
        asked.append((repository, file))
        return kept if file == "model.safetensors" else None

    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    assert find_weights("timm", "timm:resnet18.a1_in1k") == Path(kept)
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: SimpleNamespace(hf_hub_id="", url=""))
    with pytest.raises(WeightsError, match="timm has no weights"):
        find_weights("timm", "timm:resnet18")


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def test_parametrisations_are_refused_at_the_contract_and_the_remedy_works() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    parametrize.register_parametrization(model[0], "weight", Halved())
    with pytest.raises(RefusedError, match=r"parametrize\.remove_parametrizations\(layer, 'weight'\)") as raised:
        require_plain_weights(model)
    assert raised.value.where == "0"
    parametrize.remove_parametrizations(model[0], "weight")
    require_plain_weights(model)
