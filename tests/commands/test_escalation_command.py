"""`edgesafe evaluate --policy` and `evaluate.policy`: measured until decided, and the same decision from the study."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from edgesafe import cli
from edgesafe.commands import compress, evaluate, gate
from edgesafe.errors import (
    EdgesafeError,
    ExitCode,
    IntegrityError,
    PolicyError,
    RecipeError,
    RefusedError,
    UsageError,
)
from edgesafe.policy import policy as policies
from edgesafe.policy.decision import decide
from edgesafe.recipe import parsing
from edgesafe.records import GateStatus, Sample, SampleDesign
from edgesafe.study.study import read as open_study

from .conftest import TINY

POLICY = """
schema = "edgesafe.policy/1"
[stats]
confidence = 0.95
[[gate]]
id = "accuracy-drop"
metric = "accuracy"
max_drop = "{accuracy}"
[[gate]]
id = "mpc-drop"
metric = "mpc"
max_drop = "{mpc}"
"""
QUICK = [*TINY, 'compress=[{method="weight", ratios=[0.3]}]', "data.test_images=300", "evaluate.images_per_cell=300"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose baseline saw 300 images in each of 4 cells."""
    root = tmp_path_factory.mktemp("measured") / "s"
    compress.compress(parsing.load(None, QUICK), root)
    return root


def policy(path: Path, accuracy: str = "30pp", mpc: str = "30pp") -> Path:
    path.write_text(POLICY.format(accuracy=accuracy, mpc=mpc))
    return path


FLAGS = ["--data", "digits", "--set", "data.test_images=300", "--set", "evaluate.latency=false",
         "--set", "evaluate.corruptions=['fog','gaussian_noise']", "--set", "evaluate.severities=[1,5]"]  # fmt: skip


