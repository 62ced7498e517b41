"""ONNX files timed on a device over a real ssh connection: sshd on loopback, of one core and 300 MB."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ssh_server import Server

from edgesafe import cli
from edgesafe.commands import evaluate
from edgesafe.deploy.device import transfer
from edgesafe.deploy.device.connection import Connection
from edgesafe.deploy.device.measuring import DeviceOrder, measure_on_device
from edgesafe.errors import DeviceDropped, DeviceError, ExitCode
from edgesafe.files import sha256_file
from edgesafe.recipe import parsing
from edgesafe.recipe.shipped import device_script
from edgesafe.stages.recheck import CERTIFIED

pytestmark = pytest.mark.slow


def connection(server: Server, tmp_path: Path, **ssh: object) -> Connection:
    section = parsing.target(str(server.target(tmp_path / "board.toml", **ssh))).ssh
    assert section is not None
    return Connection(section, attempts=3, pause_s=0.05)


def test_bench_on_a_device(server: Server, models: tuple[Path, Path], tmp_path: Path) -> None:
    work, out = server.folder / "work" / "own", tmp_path / "result.json"
    target = server.target(tmp_path / "board.toml", workdir=str(work))
    command = ["bench", str(models[0]), "--against", str(models[1]), "--target", str(target), "--runs", "128"]
    assert cli.run([*command, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    device, metrics = found["device"], found["files"][str(models[0])]
    assert (device["target"], device["host"]["cores"], device["threads"]) == ("board", 1, 1)
    assert device["host"]["versions"]["numpy"] == np.__version__
    assert [file["sha256"] for file in device["files"]] == [sha256_file(path) for path in models]
    assert all(file["parity"]["bit_equal"] for file in device["files"])  # the same processor
    assert metrics["latency.p50_ms"]["estimate"] > 0
    assert metrics["latency.ratio"]["low"] < metrics["latency.ratio"]["high"]
    assert metrics["latency.p50_ms"]["population"]["description"].startswith("board (")
    peak = metrics["memory.peak_bytes"]["estimate"]
    assert device["files"][0]["before_bytes"] < peak < 300e6  # what the device gives
    left = {path.suffix for path in work.iterdir()}
    assert left == {".py", ".onnx", ".npy"}  # no times: the next run measures anew


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": "other_user"}, "does not accept the key"),
        ({"known_hosts": "changed"}, "host key is not the known one"),
        ({"known_hosts": "nowhere"}, "host key is not known"),
        ({"identity": "nowhere"}, "no such key"),
        ({"port": 1}, "nothing listens there"),
        ({"host": "nowhere.invalid"}, "no such host"),
        ({"python": "/nowhere/python3"}, "is not there"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_one_line_that_says_so(
    server: Server, models: tuple[Path, Path], tmp_path: Path, changes: dict[str, object], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    in_folder = {"identity", "known_hosts"}
    changes = {key: str(server.folder / str(value)) if key in in_folder else value for key, value in changes.items()}
    target = server.target(tmp_path / "board.toml", **changes)
    assert cli.run(["bench", str(models[0]), "--target", str(target), "--runs", "64"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_provider_that_is_not_there(
    server: Server, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = server.target(tmp_path / "board.toml", 'provider = "CUDAExecutionProvider"')
    assert cli.run(["bench", str(models[0]), "--target", str(target), "--runs", "64"]) == ExitCode.USAGE
    assert "no CUDAExecutionProvider in this onnxruntime: it has" in capsys.readouterr().err


def test_a_python_without_packages(
    server: Server, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "python-bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    target = server.target(tmp_path / "board.toml", python=str(bare))
    assert cli.run(["bench", str(models[0]), "--target", str(target), "--runs", "64"]) == ExitCode.USAGE
    assert "numpy cannot be imported by" in capsys.readouterr().err


def test_more_memory_than_the_target_gives(
    server: Server, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = server.target(tmp_path / "board.toml", "memory_mb = 16")
    assert cli.run(["bench", str(models[0]), "--target", str(target), "--runs", "64"]) == ExitCode.REFUSED
    assert "MB at its peak, the target gives 16 MB" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- broken, and full


def test_a_file_is_copied_once_and_gone_on_with(server: Server, tmp_path: Path) -> None:
    link = connection(server, tmp_path)
    content = np.random.default_rng(0).bytes(300_000)
    name = transfer.name_of(content, ".bin")
    place = server.folder / "work" / "copied"
    sent: list[int] = []
    shell = link.shell

    def counted(script: str, data: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        sent.append(len(data))
        return shell(script, data, timeout_s=timeout_s)

    object.__setattr__(link, "shell", counted)
    place.mkdir()
    (place / f"{name}.part").write_bytes(content[:200_000])  # of an earlier attempt that was cut off
    transfer.put(link, str(place), [(name, content)])
    assert (place / name).read_bytes() == content
    assert sum(sent) == 100_000
    transfer.put(link, str(place), [(name, content)])
    assert sum(sent) == 100_000
    (place / name).unlink()
    (place / f"{name}.part").write_bytes(b"another file")
    with pytest.raises(DeviceError, match="stored something else"):
        transfer.put(link, str(place), [(name, content)])
    transfer.put(link, str(place), [(name, content)])
    assert hashlib.sha256((place / name).read_bytes()).hexdigest() == name[:64]


def test_a_full_device(server: Server, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (not root?)")
    try:
        content = np.random.default_rng(0).bytes(1_000_000)
        with pytest.raises(DeviceError, match="its disk is full"):
            transfer.put(connection(server, tmp_path), str(small), [(transfer.name_of(content, ".bin"), content)])
    finally:
        subprocess.run(["umount", small], check=True)


def when(condition: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Do something as soon as something else is so."""

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not condition():
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_broken_connection_is_taken_up_where_it_was(
    server: Server, models: tuple[Path, Path], tmp_path: Path
) -> None:
    work = server.folder / "work" / "broken"
    link = connection(server, tmp_path, workdir=str(work))
    section = parsing.target(str(tmp_path / "board.toml"))
    seen: list[list[str]] = []

    def state() -> list[str]:
        with suppress(OSError, StopIteration):
            return next(work.glob("*.jsonl")).read_text().splitlines()
        return []

    def cut() -> None:
        seen.append(state())
        assert server.drop() >= 1

    thread = when(lambda: len(state()) >= 3, cut)  # the key, and two sessions
    times = measure_on_device(DeviceOrder(section, tuple(path.read_bytes() for path in models), 8192), link)
    thread.join()
    (before,) = seen
    assert len(before) < 9  # it was not done when the cable was pulled
    kept = json.loads(before[1])
    assert times.milliseconds[0].shape == (8, 1024)
    assert times.milliseconds[0][0].tolist() == kept["ms"][0]  # finished sessions were not run again


