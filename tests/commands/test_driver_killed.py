"""The process that holds a study killed ten times without a word: the same command goes on, and nothing is lost.

The moments are seeded: after so many changes of the study directory and a part of a second.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesafe.commands import compress
from edgesafe.recipe import parsing
from edgesafe.study.study import read

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


def driver(root: Path) -> subprocess.Popen[bytes]:
    sets = [word for text in SETS for word in ("--set", text)]
    command = [sys.executable, "-c", "from edgesafe.cli import main; main()", "compress", *sets, "--workers", "2"]
    command += ["--out", str(root)]
    with (root.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def state(root: Path) -> dict[str, int]:
    """When the files of the study were last written, in ns."""
    found = {}
    for path in root.rglob("*"):
        try:
            if path.is_file() and not path.name.startswith("."):
                found[path.relative_to(root).as_posix()] = path.stat().st_mtime_ns
        except OSError:  # removed in between
            continue
    return found


def parts(files: dict[str, int]) -> dict[str, int]:
    """Finished parts of what is measured."""
    return {name: at for name, at in files.items() if "/evidence-" in name or "/certificates-" in name}


def killed(process: subprocess.Popen[bytes], root: Path, changes: int, pause_s: float) -> bool:
    """Kill a driver after so many changes of its study; False: it came to its end before."""
    seen = state(root)
    while changes:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
        now = state(root)
        changes, seen = changes - (now != seen), now
    time.sleep(pause_s)
    process.kill()
    return process.wait() != 0


def test_a_driver_killed_ten_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        before = parts(state(root))
        process = driver(root)
        if not killed(process, root, rng.randint(1, 12), rng.uniform(0, 0.3)):
            assert process.returncode == 0, (tmp_path / "log").read_text()
            roots.append(tmp_path / f"two {len(roots) + 1}")
            continue
        kills += 1
        most = max(most, len(before))
        after = parts(state(root))
        assert {name: after[name] for name in before if name in after} == {n: before[n] for n in before if n in after}
        if (root / "study.json").exists():
            done = {entry.id: entry.digest for entry in read(root).record.variants if entry.digest}
            assert done == {name: digests[name] for name in done}
    assert most > 3, "no run had anything to lose"
    for root in roots:
        last = driver(root)
        assert last.wait() == 0, (tmp_path / "log").read_text()
        assert read(root).record.digest == undisturbed.record.digest
        assert not (root / ".work").exists()
    until = time.monotonic() + 30
    while any(temporary.glob("edgesafe-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(temporary.glob("edgesafe-*"))
