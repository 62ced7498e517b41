"""`edgesafe search`: the smallest variant that passes, confirmed on images that no trial saw, the same after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesafe
from edgesafe import cli
from edgesafe.commands import compress, gate, search
from edgesafe.display import STATUS
from edgesafe.errors import ExitCode, NothingEvaluated
from edgesafe.measure import evidence as evidence_files
from edgesafe.recipe import parsing
from edgesafe.records import GateStatus, Role, VariantStatus
from edgesafe.report.searched import search_part
from edgesafe.report.view import View
from edgesafe.stages import measure
from edgesafe.study.study import Study
from edgesafe.study.study import read as open_study

from .conftest import TINY

POLICY = """
schema = "edgesafe.policy/1"
variants = ["weight-*"]
[stats]
confidence = 0.9
[[gate]]
id = "accuracy-drop"
metric = "accuracy"
max_drop = "{limit}"
[[gate]]
id = "mpc-drop"
metric = "mpc"
max_drop = "{limit}"
"""
SMALL = [
    *TINY,
    "data.test_images=300",
    "evaluate.images_per_cell=300",
    "evaluate.latency=false",
    "recover.epochs=0",
    'compress=[{method="filter", ratios=[0.5]}]',
    "search.resolution=0.25",
    "search.lowest=0.4",
    "search.highest=0.9",
    "search.screen_images=50",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the tiny network alone, from which every search here starts, so that it is trained once."""
    root = tmp_path_factory.mktemp("trained") / "s"
    alone = [*TINY, "compress=[]", "evaluate.corruptions='none'", "evaluate.latency=false", "certify.sets=[]"]
    compress.compress(parsing.load(None, alone), root)
    return root


def overrides(trained: Path, policy: Path, *more: str) -> list[str]:
    """A search from the trained network."""
    weights = trained / "baseline-s0" / "model.safetensors"
    return [*SMALL, f"model.weights='{weights}'", f"search.policy='{policy}'", *more]


def policy(path: Path, limit: str = "30pp") -> Path:
    path.write_text(POLICY.format(limit=limit))
    return path


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy(tmp_path_factory.mktemp("rules") / "p.toml")