def test_a_device_that_drops_out_for_good(server: Server, models: tuple[Path, Path], tmp_path: Path) -> None:
    with Server.started(_folder(tmp_path)) as other:
        link = connection(other, tmp_path)
        section = parsing.target(str(tmp_path / "board.toml"))
        work = other.folder / "work"
        thread = when(lambda: any(work.glob("*.jsonl")), other.stop)
        with pytest.raises(DeviceError, match=r"nothing listens there|connection broke"):
            measure_on_device(DeviceOrder(section, (models[0].read_bytes(),), 8192), link)
        thread.join()
        assert any(work.glob("*.onnx"))  # what was copied is there when it comes back


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def test_a_step_is_tried_again_and_then_given_up(server: Server, tmp_path: Path) -> None:
    from edgesafe.deploy.device.connection import persist

    tried: list[int] = []

    def never() -> None:
        tried.append(1)
        raise DeviceDropped("gone", where="x", fix="y")

    with pytest.raises(DeviceDropped, match="gone"):
        persist(connection(server, tmp_path), never)
    assert len(tried) == 3


# -------------------------------------------------------------------------------------------------------- in a study


def test_an_audit_is_timed_on_the_device(server: Server, models: tuple[Path, Path], tmp_path: Path) -> None:
    target = server.target(tmp_path / "board.toml")
    request = evaluate.AuditRequest(
        models[0], models[1], "digits",
        overrides=(
            "data.test_images=100", "evaluate.corruptions=none", "evaluate.latency_runs=64", f"target.name={target}",
            "certify.sets=['brightness=2']",
        ),
    )  # fmt: skip
    study = evaluate.evaluate(request, tmp_path / "study")
    measured = study["candidate-s0"].measurements
    assert measured.device is not None
    assert measured.device.target == measured.target.name == "board"
    assert measured.device.files[0].sha256 == measured.onnx_sha256
    assert measured.timed_on.cores == 1
    assert measured.metrics["memory.peak_bytes"].estimate == measured.device.files[0].peak_bytes
    assert measured.metrics["latency.ratio"].n == 64
    (again,) = measured.device.rechecks
    assert (again.set, again.certified, again.differ) == ("brightness=2", CERTIFIED, ())
    assert again.bit_equal  # the same processor
    assert again.runs > 3 * CERTIFIED
    text = b"".join(path.read_bytes() for path in study.root.rglob("*.json"))
    assert str(server.folder).encode() not in text  # no key, no path, no address is kept
    assert b"127.0.0.1" not in text


