"""Bad input at the command line: the right exit code and one helpful line, never a traceback, nothing lost."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import cli, files, models
from edgesafe.recipe import parsing, toml

SETS = [
    "data.train_images=64",
    "data.test_images=40",
    "train.epochs=1",
    "train.milestones=[]",
    "recover.epochs=0",
    "recover.bn_images=32",
    "evaluate.corruptions=none",
    "evaluate.latency_runs=64",
    'compress=[{method="weight", ratios=[0.5]}]',
]


def arguments(*more: str) -> list[str]:
    return [part for item in [*SETS, *more] for part in ("--set", item)]


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "study"
    assert cli.run(["compress", "--out", str(root), *arguments()]) == 0
    return root


@pytest.fixture
def study(done: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "study"
    shutil.copytree(done, copy)
    return copy


class Outcome:
    def __init__(self, code: int, error: str) -> None:
        self.code, self.error = code, error


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*argv: str) -> Outcome:
        capsys.readouterr()
        code = cli.run([str(a) for a in argv])
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("edgesafe:")]
        assert "Traceback" not in error
        assert code != 70, error
        if code not in (0, 1, 2) and not (argv[0] == "gate" and not lines):  # a verdict is on standard output
            assert len(lines) == 1 or "Usage:" in error, error
        return Outcome(code, error)

    return call


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("recover.epcohs=1", "did you mean 'epochs'"),
        ('compress.0.method="wieght"', "weight"),
        ("compress.0.ratios=[0]", "between 0 and 1"),
        ("compress.0.ratios=[1]", "between 0 and 1"),
        ("compress.0.ratios=[-0.3]", "between 0 and 1"),
        ("model.arch=resnet21", "resnet"),
        ("data.name=cifra10", "did you mean 'cifar10'"),
        ("evaluate.frost_dir=/nowhere/at/all", "none"),
    ],
)
def test_recipe(run, tmp_path: Path, override: str, says: str) -> None:
    outcome = run("compress", "--out", tmp_path / "s", *arguments(override))
    if says == "none":  # not looked at, since nothing is corrupted
        assert outcome.code == 0
        return
    assert (outcome.code, says in outcome.error) == (4, True), outcome.error
    assert not (tmp_path / "s" / "baseline-s0").exists()


def weights(tmp_path: Path, change) -> str:
    state = models.build("smallnet", 10, {}).state_dict()
    path = tmp_path / "w.pt"
    torch.save(change(state), path)
    return f"model.weights={path}"


def without(state: dict, key: str) -> dict:
    return {k: v for k, v in state.items() if k != key}


def test_weights_that_do_not_fit_name_the_keys(run, tmp_path: Path) -> None:
    first = next(iter(models.build("smallnet", 10, {}).state_dict()))
    outcome = run("compress", "--out", tmp_path / "s", *arguments(weights(tmp_path, lambda s: without(s, first))))
    assert outcome.code == 4
    assert first in outcome.error
    outcome = run(
        "compress", "--out", tmp_path / "s", *arguments(weights(tmp_path, lambda s: s | {"stranger": torch.zeros(1)}))
    )
    assert outcome.code == 4
    assert "stranger" in outcome.error
    outcome = run(
        "compress", "--out", tmp_path / "s", *arguments(weights(tmp_path, lambda s: s | {first: torch.zeros(3, 3)}))
    )
    assert outcome.code == 4
    assert first in outcome.error


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch pwned",)


def test_a_pickle_that_is_not_tensors_only_is_never_run(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, path)
    outcome = run("compress", "--out", tmp_path / "s", *arguments(f"model.weights={path}"))
    assert outcome.code == 4
    path.write_bytes(pickle.dumps(Evil()))
    outcome = run("compress", "--out", tmp_path / "s", *arguments(f"model.weights={path}"))
    assert outcome.code == 4
    assert not (tmp_path / "pwned").exists()


def test_nan_in_weights_is_refused_by_name(run, tmp_path: Path) -> None:
    first = next(iter(models.build("smallnet", 10, {}).state_dict()))
    change = weights(tmp_path, lambda s: s | {first: s[first] * float("nan")})
    outcome = run("compress", "--out", tmp_path / "s", *arguments(change))
    assert outcome.code == 3
    assert first in outcome.error


def test_absent_and_truncated_weights(run, tmp_path: Path) -> None:
    assert run("compress", "--out", tmp_path / "s", *arguments("model.weights=nowhere.pt")).code == 4
    change = weights(tmp_path, lambda s: s)
    path = Path(change.partition("=")[2])
    path.write_bytes(path.read_bytes()[:1000])
    assert run("compress", "--out", tmp_path / "s", *arguments(change)).code == 4


def npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    content: dict[str, object] = {
        "x_train": rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), "y_train": np.arange(60) % 10,
        "x_test": rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), "y_test": np.arange(40) % 10,
    }  # fmt: skip
    np.savez(path, **(content | changes))  # type: ignore[arg-type]
    return path


def test_data_with_the_wrong_number_of_classes(run, tmp_path: Path, done: Path) -> None:
    own = f"model.weights={done / 'baseline-s0' / 'model.safetensors'}"
    seven = npz(tmp_path / "d.npz", y_train=np.arange(60) % 7, y_test=np.arange(40) % 7)
    base = ["data.name=npz", f"data.root={seven}", "data.train_images=40"]
    outcome = run("compress", "--out", tmp_path / "s", *arguments(own, *base))
    assert outcome.code == 4  # the classifier has 10 rows, the data 7 classes
    more = npz(tmp_path / "e.npz", y_test=np.arange(40) % 11)
    outcome = run("compress", "--out", tmp_path / "s", *arguments("data.name=npz", f"data.root={more}"))
    assert outcome.code == 4
    assert "10 classes" in outcome.error


def test_corrupt_truncated_and_empty_data(run, tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk" * 100):
        path.write_bytes(content)
        assert run("compress", "--out", tmp_path / "s", *arguments("data.name=npz", f"data.root={path}")).code == 4
    npz(path, x_test=np.zeros((0, 32, 32, 3), np.uint8), y_test=np.zeros(0, int))
    outcome = run("compress", "--out", tmp_path / "s", *arguments("data.name=npz", f"data.root={path}"))
    assert outcome.code == 4
    assert "no images" in outcome.error
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    outcome = run("compress", "--out", tmp_path / "s", *arguments("data.name=imagefolder", f"data.root={tmp_path}"))
    assert outcome.code == 4
    assert "class folders" in outcome.error


def test_an_output_directory_that_cannot_be_written(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = run("compress", "--out", tmp_path / "file" / "s", *arguments())
    assert outcome.code == 4
    assert "--out" in outcome.error
    outcome = run("compress", "--out", tmp_path / "file", *arguments())
    assert outcome.code == 4
    assert (tmp_path / "file").read_text() == "mine"
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert run("compress", "--out", locked / "s", *arguments()).code == 4


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")])
def test_a_full_or_read_only_disk(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str) -> None:
    real, writes = os.fsync, 0

    def fail(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes > 6:
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fail)
    outcome = run("compress", "--out", tmp_path / "s", *arguments())
    assert outcome.code == 4
    assert says in outcome.error
    monkeypatch.undo()
    assert run("compress", "--out", tmp_path / "s", *arguments()).code == 0  # it continues


def test_another_recipe_and_a_newer_schema(run, study: Path) -> None:
    outcome = run("compress", "--out", study, *arguments("recover.bn_images=16"))
    assert outcome.code == 4
    assert "bn_images" in outcome.error
    path = study / "study.json"
    plain = json.loads(path.read_text())
    plain["schema"] = "edgesafe.study/9"
    path.write_text(json.dumps(plain))
    for command in (
        ["compress", "--out", study, *arguments()],
        ["report", study, "--out", study / "r"],
        ["gate", study],
    ):
        if command[0] == "gate":
            command += ["--policy", policy(study.parent)]
        outcome = run(*command)
        assert outcome.code == 4
        assert "study/9" in outcome.error


def policy(folder: Path, metric: str = "accuracy", rule: str = 'max_drop = "90pp"') -> Path:
    path = folder / "policy.toml"
    path.write_text(
        'schema = "edgesafe.policy/1"\n[data]\nmin_samples = 10\n[[gate]]\nid = "a"\n'
        f'metric = "{metric}"\n{rule}\nlevel = "error"\n'
    )
    return path


def test_an_onnx_file_edited_after_measuring(run, study: Path) -> None:
    path = study / "weight-r0.50-s0" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    for command in (
        ["gate", study, "--policy", policy(study.parent)],
        ["report", study, "--out", study.parent / "r"],
        ["compress", "--out", study, *arguments()],
    ):
        outcome = run(*command)
        assert outcome.code == 3, command
        assert "model.onnx" in outcome.error
    assert not (study.parent / "r").exists()


def test_a_report_is_not_written_into_its_study(run, study: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    for out in (study, study / "report", study / "baseline-s0"):
        outcome = run("report", study, "--out", out)
        assert outcome.code == 4
        assert "which is an input" in outcome.error
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_policies(run, study: Path, tmp_path: Path) -> None:
    assert run("gate", study, "--policy", policy(tmp_path)).code == 0
    outcome = run("gate", study, "--policy", policy(tmp_path, "acuracy"))
    assert outcome.code == 4
    assert "accuracy" in outcome.error
    assert run("gate", study, "--policy", policy(tmp_path, rule='max_drop = "1"')).code == 4  # no unit
    assert run("gate", study, "--policy", tmp_path / "absent.toml").code == 4
    assert run("gate", study, "--policy", policy(tmp_path), "--variant", "nobody").code == 4
    assert run("gate", study, "--policy", policy(tmp_path, "mpc")).code == 5  # not measured: never a pass
    assert run("gate", study, "--policy", policy(tmp_path, rule='min = "99.999%"')).code == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["no-such-command"], ["compress", "--nonsense"], ["compress", "a.toml", "b.toml"], ["gate"], ["report"],
        ["fetch", "cifar11"], ["fetch", "cifar10", "--source", "ftp"], ["compress", "absent.toml"],
        ["compress", "--model", "smallnet", "--ratio", "2"], ["report", "nowhere"], ["bench", "absent.onnx"],
        ["evaluate", "absent.onnx", "--data", "digits"], ["bench", "x.onnx", "--runs", "1"], ["models", "resnet21"],
        ["corrupt", "nodata", "--out", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_usage_errors_are_4(run, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*argv).code == 4
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_file_and_flags_exclude_each_other(run, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(toml.dump_toml(parsing.load(None)))
    assert run("compress", path, "--model", "resnet20").code == 4


def test_debug_shows_the_traceback_and_an_internal_error_is_70(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["--debug", "report", "nowhere"]) == 4
    assert "Traceback" in capsys.readouterr().err

    def bug(*_: object) -> None:
        raise ZeroDivisionError("oops\nsecond line")

    monkeypatch.setattr("edgesafe.cli.studies.read", bug)
    assert cli.run(["report", "nowhere"]) == 70
    error = capsys.readouterr().err
    assert error.startswith("edgesafe: internal error: ZeroDivisionError: oops second line")
    assert "Traceback" not in error
    monkeypatch.setattr("edgesafe.cli.studies.read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.run(["report", "nowhere"]) == 130
    assert "to continue" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip()
    assert cli.run(["--help"]) == 0
    assert "compress" in capsys.readouterr().out
    assert cli.run(["compress", "--show-recipe"]) == 0
    assert 'schema = "edgesafe.recipe/1"' in capsys.readouterr().out
