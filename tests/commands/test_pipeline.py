"""The spine: a study from recipe to evidence, interrupted, continued, damaged."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import edgesafe
from edgesafe.commands import compress, variants
from edgesafe.data import sets
from edgesafe.errors import IntegrityError, NonFiniteError, StoreError, UsageError
from edgesafe.measure import evidence as evidence_files
from edgesafe.progress import Silent
from edgesafe.recipe import parsing, recipe
from edgesafe.study import writer
from edgesafe.study.study import read as open_study

from .conftest import TINY


def test_every_variant_is_made_and_measured(study: Path, tiny: recipe.Recipe) -> None:
    read = open_study(study)
    assert tuple(read) == tuple(plan.id for plan in recipe.variants(tiny))
    assert read.record.digest
    read.verify()
    for name in read:
        metrics = read[name].measurements.metrics
        wanted = {
            "accuracy", "ece_em10_top1", "nll", "brier", "high_conf_error@0.9", "mpc", "mpc.severity.1",
            "mpc.severity.5", "mpc.corruption.fog", "accuracy.fog.1", "ece_em10_top1.severity.5", "latency.p50_ms",
            "latency.p90_ms", "size.onnx_bytes", "size.params", "macs", "sparsity", "parity.max_abs_logit",
            "ece_em10_top1.calibrated",
        }  # fmt: skip
        assert wanted <= set(metrics), wanted - set(metrics)
        assert metrics["parity.max_abs_logit"].estimate <= 1e-4
        if name != "baseline-s0":
            assert "latency.ratio" in metrics
            assert {"accuracy", "mpc", "ece_em10_top1", "flips"} <= set(read[name].measurements.differences)


def test_the_numbers_are_those_of_the_shipped_file(study: Path, tiny: recipe.Recipe) -> None:
    """Oracle: onnxruntime and numpy, called plainly."""
    read, test = open_study(study), sets.load(tiny.data).test
    for name in ("baseline-s0", "filter-r0.50-s0"):
        session = ort.InferenceSession(str(study / name / "model.onnx"))
        (logits,) = session.run(["logits"], {"image": test.images})
        measured = read[name].measurements.metrics
        assert measured["accuracy"].estimate == pytest.approx((logits.argmax(1) == test.labels).mean(), abs=1e-12)
        z = logits.astype(np.float64)
        z -= z.max(1, keepdims=True)
        nll = -(z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(len(z)), test.labels].mean()
        assert measured["nll"].estimate == pytest.approx(nll, rel=1e-12)
        stored = evidence_files.from_bytes(read[name].evidence_bytes())
        assert (stored.logits == logits).all()


def test_every_training_says_how_it_used_the_machine(study: Path, tiny: recipe.Recipe) -> None:
    read = open_study(study)
    for name in read:
        record = read[name].record
        if name == "baseline-s0":
            training = record.training
            assert training is not None
            assert (training.images, len(training.losses), training.slim_l1) == (400, tiny.train.epochs, 0.0)
            assert training.losses[-1] < training.losses[0]
            modes = {training.mode}
        else:
            assert record.training is None
            assert record.recovery is not None
            assert record.recovery.fine_tuning is not None
            modes.add(record.recovery.fine_tuning.mode)
    (mode,) = modes
    assert (mode.precision, mode.torch) == ("fp32", torch.__version__)


def test_structured_variants_are_really_smaller_and_sparse_ones_really_sparse(study: Path) -> None:
    read = open_study(study)
    baseline = read["baseline-s0"].record
    assert baseline.macs is not None
    for name in ("filter-r0.50-s0", "channel-r0.30-s0", "random-r0.50-s0"):
        variant = read[name].record
        assert variant.params < baseline.params
        assert variant.macs is not None
        assert variant.macs < baseline.macs
        assert variant.surgery is not None
        assert variant.surgery.proof.equivalence is not None
        assert variant.surgery.proof.equivalence <= 1e-5
        size = (study / name / "model.onnx").stat().st_size
        assert size < (study / "baseline-s0" / "model.onnx").stat().st_size
    for name, ratio in (("weight-r0.50-s0", 0.5), ("weight-r0.80-s0", 0.8)):
        graph = onnx.load(study / name / "model.onnx").graph
        kernels = [onnx.numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 4]
        zeros = sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
        assert zeros == pytest.approx(ratio, abs=1e-3)  # held at zero through fine-tuning
        assert (study / name / "model.sparse.onnx").stat().st_size < (study / name / "model.onnx").stat().st_size


def test_a_variant_loads_without_pickle_and_gives_the_files_logits(study: Path, tiny: recipe.Recipe) -> None:
    bundle = sets.load(tiny.data)
    for name in open_study(study):
        net = edgesafe.load(study / name).eval()
        x = torch.from_numpy(bundle.test.images[:16]).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(bundle.mean).view(1, -1, 1, 1)) / torch.tensor(bundle.std).view(1, -1, 1, 1)
        with torch.no_grad():
            ours = net(x).numpy()
        (theirs,) = ort.InferenceSession(str(study / name / "model.onnx")).run(None, {"image": bundle.test.images[:16]})
        assert np.abs(ours - theirs).max() <= 1e-4


def test_temperature_never_sees_the_test_set(study: Path, tiny: recipe.Recipe) -> None:
    bundle = sets.load(tiny.data)
    for name in open_study(study):
        fitted = open_study(study)[name].record.temperature
        assert fitted is not None
        assert fitted.data_sha256 == bundle.validation.sha256 != bundle.test.sha256
        assert fitted.nll_after <= fitted.nll_before


def hashes(root: Path) -> dict[str, str]:
    return {e.id: e.digest for e in open_study(root).record.variants} | {"": open_study(root).record.digest}


class Stop(BaseException):
    """An interruption nothing catches, as kill -9 is."""


@pytest.mark.parametrize(
    "writes", [1, 3, 7, pytest.param(9, marks=pytest.mark.slow), 22, pytest.param(40, marks=pytest.mark.slow)]
)
def test_interrupted_after_any_write_it_ends_with_the_same_hashes(
    study: Path, tiny: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Stop dead at the n-th write of a run, again and again, until the study is done."""
    short = parsing.load(None, [*TINY, "compress=[]"]) if writes < 9 else tiny
    root = tmp_path / "s"
    real, count = writer.atomic_write, 0

    def write(path: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(content[: len(content) // 2])  # half a file is left behind
            raise Stop
        real(path, content)

    monkeypatch.setattr(writer, "atomic_write", write)
    for _ in range(200):
        count = 0
        try:
            compress.compress(short, root)
            break
        except Stop:
            writes += 1  # so that it gets on even where a stage writes more than that
    else:
        pytest.fail("never ended")
    wanted, got = hashes(study), hashes(root)
    if short is tiny:
        assert got == wanted
    else:
        assert got["baseline-s0"] == wanted["baseline-s0"]


def test_a_finished_study_is_not_computed_again(
    study: Path, tiny: recipe.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(variants, "ship", never)
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file() and p.name != ".lock"}
    compress.compress(tiny, study)
    assert {p: p.stat().st_mtime_ns for p in study.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_file_edited_after_measuring_stops_the_study(study: Path, tiny: recipe.Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    path = copy / "filter-r0.50-s0" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"logits", b"logitz"))
    with pytest.raises(IntegrityError, match="hash differs"):
        compress.compress(tiny, copy)


def test_another_recipe_in_the_same_directory(study: Path) -> None:
    with pytest.raises(StoreError, match=r"recover\.epochs"):
        compress.compress(parsing.load(None, [*TINY, "recover.epochs=1"]), study)


def test_a_refused_variant_does_not_stop_the_others(tmp_path: Path) -> None:
    wanted = parsing.load(
        None, [*TINY, 'compress=[{method="filter", ratios=[0.1, 0.5], round_to=64}]', "recover.epochs=0"]
    )
    study = compress.compress(wanted, tmp_path / "s")
    status = {e.id: (e.status, e.reason) for e in study.record.variants}
    assert status["baseline-s0"][0] == "done"
    assert status["filter-r0.10-s0"][0] == "refused"
    assert "round_to" in status["filter-r0.10-s0"][1]


def test_what_is_made_later_begins_with_the_baseline_that_is_there(tmp_path: Path) -> None:
    """Variants that were refused, one by a NaN, and one whose directory was removed: one training of the baseline."""
    blocks = (
        'compress=[{method="filter", ratios=[0.1], round_to=64}, {method="weight", ratios=[0.5]},'
        ' {method="weight", label="nan", ratios=[0.3], recover={lr=1e30, epochs=2}}]'
    )
    wanted = parsing.load(None, [*SHORT, blocks, "recover.bn_images=9999"])
    first, again = Heard(), Heard()
    study = compress.compress(wanted, tmp_path / "s", first)
    shutil.rmtree(study.root / "weight-r0.50-s0")
    assert compress.compress(wanted, tmp_path / "s", again).record.digest == study.record.digest
    counts = [sum(line.startswith("training the baseline") for line in heard.said) for heard in (first, again)]
    assert counts == [1, 0]
    status = {entry.id: (entry.status.value, entry.reason) for entry in study.record.variants}
    assert status["filter-r0.10-s0"][0] == "refused"
    assert status["nan-r0.30-s0"][0] == "refused"
    assert status["nan-r0.30-s0"][1].endswith("lower compress.2.recover.lr")
    recovery = study["weight-r0.50-s0"].record.recovery
    assert recovery is not None
    assert recovery.bn_images == study.record.data.train_n == 400  # as many as there are, whatever was asked for


def test_a_baseline_that_ends_in_nan_names_the_key_of_its_rate(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"training the baseline: .*; lower train\.lr"):
        compress.compress(parsing.load(None, [*SHORT, "train.lr=1e30", "train.epochs=2"]), tmp_path / "s")


def test_a_device_that_is_missing_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    heard = Heard()
    with pytest.raises(UsageError, match=r"recover\.device: no CUDA device"):
        compress.compress(parsing.load(None, [*SHORT, "recover.device=cuda"]), tmp_path / "s", heard)
    assert not any("training" in line for line in heard.said)
    assert not (tmp_path / "s").exists()


SHORT = [
    *TINY, "train.epochs=1", "evaluate.corruptions=none", "evaluate.latency=false", "export.temperature=false",
    'compress=[{method="weight", ratios=[0.5]}, {method="filter", ratios=[0.5]}]',
]  # fmt: skip


class Heard(Silent):
    """Remembers what was said, and the stages with their totals."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def stage(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        self.said.append(f"{title} {total}")
        return super().stage(title, total)


def test_a_recovery_that_hurts_is_said_and_the_best_epoch_can_be_kept(tmp_path: Path) -> None:
    blocks = (
        'compress=[{method="weight", label="last", ratios=[0.3], recover={lr=2.0, epochs=1, images=400}},'
        ' {method="weight", label="best", ratios=[0.3], recover={lr=2.0, epochs=1, images=400, keep="best"}},'
        ' {method="weight", label="as", ratios=[0.3], recover={bn_images=0, epochs=0}}]'
    )
    heard = Heard()
    study = compress.compress(parsing.load(None, [*SHORT, blocks, "train.epochs=4"]), tmp_path / "s", heard)
    last, best = (study[f"{name}-r0.30-s0"].record.recovery for name in ("last", "best"))
    assert last is not None and last.fine_tuning is not None
    assert best is not None and best.fine_tuning is not None
    assert last.accuracy_after < last.fine_tuning.accuracy_before == best.fine_tuning.accuracy_before
    assert (best.fine_tuning.kept_epoch, best.accuracy_after) == (0, best.fine_tuning.accuracy_before)
    assert best.validation_images == 197
    warned = [line for line in heard.said if "fine-tuning lowered" in line]
    assert len(warned) == 1
    assert study["as-r0.30-s0"].record.recovery is None
    assert "compress.0.recover.lr" in warned[0]
    assert "given weights" not in warned[0]  # none are given
    assert any("set compress.1.recover.epochs = 0" in line for line in heard.said)


def test_a_blocks_recovery_touches_only_its_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same study twice, one block recovered otherwise: the other block's keys and files are the same."""
    keys: list[dict[str, str]] = []
    real = writer.StudyWriter.put_stage

    def put(self: writer.StudyWriter, owner: str, name: str, key: str, content: bytes) -> None:
        keys[-1][f"{owner} {name}"] = key
        real(self, owner, name, key, content)

    monkeypatch.setattr(writer.StudyWriter, "put_stage", put)
    done = []
    for folder, own in (("same", []), ("other", ["compress.0.recover={epochs=1, lr=0.0005}"])):
        keys.append({})
        done.append(compress.compress(parsing.load(None, [*SHORT, *own]), tmp_path / folder))
    same, other = done
    assert set(keys[0]) == set(keys[1])
    assert {name.split()[0] for name in keys[0] if keys[0][name] != keys[1][name]} == {"weight-r0.50-s0"}
    for variant in same:
        before, after = (s[variant].record.artefact("model.onnx") for s in done)
        assert (before == after) is (variant != "weight-r0.50-s0")
    used = other["weight-r0.50-s0"].record.recovery
    assert used is not None and used.fine_tuning is not None
    assert (used.fine_tuning.epochs, used.fine_tuning.lr, used.fine_tuning.images) == (1, 0.0005, 120)
    kept = other["filter-r0.50-s0"].record.recovery
    assert kept is not None and kept.fine_tuning is not None
    assert kept.fine_tuning.lr == 0.01


def test_slimming_takes_its_images_from_its_blocks_recovery(tmp_path: Path) -> None:
    block = 'compress=[{method="channel", ratios=[0.3], recover={epochs=0, images=50}}]'
    heard = Heard()
    study = compress.compress(parsing.load(None, [*SHORT, block]), tmp_path / "s", heard)
    assert "slimming (L1 on BN scales) 50" in heard.said
    recovery = study["channel-r0.30-s0"].record.recovery
    assert recovery is not None
    assert recovery.bn_images > 0
    assert recovery.fine_tuning is None


def test_corruptions_none_and_quick(tmp_path: Path) -> None:
    plain = [*TINY, "compress=[]", "evaluate.corruptions=none", "data.validation_from=test"]
    none = compress.compress(parsing.load(None, plain), tmp_path / "none")
    metrics = none["baseline-s0"].measurements.metrics
    assert "mpc" not in metrics
    assert metrics["accuracy"].population.description == "digits (197 of 600 test images held out) test set, 80 images"
    quick = [*TINY, 'compress=[{method="weight", ratios=[0.5]}]', "evaluate.mode=quick", "evaluate.images_per_cell=10"]
    study = compress.compress(parsing.load(None, quick), tmp_path / "quick")
    cells = evidence_files.from_bytes(study["weight-r0.50-s0"].evidence_bytes()).cells
    assert len({cell.index.tobytes() for cell in cells.values()}) == len(cells)  # fresh images per cell
    assert "mpc" in study["weight-r0.50-s0"].measurements.differences


def test_weights_that_changed_since_are_noticed(study: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    shutil.copy(study / "baseline-s0" / "model.safetensors", weights)
    wanted = parsing.load(None, [*TINY, "compress=[]", f"model.weights={weights}"])
    first = compress.compress(wanted, tmp_path / "s")
    assert first.record.inputs["weights"].startswith("sha256:")
    assert hashes(tmp_path / "s")["baseline-s0"] == hashes(study)["baseline-s0"]
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="weights"):
        compress.compress(wanted, tmp_path / "s")


def test_two_seeds_are_two_baselines(tmp_path: Path) -> None:
    wanted = parsing.load(None, [*TINY, "seeds=[0,1]", "compress=[]", "evaluate.corruptions=none"])
    study = compress.compress(wanted, tmp_path / "s")
    digests = [e.digest for e in study.record.variants]
    assert len(set(digests)) == 2


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_it_ends_with_the_same_hashes(study: Path, tmp_path: Path) -> None:
    root, rng = tmp_path / "s", random.Random(time.time_ns())
    arguments = [part for item in TINY for part in ("--set", item)]
    command = [sys.executable, "-m", "edgesafe.cli", "compress", "--out", str(root), *arguments]
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(2.5, 12.0))
            shutil.rmtree(root)  # it was done before it could be killed ten times: once more
        except subprocess.TimeoutExpired:
            os.kill(process.pid, rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.wait()
            kills += 1
    subprocess.run(command, check=True, capture_output=True)
    assert hashes(root) == hashes(study)
    assert json.loads((root / "study.json").read_text())["digest"]


def test_the_python_interface(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    gates = '[[gate]]\nid = "a"\nmetric = "accuracy"\nmax_drop = "99pp"\n'
    policy.write_text(f'schema = "edgesafe.policy/1"\n[data]\nmin_samples = 10\n{gates}')
    code = """
import sys, edgesafe
first, second = (edgesafe.gate(*sys.argv[1:]) for _ in range(2))
assert first == second and first.exit_code == 0, first
assert "torch" not in sys.modules
import edgesafe.policy.policy
from edgesafe.policy import decision
assert edgesafe.gate(*sys.argv[1:]) == first
"""
    subprocess.run([sys.executable, "-c", code, str(study), str(policy)], check=True)


def test_budgets_and_steps(tmp_path: Path) -> None:
    blocks = (
        'compress=[{method="filter", budget={macs=0.6}, round_to=4},'
        ' {method="filter", label="slow", ratios=[0.5], steps=2, allocation="global", criterion="taylor", round_to=4}]'
    )
    wanted = parsing.load(None, [*TINY, blocks, "evaluate.corruptions=none"])
    study = compress.compress(wanted, tmp_path / "s")
    baseline, budget = study["baseline-s0"].record, study["filter-macs0.6-s0"].record
    assert baseline.macs is not None
    assert budget.macs is not None
    assert 0.4 * baseline.macs < budget.macs <= 0.6 * baseline.macs
    assert budget.surgery is not None
    assert "asked for macs" in budget.surgery.notes[0]
    slow = study["slow-r0.50-s0"].record
    assert slow.surgery is not None
    assert any("steps" in note for note in slow.surgery.notes)