def test_a_foreign_file_against_a_study_until_it_is_decided(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = measured / "weight-r0.30-s0" / "model.onnx", tmp_path / "out"
    rules = policy(tmp_path / "p.toml")
    code = cli.run(
        ["evaluate", str(file), "--baseline", str(measured), "--policy", str(rules), "--out", str(out), *FLAGS]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "measured before" in said.err
    assert "PASS" in said.out
    study = open_study(out)
    found = study["candidate-s0"].measurements
    assert found.differences["mpc"].method == "paired-margin-strata"
    assert study["baseline-s0"].evidence_bytes() == open_study(measured)["baseline-s0"].evidence_bytes()
    verdict = gate.judge(open_study(out), gate.GateRequest(rules))
    assert verdict.exit_code == 0  # decided the same from what was stored
    assert cli.run(["report", str(out), "--out", str(tmp_path / "r"), "--policy", str(rules)]) == 0
    for page in ("index.html", "report.md"):
        assert "Measured on a sample of the corrupted images" in (tmp_path / "r" / page).read_text()


def test_gates_that_compare_are_not_dropped_in_silence(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a baseline `evaluate` says at once what `gate` would say of its study; leaving out is asked for."""
    file = measured / "weight-r0.30-s0" / "model.onnx"
    both = tmp_path / "both.toml"
    both.write_text(POLICY.format(accuracy="30pp", mpc="30pp") + '[[gate]]\nid="a"\nmetric="accuracy"\nmin="30%"\n')
    command = ["evaluate", str(file), "--out", str(tmp_path / "o"), "--policy"]
    assert cli.run([*command, str(both), *FLAGS]) == ExitCode.NOTHING_EVALUATED
    said = capsys.readouterr().err
    assert "accuracy-drop, mpc-drop" in said
    assert "--no-baseline" in said
    assert not (tmp_path / "o").exists()
    assert cli.run([*command, str(both), "--no-baseline", *FLAGS]) == 0
    assert "left out, no baseline asked for: accuracy-drop, mpc-drop" in capsys.readouterr().out
    assert cli.run(["gate", str(tmp_path / "o"), "--policy", str(both)]) == ExitCode.NOTHING_EVALUATED
    assert cli.run(["gate", str(tmp_path / "o"), "--policy", str(both), "--no-baseline"]) == 0


def test_a_limit_that_is_surely_broken_fails(measured: Path, tmp_path: Path) -> None:
    file = measured / "weight-r0.30-s0" / "model.onnx"
    broken = tmp_path / "broken.onnx"
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(0.8 * numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(model, broken)
    rules = policy(tmp_path / "p.toml", accuracy="5pp")
    code = cli.run(
        [
            "evaluate",
            str(broken),
            "--baseline",
            str(measured),
            "--policy",
            str(rules),
            "--out",
            str(tmp_path / "o"),
            *FLAGS,
        ]
    )
    assert code in (1, 3)  # failed, or refused since it does no better than chance


def test_compress_measures_until_the_policy_is_decided(tmp_path: Path) -> None:
    rules = policy(tmp_path / "p.toml")
    keys = [*QUICK, "evaluate.mode=quick", f"evaluate.policy={rules}", "evaluate.budget=1200"]
    study = compress.compress(parsing.load(None, keys), tmp_path / "s")
    found = study["weight-r0.30-s0"].measurements
    assert found.sample is not None
    assert found.sample.looks >= 1
    assert study.record.inputs["policy"].startswith("sha256:")
    verdict = gate.judge(open_study(tmp_path / "s"), gate.GateRequest(rules))
    assert {r.status for r in verdict.gates} == {GateStatus.PASS}
    rules.write_text(rules.read_text() + "\n# changed\n")
    with pytest.raises(IntegrityError, match="policy"):
        compress.compress(parsing.load(None, keys), tmp_path / "s")


def test_looks_tighten_the_bounds(measured: Path, tmp_path: Path) -> None:
    """The same numbers, judged at one of five looks: each bound holds at 99 %, together 95 %."""
    rules = policy(tmp_path / "p.toml")
    plain = gate.judge(open_study(measured), gate.GateRequest(rules))
    reader = open_study(measured)
    records, numbers = reader.records(), reader.measurements()
    one = "weight-r0.30-s0"
    sample = Sample(design=SampleDesign.CELL, seed=0, benchmark=300, looks=5)
    numbers[one] = numbers[one].model_copy(update={"sample": sample})
    again = decide(
        policies.load(rules), reader.record, numbers, records, baseline=None, today=datetime.date(2026, 1, 1)
    )
    assert all(r.confidence == pytest.approx(0.99) for r in again.gates)
    assert all(r.confidence == pytest.approx(0.95) for r in plain.gates)
    for wide, narrow in zip(again.gates, plain.gates, strict=True):
        assert wide.high > narrow.high  # type: ignore[operator]
    assert any("judged 5 times" in note for note in again.notes)
    for bad in (0, -1, 2.5, "5", True):
        with pytest.raises(ValidationError, match="looks"):
            Sample.model_validate({**sample.model_dump(), "looks": bad})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"data": "digits", "overrides": ("data.test_images=200",)}, IntegrityError, "sha256"),
        ({"overrides": ("data.test_images=300", "evaluate.seed=4")}, IntegrityError, "corruption"),
        ({"overrides": ("data.test_images=300", "evaluate.severities=[2]")}, Exception, "no evidence of"),
        ({"baseline": "nowhere"}, UsageError, "neither"),
        ({"overrides": ("evaluate.policy=p.toml",)}, RecipeError, "quick"),
        ({"overrides": ("evaluate.mode=quick", "evaluate.policy=missing.toml")}, PolicyError, "missing.toml"),
    ],
)
def test_refusals(
    measured: Path, tmp_path: Path, change: dict[str, Any], error: type[EdgesafeError], says: str
) -> None:
    (tmp_path / "nowhere").mkdir()
    given = evaluate.AuditRequest(
        model=measured / "weight-r0.30-s0" / "model.onnx", baseline=measured, data="digits",
        overrides=("data.test_images=300", "evaluate.latency=false", "evaluate.corruptions=['fog','gaussian_noise']",
                   "evaluate.severities=[1,5]"),
    )  # fmt: skip
    if "baseline" in change:
        change = {**change, "baseline": tmp_path / change["baseline"]}
    if "overrides" in change:
        change = {**change, "overrides": (*given.overrides, *change["overrides"])}
    with pytest.raises(error, match=says):
        evaluate.evaluate(replace(given, **change), tmp_path / "out")


def test_a_variant_that_was_sampled_cannot_be_a_baseline(measured: Path, tmp_path: Path) -> None:
    file, rules = measured / "weight-r0.30-s0" / "model.onnx", policy(tmp_path / "p.toml")
    command = ["evaluate", str(file), "--baseline", str(measured), "--policy", str(rules)]
    assert cli.run([*command, "--out", str(tmp_path / "o"), *FLAGS]) == 0
    given = evaluate.AuditRequest(file, tmp_path / "o" / "candidate-s0", "digits", overrides=tuple(FLAGS[3::2]))
    with pytest.raises(RefusedError, match="another's margins"):
        evaluate.evaluate(given, tmp_path / "p")