@pytest.fixture(scope="module")
def found(trained: Path, rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("search") / "s"
    return search.search(parsing.load(None, overrides(trained, rules)), root)


def test_it_ends_with_the_best_that_passed(found: Study) -> None:
    record = found.search()
    assert record is not None
    assert record.finished
    passed = [t for t in record.trials if t.status is GateStatus.PASS]
    assert passed, "the control: something must pass under 30 pp"
    assert any(t.status is not GateStatus.PASS for t in record.trials), "the control: something must not"
    best = min(passed, key=lambda t: t.objective or 1.0)
    assert record.finals[0].variant == f"final-{best.variant}"
    tried = {t.ratio: t.status for t in record.trials}
    assert max(t.ratio for t in passed) < min(r for r, s in tried.items() if s is not GateStatus.PASS)
    macs = found[best.variant].metrics["macs"].estimate / found["baseline-s0"].metrics["macs"].estimate
    assert best.objective == pytest.approx(macs)


def test_trials_and_the_confirmation_see_different_images(found: Study) -> None:
    record = found.search()
    assert record is not None
    index: dict[str, set[int]] = {}
    for name in found.measurements():
        evidence = evidence_files.from_bytes(found[name].evidence_bytes())
        seen = set(evidence.clean.index.tolist())
        for cell in evidence.cells.values():
            seen |= set(cell.index.tolist())
        index[name] = seen
    trials = set.union(*(seen for name, seen in index.items() if not name.startswith("final-")))
    finals = set.union(*(seen for name, seen in index.items() if name.startswith("final-")))
    assert not trials & finals
    assert len(trials | finals) == record.decision_images + record.untouched_images == 300
    whole = sum(len(evidence_files.from_bytes(found[n].evidence_bytes()).clean.index) for n in found.measurements())
    assert record.inferences > whole  # clean and corrupted ones


def test_the_gate_judges_the_confirmed_one_at_the_surer_level(found: Study, rules: Path) -> None:
    record = found.search()
    assert record is not None
    assert record.winner is not None
    verdict = gate.judge(found, gate.GateRequest(rules))
    assert verdict.variants == (record.winner,)  # though the policy's pattern names weight-*
    assert verdict.overall is GateStatus.PASS
    sample = found[record.winner].measurements.sample
    assert sample is not None
    assert sample.rivals == 3
    chances = 3 * sample.looks
    assert f"{1 - 0.1 / chances:.2%}" in " ".join(verdict.notes)
    trial = gate.judge(found, gate.GateRequest(rules, (record.winner.removeprefix("final-"),)))
    assert f"{1 - 0.1 / chances:.2%}" not in " ".join(trial.notes)
    assert found[record.winner].entry.role is Role.CANDIDATE
    first = found[record.winner.removeprefix("final-")]
    assert first.entry.role is Role.TRIAL
    assert first.record.artefact("model.onnx") == found[record.winner].record.artefact("model.onnx")


def test_controls_have_the_winners_size(found: Study) -> None:
    """Random channels, as many of each layer; and the winner's own cut without recovery. Neither is a candidate."""
    record = found.search()
    assert record is not None
    first = record.finals[-1].variant.removeprefix("final-")
    assert [c.variant for c in record.controls] == [f"control_{name}_{first}" for name in ("random", "bare")]

    def widths(name: str) -> list[tuple[str, int]]:
        surgery = found[name].record.surgery
        assert surgery is not None
        return [(layer.name, layer.out_after) for layer in surgery.layers]

    assert all(widths(c.variant) == widths(first) for c in record.controls)
    chance, bare = (found[c.variant].record for c in record.controls)
    assert chance.method == "random"
    assert chance.recovery is not None
    assert bare.recovery is None
    assert all(found[c.variant].entry.role is Role.TRIAL for c in record.controls)
    drops = [found[c.variant].metrics["accuracy"].estimate for c in record.controls]
    assert max(drops) < found[first].metrics["accuracy"].estimate


@pytest.mark.slow
def test_a_larger_budget_goes_on(found: Study, trained: Path, rules: Path, tmp_path: Path) -> None:
    """The budget is no part of the recipe's identity: what was tried is not tried again, and the end is the same."""
    small = parsing.load(None, overrides(trained, rules, "search.trials=1"))
    large = parsing.load(None, overrides(trained, rules, "search.trials=30", "search.hours=5"))
    assert small.sha256 == large.sha256 == parsing.load(None, overrides(trained, rules)).sha256
    first = search.search(small, tmp_path / "s").search()
    assert first is not None
    assert first.stopped == "1 trials"
    assert first.budget == {"trials": 1}
    before = (tmp_path / "s" / first.trials[0].variant / "measurements.json").stat().st_mtime_ns
    again, whole = search.search(large, tmp_path / "s").search(), found.search()
    assert again is not None
    assert whole is not None
    assert again.stopped == ""
    assert again.winner == whole.winner
    assert [(t.variant, t.status, t.objective) for t in again.trials] == [
        (t.variant, t.status, t.objective) for t in whole.trials
    ]
    assert (tmp_path / "s" / first.trials[0].variant / "measurements.json").stat().st_mtime_ns == before
    assert len({f.variant for f in again.finals}) <= again.rivals
    last = open_study(tmp_path / "s")
    assert [n for n in last if last[n].entry.role is Role.CANDIDATE] == ([again.winner] if again.winner else [])


@pytest.mark.slow
def test_layers_are_refined_one_by_one(trained: Path, rules: Path, tmp_path: Path) -> None:
    more = ["search.refine=3", "search.lowest=0.4", "search.highest=0.4", "search.controls=false"]
    study = search.search(parsing.load(None, overrides(trained, rules, *more)), tmp_path / "s")
    record = study.search()
    assert record is not None
    first, *steps = record.trials
    assert first.variant == "filter-r0.40-s0"
    assert 1 <= len(steps) <= 3
    assert all("one group of layers narrower" in t.why for t in steps)
    best = first.objective or 1.0
    for step in steps:
        assert (step.objective or 1.0) < best  # what would not be smaller is not tried
        if step.status is GateStatus.PASS:
            best = step.objective or 1.0
        surgery = study[step.variant].record.surgery
        assert surgery is not None
        assert surgery.proof.equivalence is not None
    assert record.controls == ()
    passed = [t for t in record.trials if t.status is GateStatus.PASS]
    assert record.finals[0].variant == f"final-{min(passed, key=lambda t: t.objective or 1.0).variant}"


@pytest.mark.slow
def test_temperature_and_sparse_weights_are_dimensions(trained: Path, rules: Path, tmp_path: Path) -> None:
    more = ["search.minimise=bytes", "search.weights=[0.5]", "search.calibrate=[false,true]", "search.controls=false",
            "search.lowest=0.4", "search.highest=0.4"]  # fmt: skip
    study = search.search(parsing.load(None, overrides(trained, rules, *more)), tmp_path / "s")
    record = study.search()
    assert record is not None
    assert {s.label for s in record.series} == {
        "filter", "filter_calibrated", "filter_w0.50", "filter_calibrated_w0.50",
    }  # fmt: skip
    sparse = study.get("filter-r0.40-w0.50-s0")
    tried = {t.variant for t in record.trials}
    assert tried & {"filter-r0.40-w0.50-s0", "filter_calibrated-r0.40-w0.50-s0"}
    if sparse is not None:
        assert sparse.record.artefact("model.sparse.onnx") is not None


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(
    found: Study, trained: Path, rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parsing.load(None, overrides(trained, rules))
    real, left = measure.measure, [0]

    def dying(*args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(measure, "measure", dying)
    kills = 0
    while True:
        left[0] = 2  # two files are measured, then it is killed before the next
        try:
            again = search.search(recipe, tmp_path / "s")
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 2
    assert again.digest == found.digest

    def path(of: Study) -> Any:
        record = of.search()
        assert record is not None
        return [(t.variant, t.status, t.objective, t.inferences) for t in (*record.trials, *record.finals)]

    assert path(again) == path(found)
    monkeypatch.setattr(measure, "measure", dying)
    left[0] = 0
    assert search.search(recipe, tmp_path / "s").digest == found.digest  # finished: nothing is measured again


@pytest.mark.slow
def test_nothing_passes_an_impossible_policy(trained: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path / "p.toml", limit="0.01pp")
    args = ["search", "quickstart", "--policy", str(rules), "--minimise", "macs", "--budget", "trials=1"]
    sets = [part for item in overrides(trained, rules) for part in ("--set", item)]
    result = tmp_path / "r.json"
    code = cli.run([*args, *sets, "--out", str(tmp_path / "s"), "--json", str(result)])
    assert code in (ExitCode.GATE_FAILED, ExitCode.GATE_INCONCLUSIVE)
    plain = json.loads(result.read_text())
    assert plain["search"]["winner"] is None
    assert plain["search"]["stopped"] == "1 trials"
    with pytest.raises(NothingEvaluated, match="confirmed no variant"):
        gate.judge(open_study(tmp_path / "s"), gate.GateRequest(rules))


def test_the_report_has_a_section_of_it(found: Study, trained: Path) -> None:
    part = search_part(View(found))
    record = found.search()
    assert part is not None
    assert record is not None
    told = (*record.trials, *record.finals, *record.controls)
    assert [row[0].text for row in part.trials.rows] == [t.variant for t in told]
    passing = [t.variant for t in record.controls if t.status is GateStatus.PASS]
    assert (f"Caution: {', '.join(passing)}" if passing else "Of 2 controls of the winner's size") in part.text
    assert f"{record.inferences:,} images were run" in part.text
    assert f"no trial saw: {record.winner}" in part.text
    assert part.front is not None
    front = [row[0].text for row in part.front.rows]
    assert record.finals[0].variant.removeprefix("final-") in front
    points = {
        t.variant: (
            -found[t.variant].metrics["accuracy"].estimate, found[t.variant].metrics["size.onnx_bytes"].estimate,
        )
        for t in record.trials
    }  # fmt: skip
    beaten = {n for n, (a, b) in points.items() for c, d in points.values() if c <= a and d <= b and (c, d) != (a, b)}
    assert front == ["baseline-s0", *sorted(points.keys() - beaten, key=lambda name: points[name][1])]
    words = {t.variant: STATUS[t.status].word for t in record.trials} | {"baseline-s0": "not judged"}
    assert [row[-1].text for row in part.front.rows] == [words[name] for name in front]
    assert [head.text for head in part.front.columns] == ["Variant", "Accuracy", "File to ship", "macs", "Verdict"]
    assert search_part(View(open_study(trained))) is None


@pytest.mark.slow
def test_int8_of_what_passed_is_tried(trained: Path, rules: Path, tmp_path: Path) -> None:
    more = ["search.minimise=bytes", "export.precisions=['fp32','int8']", "search.lowest=0.4", "search.highest=0.4"]
    study = search.search(parsing.load(None, overrides(trained, rules, *more)), tmp_path / "s")
    record = study.search()
    assert record is not None
    tried = {trial.variant: trial for trial in record.trials}
    assert set(tried) == {"filter-r0.40-s0", "filter-r0.40-int8-s0"}
    eight, full = tried["filter-r0.40-int8-s0"], tried["filter-r0.40-s0"]
    assert eight.objective is not None
    assert full.objective is not None
    assert eight.objective < full.objective
    assert record.finals[0].variant == ("final-filter-r0.40-int8-s0" if eight.status is GateStatus.PASS else
                                        "final-filter-r0.40-s0")  # fmt: skip


@pytest.mark.slow
def test_the_report_reads_it(found: Study, rules: Path, tmp_path: Path) -> None:
    assert cli.run(["report", str(found.root), "--policy", str(rules), "--out", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r" / "index.html").read_text()
    assert "What was tried, what passed, what it cost" in page
    assert "A search for the least macs" in (tmp_path / "r" / "report.md").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--budget", "trials=0"], "'trials=0' is no budget"),
        (["--budget", "coffee=3"], "trials=12"),
        (["--budget", "trials=1.5"], "is no budget"),
        (["--set", "seeds=[0,1]"], "search with one"),
        (["--minimise", "latency"], "leave it on, or minimise macs"),
        (["--set", "search.methods=['weight']"], "no method that makes the macs smaller"),
        (["--set", "search.weights=[0.5]"], "do not make the macs smaller"),
        (["--set", "search.share=0.01"], "at least 50 must be on each side"),
        (["--set", "search.lowest=0.99"], "above search.highest"),
        (["--set", "evaluate.images_per_cell=1"], "give more images per cell"),
        (["--policy", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_bad_input_is_one_clear_line(
    more: list[str], says: str, trained: Path, rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for item in overrides(trained, rules)[:-1] for part in ("--set", item)]
    base = ["search", "quickstart", "--policy", str(rules), "--minimise", "macs", "--out", str(tmp_path / "s")]
    assert cli.run([*base, *sets, *more]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_gates_on_certificates_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = policy(tmp_path / "p.toml")
    gate_text = '[[gate]]\nid = "c"\nmetric = "certified_accuracy.brightness=2"\nmin = "50%"\n'
    rules.write_text(rules.read_text() + gate_text)
    sets = [part for item in overrides(trained, rules) for part in ("--set", item)]
    out = tmp_path / "s"
    code = cli.run(["search", "quickstart", "--policy", str(rules), "--minimise", "macs", "--out", str(out), *sets])
    assert code == ExitCode.USAGE
    assert "the gate 'c' is about certificates" in capsys.readouterr().err
    assert not out.exists()


def test_a_changed_record_is_found(found: Study, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(found.root, copy)
    file = copy / "search.json"
    file.write_bytes(file.read_bytes().replace(b'"winner"', b'"Winner"'))
    with pytest.raises(edgesafe.IntegrityError, match="changed after"):
        open_study(copy).search()


def test_studies_without_a_search_have_none(trained: Path) -> None:
    assert open_study(trained).search() is None
    assert all(v.entry.role is not Role.TRIAL for v in open_study(trained).values())
    assert np.all([v.status is VariantStatus.DONE for v in open_study(trained).values()])
