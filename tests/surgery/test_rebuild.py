"""Saving and rebuilding by shapes: bit-exact, deterministic, without pickle and without torch-pruning."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesafe import models
from edgesafe.errors import (
    IntegrityError,
    NonFiniteError,
    StoreError,
    UsageError,
    WeightsError,
)
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Artefact, Lineage, VariantRecord
from edgesafe.surgery.rebuild import (
    load_bytes,
    load_variant,
    save_bytes,
    tensors_of,
)
from edgesafe.surgery.sparse import pack, unpack

CONTEXT = PruneContext((32, 32, 3), engine=False)


def pruned(method: str = "filter", **kwargs: object) -> tuple[nn.Module, nn.Module, object]:
    torch.manual_seed(0)
    model = models.build("resnet20", 10, {}).eval()
    outcome = prune(model, CompressSection(method=method, ratios=(0.5,), **kwargs), 0.5, CONTEXT)
    return model, outcome.model, outcome.record


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("method", ["weight", "filter"])
def test_round_trip_is_bit_exact_and_deterministic(method: str, sparse: bool) -> None:
    model, small, _ = pruned(method)
    data = save_bytes(small, sparse=sparse, metadata={"variant": "x"})
    assert data == save_bytes(small, sparse=sparse, metadata={"variant": "x"})
    loaded = load_bytes(model, data)
    assert same(loaded, small)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), small.eval()(x))
    for (name, a), (_, b) in zip(loaded.named_modules(), small.named_modules(), strict=True):
        if isinstance(a, nn.Conv2d):
            assert (a.in_channels, a.out_channels, a.groups) == (b.in_channels, b.out_channels, b.groups), name
        if isinstance(a, nn.BatchNorm2d):
            assert a.num_features == b.num_features


def test_the_reference_implementation_reads_our_files() -> None:
    _, small, _ = pruned()
    tensors = safetensors.torch.load(save_bytes(small, sparse=False, metadata={"a": "b"}))
    own = tensors_of(small)
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[k], own[k]) for k in own)


def test_we_read_files_of_the_reference_implementation() -> None:
    model, small, _ = pruned()
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors_of(small).items()}, {"format": "pt"})
    assert same(load_bytes(model, data), small)


def test_sparse_is_smaller_above_one_zero_in_32_only() -> None:
    """The mask costs a bit for each element of 32."""
    for share, smaller in ((0.0, False), (0.02, False), (0.05, True), (0.9, True)):
        tensor = torch.randn(64, 64, 3, 3)
        tensor.view(-1)[: int(share * tensor.numel())] = 0
        stored, metadata = pack({"w": tensor})
        assert bool(metadata) == smaller
        bytes_stored = sum(t.numel() * t.element_size() for t in stored.values())
        assert (bytes_stored < tensor.numel() * 4) == smaller
    _, small, _ = pruned("weight")
    assert len(save_bytes(small, sparse=True)) < 0.56 * len(save_bytes(small, sparse=False))


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.5, float("inf"), 1e-45]), max_size=300),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_sparse_keeps_every_bit(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values + [0.0] * 600, dtype=dtype)
    stored, metadata = pack({"w": tensor})
    (back,) = unpack(stored, metadata).values()
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


def test_shared_tensors_are_stored_once_and_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model = Tied()
    data = save_bytes(model, sparse=False)
    assert set(safetensors.torch.load(data)) == {"a.weight", "a.bias"}
    loaded = load_bytes(Tied(), data)
    assert loaded.a.weight is loaded.b.weight


def write_variant(directory: Path, **kwargs: object) -> tuple[nn.Module, VariantRecord]:
    _, small, record = pruned(**kwargs)
    data = save_bytes(small, sparse=False)
    digest = hashlib.sha256(data).hexdigest()
    variant = VariantRecord(
        id="v", method=record.method, ratio=0.5, seed=0, arch="resnet20", num_classes=10, input_shape=(32, 32, 3),
        surgery=record, params=1, macs=1, sparsity=0.0,
        artefacts=(Artefact(file="model.safetensors", sha256=f"sha256:{digest}", bytes=len(data)),),
        lineage=Lineage(recipe_sha256="", baseline_sha256="", data_sha256="", seed=0),
    )  # fmt: skip
    (directory / "model.safetensors").write_bytes(data)
    (directory / "variant.json").write_text(variant.model_dump_json(by_alias=True))
    return small, variant


@pytest.mark.parametrize("kwargs", [{}, {"scope": "all", "rewrite": True}])
def test_load_variant(tmp_path: Path, kwargs: dict[str, object]) -> None:
    small, _ = write_variant(tmp_path, **kwargs)
    loaded = load_variant(tmp_path)
    assert not loaded.training
    assert same(loaded, small)


def test_load_variant_needs_no_torch_pruning(tmp_path: Path) -> None:
    small, _ = write_variant(tmp_path)
    expected = small.eval()(torch.ones(1, 3, 32, 32)).flatten().tolist()
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "from pathlib import Path; import json, torch\n"
        "from edgesafe.surgery.rebuild import load_variant\n"
        f"net = load_variant(Path({str(tmp_path)!r}))\n"
        "print(json.dumps(net(torch.ones(1, 3, 32, 32)).flatten().tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_load_variant_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        load_variant(tmp_path)
    write_variant(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="hash"):
        load_variant(tmp_path)
    record = json.loads((tmp_path / "variant.json").read_text())
    record["schema"] = "edgesafe.variant/99"
    (tmp_path / "variant.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="version"):
        load_variant(tmp_path)


def test_no_code_runs_because_a_variant_names_it(tmp_path: Path) -> None:
    write_variant(tmp_path)
    code = tmp_path / "nets.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    record = json.loads((tmp_path / "variant.json").read_text())
    record["arch"] = f"{code}:make"
    (tmp_path / "variant.json").write_text(json.dumps(record))
    for said in (None, "other.py:make", "torchvision:resnet18"):
        with pytest.raises(UsageError, match="built by code"):
            load_variant(tmp_path, said)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="no callable 'make'"):  # the control: trusted code is run
        load_variant(tmp_path, f"{code}:make")
    assert (tmp_path / "ran").exists()


def test_a_pipe_in_the_place_of_weights_is_refused_at_once(tmp_path: Path) -> None:
    write_variant(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match="is a pipe"):
        load_variant(tmp_path)


def test_weights_that_do_not_fit_are_named() -> None:
    model, small, _ = pruned()
    tensors = tensors_of(small)
    with pytest.raises(WeightsError, match=r"1 missing \(conv1.weight\)"):
        load_bytes(model, safetensors.torch.save({k: v for k, v in tensors.items() if k != "conv1.weight"}))
    with pytest.raises(WeightsError, match=r"unknown.*evil"):
        load_bytes(model, safetensors.torch.save({**tensors, "evil": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"conv1.weight: .*by pruning"):
        load_bytes(model, safetensors.torch.save({**tensors, "conv1.weight": torch.zeros(99, 3, 3, 3)}))
    with pytest.raises(WeightsError, match="different lengths"):
        load_bytes(model, safetensors.torch.save({**tensors, "bn1.bias": torch.zeros(3)}))
    with pytest.raises(NonFiniteError, match=r"bn1.bias"):
        load_bytes(model, safetensors.torch.save({**tensors, "bn1.bias": torch.full((16,), float("nan"))}))