def test_a_compressed_study_is_timed_on_the_device(server: Server, tmp_path: Path) -> None:
    from edgesafe.commands import compress
    from edgesafe.commands.bundle import BundleRequest, bundle
    from edgesafe.study.study import read

    target = server.target(tmp_path / "board.toml", "memory_mb = 250")
    keys = [
        "name=small", "data.train_images=200", "data.test_images=60", "train.epochs=1", "train.milestones=[]",
        "recover.epochs=0", "recover.bn_images=64", "compress=[{method='filter', ratios=[0.5]}]",
        "evaluate.corruptions=none", "evaluate.latency_runs=64", "certify.sets=['brightness=1']",
        f"target.name={target}",
    ]  # fmt: skip
    study = compress.compress(parsing.load(None, keys), tmp_path / "study")
    for variant in study.values():
        measured = variant.measurements
        assert measured.device is not None
        assert measured.device.files[0].sha256 == measured.onnx_sha256
        (again,) = measured.device.rechecks
        assert (again.differ, again.bit_equal, again.device_sha256) == ((), True, again.host_sha256)
        assert again.runs > 0
        assert 40e6 < measured.metrics["memory.peak_bytes"].estimate < 250e6
    assert "latency.ratio" in study["filter-r0.50-s0"].metrics
    bundle(read(study.root), BundleRequest("filter-r0.50-s0", str(target), tmp_path / "bundle"))
    written = b"".join(path.read_bytes() for path in (tmp_path / "bundle").rglob("*") if path.is_file())
    assert b"Latencies are those of" in written
    assert str(server.folder).encode() not in written  # not how the device is reached
    assert cli.run(["report", str(study.root), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Latency timed on board" in page
    assert "Certificates on board" in page
    assert "the same verdicts, bit-equal outputs" in page


# -------------------------------------------------------------------------------------------------- the script alone


def run_script(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, device_script(), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_the_script_alone_keeps_sessions_of_the_same_question_only(models: tuple[Path, Path], tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    first = json.loads(run_script(models[0], "--runs", 64, "--state", state, "--samples").stdout)
    again = json.loads(run_script(models[0], "--runs", 64, "--state", state, "--samples").stdout)
    assert again["results"][0]["ms"] == first["results"][0]["ms"]
    cut = state.read_text().splitlines(keepends=True)
    state.write_text("".join(cut[:4]) + cut[4][:20])  # a line that was cut off
    third = json.loads(run_script(models[0], "--runs", 64, "--state", state, "--samples").stdout)
    assert third["results"][0]["ms"][:3] == first["results"][0]["ms"][:3]
    assert third["results"][0]["ms"][3:] != first["results"][0]["ms"][3:]
    other = json.loads(run_script(models[0], "--runs", 128, "--state", state, "--samples").stdout)
    assert np.array(other["results"][0]["ms"]).shape == (8, 16)


def test_the_script_s_errors_are_one_object(models: tuple[Path, Path], tmp_path: Path) -> None:
    done = run_script(tmp_path / "absent.onnx", "--runs", 64)
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "file"
    done = run_script(models[0], "--provider", "NoneExecutionProvider")
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "provider"
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    done = run_script(tmp_path / "bad.onnx", "--runs", 64)
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "model"
