"""Checkpoints as people bring them: wrappers' prefixes, averaged weights, and tensors that are no plain numbers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, WeightsError
from edgesafe.models import load_weights
from edgesafe.study.inputs import input_hashes


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Wrapped(nn.Module):
    """A network whose own names begin as wrappers' prefixes do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = net()


def other() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(v) if v.is_floating_point() else v for name, v in net().state_dict().items()}


def loaded(path: Path, state: Any, model: nn.Module | None = None, key: str = "") -> dict[str, Tensor]:
    torch.save(state, path)
    model = model or net()
    load_weights(model, Path(f"{path}#{key}") if key else path)
    return model.state_dict()


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.module.", "module._orig_mod.", "model.", "net.", "network.", "model.net.module.", "_orig_mod.model.",
     "module.module.", "model.model._orig_mod."],
)  # fmt: skip
def test_prefixes_are_taken_off_in_any_order_and_depth(prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in other().items()}
    assert equal(loaded(tmp_path / "w.pt", {"state_dict": state}), other())
    save_file(state, tmp_path / "w.safetensors")
    model = net()
    load_weights(model, tmp_path / "w.safetensors")
    assert equal(model.state_dict(), other())


def test_a_networks_own_names_are_no_prefixes(tmp_path: Path) -> None:
    wanted = {f"model.{name}": value for name, value in other().items()}
    assert equal(loaded(tmp_path / "a.pt", wanted, Wrapped()), wanted)
    assert equal(loaded(tmp_path / "b.pt", {f"model.{k}": v for k, v in wanted.items()}, Wrapped()), wanted)


def test_averaged_weights_beside_the_others_are_named_and_chosen_by_a_key(tmp_path: Path) -> None:
    path, average = tmp_path / "w.pt", {name: v * 2 for name, v in other().items()}
    file = {"state_dict": other(), "state_dict_ema": average, "epoch": 3}
    with pytest.raises(WeightsError, match=r"'state_dict', 'state_dict_ema'.*#state_dict_ema"):
        loaded(path, file)
    assert equal(loaded(path, file, key="state_dict_ema"), average)
    assert equal(loaded(path, file, key="state_dict"), other())
    with pytest.raises(WeightsError, match="no weights under 'ema'; known: state_dict, state_dict_ema"):
        loaded(path, file, key="ema")
    assert equal(loaded(path, {"model_ema": average, "epoch": 3}), average)  # nothing else to mean
    names = {"weights": f"{path}#state_dict_ema"}
    assert input_hashes(weights=names, arch="x") == input_hashes(weights={"weights": str(path)}, arch="x")


KERNEL = "0.weight"


def replaced(value: Callable[[Tensor], Tensor], name: str = KERNEL) -> dict[str, Tensor]:
    state = other()
    state[name] = value(state[name])
    return state


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.int8": lambda w: (w * 10).to(torch.int8),
    "torch.uint8": lambda w: (w * 10).abs().to(torch.uint8),
    "torch.int64": lambda w: w.to(torch.int64),
    "torch.bool": lambda w: w > 0,
    "torch.complex64": lambda w: w.to(torch.complex64),
    "torch.qint8": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "sparse": lambda w: w.to_sparse(),
    "meta": lambda w: w.to("meta"),
    "torch.float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES)
def test_tensors_that_are_no_plain_numbers_are_refused_by_name_and_type(kind: str, tmp_path: Path) -> None:
    before = net().state_dict()
    model = net()
    with pytest.raises(WeightsError, match=rf"{KERNEL} is .*{kind}|damaged"):
        loaded(tmp_path / "w.pt", replaced(CASES[kind]), model)
    assert equal(model.state_dict(), before)  # all keys or none


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    assert (
        loaded(tmp_path / "w.pt", replaced(lambda w: w.to(dtype)))[KERNEL] == other()[KERNEL].to(dtype).float()
    ).all()


def test_a_number_beyond_float32_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=rf"{KERNEL} holds 1 float64 values beyond"):
        loaded(
            tmp_path / "w.pt",
            replaced(
                lambda w: torch.cat([w.double().ravel()[:-1], torch.tensor([1e39], dtype=torch.float64)]).reshape(
                    w.shape
                )
            ),
        )


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantised_network_says_so(tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(WeightsError, match=r"quantised|damaged|tensors only"):
        loaded(tmp_path / "w.pt", quantised.state_dict())


@pytest.mark.parametrize("name", ["pipe.pt", "folder.safetensors", "zero.pt"])
def test_special_files_are_no_weights(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match=r"is a (pipe|folder|device)"):
        load_weights(net(), tmp_path / name)
