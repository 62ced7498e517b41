"""How a command line ends: streams that fail, code that exits, signals, and lines that cannot be parsed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesafe import cli
from edgesafe.cli import streams

PROGRAM = [sys.executable, "-m", "edgesafe.cli"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A study of one variant, a policy that it passes, and one that it fails."""
    root = tmp_path_factory.mktemp("process")
    sets = [
        "data.train_images=64", "data.test_images=40", "train.epochs=1", "train.milestones=[]", "recover.epochs=0",
        "recover.bn_images=32", "evaluate.corruptions=none", "evaluate.latency=false",
        'compress=[{method="weight", ratios=[0.5]}]',
    ]  # fmt: skip
    options = [part for item in sets for part in ("--set", item)]
    assert cli.run(["compress", "--out", str(root / "study"), *options]) == 0
    for name, rule in (("pass", 'max_drop = "90pp"'), ("fail", 'min = "99.999%"')):
        (root / f"{name}.toml").write_text(
            'schema = "edgesafe.policy/1"\n[data]\nmin_samples = 10\n[[gate]]\nid = "a"\nmetric = "accuracy"\n'
            f'{rule}\nlevel = "error"\n'
        )
    return root / "study", root / "pass.toml", root / "fail.toml"


@pytest.mark.parametrize("sink", ["closed", "full", "gone"])
@pytest.mark.parametrize("outcome", [0, 1])
def test_a_standard_output_that_fails_changes_no_verdict(
    judged: tuple[Path, Path, Path], sink: str, outcome: int
) -> None:
    command = [*PROGRAM, "gate", str(judged[0]), "--policy", str(judged[1 + outcome])]
    if sink == "closed":
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    elif sink == "full":
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
    assert done.returncode == outcome
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (b"No space left" in done.stderr) is (sink == "full")


def test_a_pipe_that_closes_early_leaves_the_code_as_it_is(judged: tuple[Path, Path, Path]) -> None:
    command = " ".join([*PROGRAM, "gate", str(judged[0]), "--policy", str(judged[2])])
    script = f"{command} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", script], check=False).returncode == 1


def test_both_streams_may_be_closed(judged: tuple[Path, Path, Path]) -> None:
    command = [*PROGRAM, "gate", str(judged[0]), "--policy", str(judged[2])]
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False).returncode == 1
    assert json.loads((judged[0] / "study.json").read_text())["variants"]  # nothing was written into an open file


def test_what_was_asked_for_must_arrive_except_where_the_reader_has_gone(judged: tuple[Path, Path, Path]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "policy", "pin", str(judged[0])], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 4
    assert b"standard output" in done.stderr


def test_characters_that_the_terminal_lacks_are_replaced() -> None:
    code = "from edgesafe.cli import streams; streams.open_standard(); print('± … é')"
    variables = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"? ? ?\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_is_130(number: signal.Signals, tmp_path: Path) -> None:
    """A module that the imports come to waits there, so that the signal meets them."""
    slow = tmp_path / "typer"
    slow.mkdir()
    (slow / "__init__.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'there')!r}).touch()\n"
        "try:\n    time.sleep(60)\nexcept BaseException as error:\n"
        "    raise ImportError('as C extensions do') from error\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([*PROGRAM, "doctor"], env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE)
    for _ in range(1000):
        if (tmp_path / "there").exists():
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in error
    assert error.startswith(b"edgesafe: interrupted")


EXITS = {
    "model": "import sys\ndef make(num_classes): sys.exit()\n",
    "model while loading": "import sys\nsys.exit(0)\n",
    "data": "import sys\ndef make(): sys.exit(0)\n",
    "data while loading": "import sys\nraise SystemExit\n",
}


@pytest.mark.parametrize("where", EXITS)
def test_code_of_a_user_that_exits_is_an_error(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"exits_{list(EXITS).index(where)}"
    (tmp_path / f"{name}.py").write_text(EXITS[where])
    monkeypatch.syspath_prepend(str(tmp_path))
    key = "model.arch" if where.startswith("model") else "data.name"
    code = cli.run(["compress", "--out", str(tmp_path / "s"), "--set", f"{key}={name}:make"])
    assert code == 4
    assert f"{name}" in capsys.readouterr().err


def test_a_network_that_exits_while_it_runs_never_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "import sys\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(3, 10, 32)\n"
        "    def forward(self, x):\n        sys.exit(0)\n"
        "def make(num_classes):\n    return Net()\n"
    )
    assert cli.run(["compress", "--out", str(tmp_path / "s"), "--set", f"model.arch={tmp_path / 'net.py'}:make"]) == 4
    assert "exit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("compres", "no such command 'compres'"), ("gate", "missing argument"), ("gate x", "'--policy'"),
        ("compress --nonsense", "no such option"), ("bench x --runs 1", "--runs"), ("gate x --policy", "--policy"),
        ("gate x --policy quickstart", "no study here"), ("compress quikstart", "did you mean 'quickstart'"),
        ("compress --set target.name=host-1", "did you mean 'host-1t'"),
        ("compress --set evaluate.mode=quick --set evaluate.policy=relaese", "did you mean 'release'"),
        ("evaluate x.onnx --data digits --policy relaese", "did you mean 'release'"),
    ],
)  # fmt: skip
def test_a_command_line_that_is_wrong_is_one_line_and_4(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(line.split()) == 4
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert error.startswith("edgesafe: ")
    assert says in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["", "policy"])
def test_a_group_of_commands_alone_shows_its_help(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(line.split()) == 4
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    if shutil.which("sh") is None:
        pytest.skip("no shell")
    variables = {"_EDGESAFE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "edgesafe ga", "COMP_CWORD": "1"}
    variables |= {"_TYPER_COMPLETE_ARGS": "edgesafe ga", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(PROGRAM, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "gate" in done.stdout


def test_the_stream_swallows_after_its_first_failure() -> None:
    class Failing:
        def __init__(self) -> None:
            self.calls = 0

        def write(self, _: str) -> int:
            self.calls += 1
            raise BrokenPipeError

        def fileno(self) -> int:
            raise ValueError("none")

    failing = Failing()
    stream = streams._Tolerant(failing)  # type: ignore[arg-type]
    assert stream.write("abc") == 3
    assert stream.write("def") == 3
    assert failing.calls == 1
    assert isinstance(stream.failure, BrokenPipeError)


def test_nothing_heavy_is_imported_before_signals_are_handled() -> None:
    code = "import sys, edgesafe.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"typer", "pydantic", "rich", "numpy"} & set(done.stdout.split())
