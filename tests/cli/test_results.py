"""`--json` of every command, shipped files by name, and what a newcomer is told: init, doctor, the estimate."""

import fnmatch
import json
import shutil
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edgesafe import cli, data
from edgesafe.commands import doctor, estimate, printing
from edgesafe.commands.columns import columns_of
from edgesafe.errors import PolicyError, RecipeError
from edgesafe.policy import policy as policies
from edgesafe.recipe import parsing, recipe, shipped
from edgesafe.recipe.shipped import Kind
from edgesafe.records import StudyResult, Verdict
from edgesafe.stages import observe
from edgesafe.study.host import host
from edgesafe.study.study import read

SETS = [
    "data.train_images=400", "data.test_images=40", "train.epochs=4", "train.milestones=[3]", "recover.epochs=0",
    "recover.bn_images=32", 'evaluate.corruptions=["fog"]', "evaluate.severities=[3]", "evaluate.latency_runs=64",
    'compress=[{method="weight", ratios=[0.5]}]',
]  # fmt: skip
OPTIONS = [part for item in SETS for part in ("--set", item)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results") / "study"
    assert cli.run(["compress", "--out", str(root), *OPTIONS]) == 0
    return root


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    """Exit code, and standard output as JSON: nothing else may be there."""
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert captured.out, captured.err
    return code, json.loads(captured.out)


def test_compress_and_evaluate_say_every_metric(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, plain = printed(capsys, "compress", "--out", study, *OPTIONS, "--json", "-")
    result = StudyResult.model_validate(plain)
    assert (code, result.exit_code, result.command) == (0, 0, "compress")
    stored = json.loads((study / "weight-r0.50-s0" / "measurements.json").read_text())["metrics"]
    assert result.variants[1].metrics["accuracy"].estimate == stored["accuracy"]["estimate"]
    assert result.digest == json.loads((study / "study.json").read_text())["digest"]

    model = study / "weight-r0.50-s0" / "model.onnx"
    options = [part for item in SETS[:2] + SETS[6:9] for part in ("--set", item)]
    code, plain = printed(
        capsys, "evaluate", model, "--data", "digits", "--out", tmp_path / "audit", *options, "--json", "-"
    )
    assert (code, plain["command"], plain["variants"][-1]["id"]) == (0, "evaluate", "candidate-s0")


def test_a_verdict_on_standard_output_is_the_contract_of_gate(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, plain = printed(
        capsys, "gate", study, "--policy", "quickstart", "--variant", "weight-r0.50-s0", "--json", "-"
    )
    assert Verdict.model_validate(plain).exit_code == code
    assert plain["schema"] == "edgesafe.verdict/1"
    assert cli.run(["gate", str(study), "--policy", "quikstart"]) == 4
    assert "did you mean 'quickstart'" in capsys.readouterr().err


def test_the_other_commands(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = study / "baseline-s0" / "model.onnx"
    code, plain = printed(capsys, "bench", model, "--runs", 64, "--json", "-")
    assert code == 0
    assert next(iter(plain["files"].values()))["latency.p50_ms"]["estimate"] > 0
    _, plain = printed(capsys, "report", study, "--out", tmp_path / "r", "--json", "-")
    assert all(Path(file).is_file() for file in plain["files"])
    only = ("--corruption", "fog", "--severity", 1, "--images", 2)
    _, plain = printed(capsys, "corrupt", "digits", "--out", tmp_path / "c", *only, "--json", "-")
    assert Path(plain["files"][0]).exists()
    _, plain = printed(capsys, "models", "--json", "-")
    assert "smallnet" in plain["architectures"]
    _, plain = printed(capsys, "models", "smallnet", "--json", "-")
    assert plain["params"] == 78042
    _, plain = printed(capsys, "compress", "--show-recipe", "--json", "-")
    assert tomllib.loads("\n".join(plain["lines"]))["name"] == "quickstart"
    _, plain = printed(capsys, "policy", "init", study, "--json", "-")
    assert tomllib.loads("\n".join(plain["lines"]))["schema"] == "edgesafe.policy/1"
    _, plain = printed(capsys, "policy", "check", "quickstart", study, "--json", "-")
    assert plain["lines"]
    _, plain = printed(capsys, "policy", "pin", study, "--json", "-")
    assert any("baseline-s0" in line for line in plain["lines"])
    _, plain = printed(capsys, "doctor", "--json", "-")
    assert {fact["topic"] for fact in plain["facts"]} >= {"system", "processor", "package", "runtime", "data", "disk"}


def test_a_file_gets_the_record_and_people_still_read(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.run(["policy", "pin", str(study), "--json", str(tmp_path / "r.json")]) == 0
    assert "baseline-s0" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["command"] == "policy pin"


def test_what_ships_is_found_by_name_and_a_file_in_the_way_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "release").write_text("mine")
    for kind, folder in ((Kind.RECIPE, ""), (Kind.POLICY, "policies"), (Kind.TARGET, "targets")):
        for name in shipped.available(kind):
            assert shipped.find(kind, name).parent.name == (folder or "configs")
    (tmp_path / "own").write_text("")
    assert shipped.find(Kind.POLICY, "own") == Path("own")
    assert shipped.find(Kind.POLICY, Path("release").absolute()) == tmp_path / "release"
    with pytest.raises(PolicyError, match="did you mean 'release'"):
        shipped.find(Kind.POLICY, "relaese")
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        shipped.find(Kind.RECIPE, tmp_path / "quikstart.toml")
    for name in ("../quickstart", "x" * 5000, ""):
        with pytest.raises(PolicyError):
            shipped.find(Kind.POLICY, name + ".toml")


def test_a_shipped_policy_by_name_is_part_of_what_a_study_rests_on(tmp_path: Path) -> None:
    asked = ["evaluate.mode=quick", "evaluate.policy=release"]
    assert parsing.load("quickstart", asked).policy_file == shipped.find(Kind.POLICY, "release")
    assert parsing.load(None).policy_file is None


# ---------------------------------------------------------------------------------------------- init, estimate, doctor


def test_init_writes_a_recipe_that_runs(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "w.safetensors"
    shutil.copy(study / "baseline-s0" / "model.safetensors", weights)
    given = ("--model", "smallnet", "--weights", weights, "--data", "digits", "--ratio", 0.3, "--ratio", 0.5)
    code, plain = printed(capsys, "init", *given, "--out", "mine.toml", "--json", "-")
    assert (code, plain["narrowed"] > 0, plain["test_images"]) == (0, True, 600)
    text = Path("mine.toml").read_text()
    assert "about " in text
    assert "trained here" not in text
    made = parsing.load(Path("mine.toml"))
    assert (made.model.weights, made.compress[0].ratios, made.evaluate.images_per_cell) == (
        str(weights),
        (0.3, 0.5),
        500,
    )
    assert all("#" in line or "=" in line or not line or line.startswith("[") for line in text.splitlines())
    assert cli.run(["init", "--model", "smallnet", "--data", "digits", "--out", "mine.toml"]) == 4
    assert "is there already" in capsys.readouterr().err
    assert Path("mine.toml").read_text() == text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "smalnet", "--data", "digits"], "smallnet"),
        (["--model", "smallnet", "--data", "digts"], "did you mean 'digits'"),
        (["--model", "smallnet", "--data", "digits", "--weights", "nowhere.pt"], "nowhere.pt"),
        (["--model", "smallnet", "--data", "digits", "--method", "filtre"], "filter"),
        (["--model", "smallnet", "--data", "digits", "--ratio", "1.5"], "between 0 and 1"),
        (["--model", "smallnet", "--data", "digits", "--method", "filter", "--ratio", "0.001"], "0.001"),
    ],
)
def test_init_refuses_before_it_writes(
    flags: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["init", *flags]) in (3, 4)
    assert says in capsys.readouterr().err
    assert not Path("recipe.toml").exists()


def ahead(*overrides: str):
    resolved = parsing.load(None, overrides)
    bundle = data.load(resolved.data)
    bench = observe.prepare(bundle, resolved.evaluate, resolved.target, host())
    plans = recipe.variants(resolved)
    return estimate.estimate(resolved, bundle, bench, plans), estimate.estimate(resolved, bundle, bench, plans[1:])


def test_the_estimate_counts_what_is_left_and_grows_with_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_speed", lambda *_: estimate._Speed(defaultdict(lambda: 1e-3), 1e-4, 2e-4))
    whole, rest = ahead("compress=[{method='filter', ratios=[0.5]}]", "recover.bn_images=0")
    assert whole.train_s == pytest.approx(12 * 1000 * 1e-3)  # 12 epochs of 1,000 images
    assert rest.train_s == 0.0  # the baseline is there
    assert (whole.variants, rest.variants) == (2, 1)
    epochs = parsing.load(None).recover.epochs
    assert whole.recover_s == pytest.approx(epochs * 1000 * 1e-3 + 3 * 197 * 1e-4)
    assert whole.images == 600 + 75 * 200
    assert whole.measure_s == pytest.approx(2 * (15_600 * 1e-4 + 15_000 * 2e-4))
    assert whole.measure_s == pytest.approx(2 * rest.measure_s)
    twice, _ = ahead("compress=[{method='filter', ratios=[0.5]}]", "seeds=[0,1]")
    assert twice.train_s == pytest.approx(2 * whole.train_s)
    parts = (whole.train_s, whole.recover_s, whole.export_s, whole.measure_s, whole.certify_s)
    assert whole.seconds == pytest.approx(sum(parts))
    assert min(parts) > 0.0


def test_the_estimate_times_each_training_as_its_section_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_FURTHER_CORE", 0.0)  # whatever cores this machine has
    monkeypatch.setattr(estimate, "least_seconds", lambda _: 0.0)
    monkeypatch.setattr(estimate, "_learning", lambda _, __, section: 1e-3 if section.channels_last else 5e-3)
    few = "evaluate.corruptions=none", "compress=[{method='filter', ratios=[0.5]}]", "recover.bn_images=0"
    same, _ = ahead(*few)
    slower, _ = ahead(*few, "recover.channels_last=false")
    assert slower.train_s == same.train_s == pytest.approx(12.0)
    epochs = parsing.load(None).recover.epochs
    assert (same.recover_s, slower.recover_s) == (pytest.approx(epochs * 1.0), pytest.approx(epochs * 5.0))
    assert ahead(*few, "recover.batch_size=50")[0].recover_s == pytest.approx(same.recover_s)


def test_the_estimate_leaves_no_trace_in_what_is_random() -> None:
    import torch

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert ahead("evaluate.corruptions=none")[0] is not None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_that_cannot_be_timed_has_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(5, num_classes))\n"
    )
    arch = f"model.arch={tmp_path / 'net.py'}:make"
    assert ahead(arch, "evaluate.corruptions=none") == (None, None)


CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx avx2 avx512f avx512_vnni\n"


def test_the_processor_is_read_from_what_linux_says() -> None:
    assert doctor.features(CPUINFO) == ("avx2", "avx512f", "avx512_vnni")
    assert doctor.features("Features\t: fp asimd asimddp\n") == ("asimd", "asimddp")
    assert doctor.features("") == ()


def test_the_doctor_says_what_is_missing_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {(f.topic, f.name): f for f in doctor.examine(tmp_path, tmp_path / "not" / "there").facts}
    assert facts["data", "cifar10"].advice == f"edgesafe fetch cifar10 --root {tmp_path}"
    np.savez(tmp_path / "cifar10.npz")
    facts = {(f.topic, f.name): f for f in doctor.examine(tmp_path, tmp_path).facts}
    assert facts["data", "cifar10"].advice == ""
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torch" else "1.0")
    facts = {(f.topic, f.name): f for f in doctor.examine(tmp_path, tmp_path).facts}
    assert facts["package", "[compress]"].advice == "without torch: pip install 'edgesafe[compress]'"


def test_the_doctor_runs_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    facts = {f.name: f for f in doctor._runtime()}
    assert "no training" in facts["torch"].advice


@pytest.mark.parametrize("columns", ["80", "160"])
def test_tables_fit_the_terminal_and_lose_nothing(
    columns: str, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    loaded = read(study)
    table = printing._variants(loaded, columns_of(loaded), wide=columns == "160")
    console = printing._console()
    assert console.width == int(columns)
    assert console.measure(table).minimum <= int(columns)
    capsys.readouterr()
    assert cli.run(["compress", "--out", str(study), *OPTIONS]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "weight-r0.50-s0" in line and "±" in line]
    assert len(rows) == 1
    assert len(rows[0].rstrip()) <= int(columns)
    sparse = (study / "weight-r0.50-s0" / "model.sparse.onnx").stat().st_size
    assert (f"{sparse / 1e3:,.0f}" if columns == "80" else f"{sparse:,} B sparse") in rows[0]
    assert ("zeros" if columns == "80" else "sparsity") in shown  # no heading is cut off, either
    assert "…" not in rows[0]


def test_the_demo_judges_all_but_the_control_and_the_control_is_shown_failing() -> None:
    root = Path(__file__).parents[2]
    judged = policies.load(shipped.find(Kind.POLICY, "quickstart")).variants
    made = [plan.id for plan in recipe.variants(parsing.load(None)) if plan.section is not None]
    control = [name for name in made if not any(fnmatch.fnmatchcase(name, pattern) for pattern in judged)]
    assert len(control) == 1
    assert all(fnmatch.filter(made, pattern) for pattern in judged)  # a pattern that matches nothing judges nothing
    steps = (root / "Makefile").read_text().partition("demo: ")[2].partition("\ntest:")[0]
    assert f"--variant {control[0]}; code=$$?" in steps
    assert "-ne 1" in steps
    assert "make demo" in (root / ".ci" / "run").read_text().splitlines()
