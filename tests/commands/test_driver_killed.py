"""The process that holds a study killed ten times without a word: the same command goes on, and nothing is lost.

The moments are seeded: after so many changes of the study directory and a part of a second.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgesafe.commands import compress
from edgesafe.files.scratch import scratch
from edgesafe.recipe import parsing
from edgesafe.study.study import read

from .killing import command, kept, killed, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 10
SETS = [
    "name=tiny", "threads=1", "data.train_images=400", "data.test_images=80", "train.epochs=3", "train.milestones=[]",
    "recover.epochs=2", "recover.images=120", "recover.bn_images=64", "recover.milestones=[]",
    "evaluate.corruptions=['fog','gaussian_noise','snow']", "evaluate.severities=[1,5]", "evaluate.images_per_cell=20",
    "evaluate.latency=false", "export.temperature=false",
    "certify.sets=['contrast=1%,brightness=2']", "certify.images=26",
    "compress=[{method='weight', ratios=[0.5]}, {method='filter', ratios=[0.5]}]",
]  # fmt: skip


def driver(root: Path, crew: Sequence[str]) -> subprocess.Popen[bytes]:
    sets = [word for text in SETS for word in ("--set", text)]
    return command(["compress", *sets, *crew, "--workers", "2", "--out", str(root)], root.parent / "log")


@pytest.fixture(params=[(), ("--executor", "ray")], ids=["processes", "ray"])
def crew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Words that say who works: processes, or a Ray that each command starts; nothing of a Ray may be left."""
    if not request.param:
        yield request.param
        return
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'edgesafe[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:  # names of its sockets are
        monkeypatch.setenv("RAY_TMPDIR", short)
        yield request.param
        until = time.monotonic() + 60
        while (left := belonging(short)) and time.monotonic() < until:
            time.sleep(0.5)
        assert not left


def belonging(folder: str) -> list[str]:
    """Command lines of processes that have to do with a folder."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if folder in line]


def test_a_driver_killed_ten_times(tmp_path: Path, crew: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = parsing.load(None, SETS)
    undisturbed = compress.compress(wanted, tmp_path / "one")
    digests = {entry.id: entry.digest for entry in undisturbed.record.variants}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    rng, kills, roots, most = random.Random(14), 0, [tmp_path / "two 1"], 0
    while kills < KILLS:
        root = roots[-1]
        before = kept(state(root))
        process = driver(root, crew)
        if not killed(process, root, rng.randint(1, 12), rng.uniform(0, 0.3)):
            assert process.returncode == 0, (tmp_path / "log").read_text()
            roots.append(tmp_path / f"two {len(roots) + 1}")
            continue
        kills += 1
        most = max(most, len(before))
        after = kept(state(root))
        assert {name: after[name] for name in before if name in after} == {n: before[n] for n in before if n in after}
        if (root / "study.json").exists():
            done = {entry.id: entry.digest for entry in read(root).record.variants if entry.digest}
            assert done == {name: digests[name] for name in done}
    assert most > 3, "no run had anything to lose"
    for root in roots:
        last = driver(root, crew)
        assert last.wait() == 0, (tmp_path / "log").read_text()
        assert read(root).record.digest == undisturbed.record.digest
        assert not (root / ".work").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with scratch("edgesafe-task-"):  # as the next task does: what killed workers of a Ray left goes
        pass
    until = time.monotonic() + 30
    while any(temporary.glob("edgesafe-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(temporary.glob("edgesafe-*"))
