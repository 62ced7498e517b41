import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgesafe import models
from edgesafe.errors import EdgesafeError, NonFiniteError, WeightsError


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def other_state() -> dict[str, torch.Tensor]:
    return {k: torch.full_like(v, 3) for k, v in net().state_dict().items()}


WRAPPINGS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "best_acc": 0.9},
    "parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "compiled in parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("old_format", [False, True])
def test_usual_wrappings_load(tmp_path: Path, wrapping: str, old_format: bool) -> None:
    state, model = other_state(), net()
    path = tmp_path / "w.pth"
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=not old_format)
    models.load_weights(model, path)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_load(tmp_path: Path, prefix: str) -> None:
    state, model = other_state(), net()
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / "w.safetensors")
    models.load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_training_mode_and_frozen_parameters_stay(tmp_path: Path) -> None:
    model = net().eval()
    model[0].weight.requires_grad_(False)
    models.load_weights(model, saved(tmp_path / "w.pth", other_state()))
    assert not model.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True]


def test_files_without_batch_counters_load(tmp_path: Path) -> None:
    state = {k: v for k, v in other_state().items() if not k.endswith("num_batches_tracked")}
    models.load_weights(net(), saved(tmp_path / "w.pth", state))


def test_auxiliary_heads_in_a_checkpoint_are_left_out(tmp_path: Path) -> None:
    model = net()
    model.aux_logits = False
    models.load_weights(model, saved(tmp_path / "w.pth", other_state() | {"aux1.conv.weight": torch.zeros(2)}))


class Payload:
    """A pickle that would write a file, were it run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "bare pickle"])
def test_code_in_a_pickle_never_runs(tmp_path: Path, form: str) -> None:
    ran, path = tmp_path / "ran", tmp_path / "w.pth"
    bad = {"state_dict": Payload(ran)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(bad))
    else:
        torch.save(bad, path, _use_new_zipfile_serialization=form == "torch zip")
    with pytest.raises(WeightsError, match="no code in it was run"):
        models.load_weights(net(), path)
    assert not ran.exists()
    pickle.loads(pickle.dumps(bad))  # noqa: S301  - the attack is real: unpickling it does run it
    assert ran.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="tensors only"):
        models.load_weights(net(), saved(tmp_path / "w.pth", net()))


def test_a_pickle_named_safetensors_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "ran")}))
    with pytest.raises(WeightsError, match="safetensors"):
        models.load_weights(net(), path)
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/constants.pkl", pickle.dumps(()))
        archive.writestr("w/data.pkl", pickle.dumps({}))
        archive.writestr("w/version", "3\n")
    with pytest.raises(WeightsError):
        models.load_weights(net(), path)


def mended(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = other_state() | {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in state.items() if v is not None}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (mended(**{"3.weight": None}), r"1 missing \(3.weight\)"),
        (mended(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (mended(**{"3.weight": torch.zeros(5, 4)}), r"3.weight \(5, 4\) in the file, \(2, 4\) in the network"),
        ({f"k{i}": torch.zeros(1) for i in range(9)}, r"9 unexpected \(k0, k1, k2, …\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_keys_that_do_not_fit_are_named_and_nothing_is_loaded(
    tmp_path: Path, state: dict[str, torch.Tensor], says: str, suffix: str
) -> None:
    path, model = tmp_path / f"w{suffix}", net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(WeightsError, match=says) as caught:
        models.load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    state, model = other_state(), net()
    before = model[3].weight.clone()
    state["1.running_var"][2] = value
    with pytest.raises(NonFiniteError, match=r"1.running_var holds 1 of 4"):
        models.load_weights(model, saved(tmp_path / "w.pth", state))
    assert torch.equal(model[3].weight, before)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"state_dict": {}},
        [1, 2],
        torch.zeros(3),
        {"epoch": 3},
        {"a": torch.zeros(1), "b": "text"},
        {1: torch.zeros(1)},
    ],
)
def test_files_without_named_tensors(tmp_path: Path, value: Any) -> None:
    with pytest.raises(WeightsError, match="tensors"):
        models.load_weights(net(), saved(tmp_path / "w.pth", value))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_missing_directory_and_empty_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        models.load_weights(net(), tmp_path / name)
    with pytest.raises(WeightsError, match="is a folder"):
        models.load_weights(net(), tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError):
        models.load_weights(net(), tmp_path / name)


def safetensors_bytes(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WEIGHT = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "blob",
    [
        safetensors_bytes({"w": WEIGHT}, b"\0" * 8),
        safetensors_bytes({"w": WEIGHT | {"data_offsets": [0, 1 << 60]}}, b"\0" * 16),
        safetensors_bytes({"w": WEIGHT | {"shape": [1 << 62]}}, b"\0" * 16),
        safetensors_bytes({"w": WEIGHT | {"shape": [-4]}}, b"\0" * 16),
        safetensors_bytes({"w": WEIGHT, "v": WEIGHT}, b"\0" * 16),
        safetensors_bytes(b'{"w": {"dtype": "F32"', b"\0" * 16),
        struct.pack("<Q", 1 << 62) + b"{}",
        b"\x93NUMPY",
    ],
)
def test_attacks_on_safetensors_end_in_a_named_error(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(blob)
    with pytest.raises(WeightsError):
        models.load_weights(net(), path)


def good(old_format: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": net().state_dict()}, buffer, _use_new_zipfile_serialization=not old_format)
    return buffer.getvalue()


GOOD = {False: good(False), True: good(True)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old_format=st.booleans(), cut=st.floats(0, 0.999))
def test_truncated_files_end_in_a_named_error(tmp_path: Path, old_format: bool, cut: float) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(GOOD[old_format][: int(len(GOOD[old_format]) * cut)])
    with pytest.raises(WeightsError):
        models.load_weights(net(), path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old_format=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_files_load_or_end_in_a_named_error(tmp_path: Path, old_format: bool, flips: list) -> None:
    blob = bytearray(GOOD[old_format])
    for place, byte in flips:
        blob[int(place * len(blob))] = byte
    path = tmp_path / "w.pth"
    path.write_bytes(blob)
    try:
        models.load_weights(net(), path)
    except EdgesafeError as error:
        assert "\n" not in str(error)
