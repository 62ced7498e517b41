"""The package as a whole: fast, free of numpy and torch, schemas as shipped, example policies that load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gate_fixtures import CAND, base_measured, diff, judge, measured, study

from edgesafe.metrics import members
from edgesafe.policy import outputs, schema
from edgesafe.policy.policy import load

ROOT = Path(__file__).resolve().parents[2]
POLICIES = sorted((ROOT / "configs" / "policies").glob("*.toml"))

SCRIPT = """
import datetime, sys, time
start = time.process_time()
from edgesafe.policy import decision, outputs, policy
from edgesafe.records import Measurements, StudyRecord
study = StudyRecord.model_validate_json(sys.argv[1])
found = {m.variant: m for m in (Measurements.model_validate_json(text) for text in sys.argv[3:])}
verdict = decision.decide(policy.loads(sys.argv[2]), study, found, {}, baseline=None, today=datetime.date(2026, 11, 22))
outputs.to_json(verdict), outputs.to_junit(verdict), outputs.to_markdown(verdict)
print(time.process_time() - start, verdict.exit_code)
heavy = {"numpy", "torch", "onnx", "onnxruntime", "matplotlib", "PIL"} & set(sys.modules)
print(sorted(heavy))
"""


def test_from_import_to_verdict_in_well_under_a_second_of_cpu_without_numpy():
    names = [f"accuracy.{c}.{s}" for c in ("fog", "snow", "frost", "contrast", "pixelate") for s in range(1, 6)]
    found = measured(CAND, *(diff(name, 0.0, se=0.001) for name in names))
    text = 'schema = "edgesafe.policy/1"\n[[gate]]\nid = "cells"\nmetric = "accuracy.*.*"\nmax_drop = "1pp"\n'
    arguments = [study().model_dump_json(by_alias=True), text]
    arguments += [one.model_dump_json(by_alias=True) for one in (found, base_measured())]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    seconds, code = done.stdout.split("\n")[0].split()
    assert code == "0"
    assert done.stdout.split("\n")[1] == "[]"
    assert float(seconds) < 0.5, "0.2 s on a quiet machine; a busy one may take twice that and more"


@pytest.mark.parametrize("name", sorted(schema.MODELS))
def test_shipped_schemas_are_those_of_the_records(name):
    assert schema.shipped(name) == schema.generate(name), "run `python -m edgesafe.policy.schema`"


def test_schemas_are_written_where_asked(tmp_path):
    schema.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "lock.schema.json", "policy.schema.json", "verdict.schema.json",
    ]  # fmt: skip


def _validator(name):
    jsonschema = pytest.importorskip("jsonschema", reason="the oracle is not installed")
    document = json.loads(schema.shipped(name))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_a_verdict_fits_its_schema():
    verdict = judge("accuracy max_drop='1.0pp'", diff("accuracy", -0.05, se=0.001))
    document = json.loads(outputs.to_json(verdict))
    _validator("verdict").validate(document)
    del document["gates"][0]["status"]
    assert list(_validator("verdict").iter_errors(document))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_example_policies_load_and_fit_the_schema(path):
    import tomllib

    rules = load(path)
    assert rules.profile == path.stem
    assert all(members(gate.metric) for gate in rules.gates)
    _validator("policy").validate(tomllib.loads(path.read_text(encoding="utf-8")))


def test_there_are_four_example_policies():
    assert [path.stem for path in POLICIES] == ["audit", "pull-request", "quickstart", "release"]


def test_the_policy_for_audits_asks_for_nothing_that_only_compress_knows():
    audit = next(load(path) for path in POLICIES if path.stem == "audit")
    known_of_any_file = {"accuracy", "mpc", "nll", "ece_em10_top1", "high_conf_error@0.9", "latency.ratio"}
    assert {gate.metric for gate in audit.gates} == known_of_any_file


def test_the_documented_policies_load():
    """Every whole policy in the docs is one that can be decided."""
    from edgesafe.policy.policy import loads

    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```toml\n")[1:]]
    whole = [block for block in blocks if "edgesafe.policy/1" in block]
    assert whole
    for block in whole:
        loads(block, source="docs/gate.md")
