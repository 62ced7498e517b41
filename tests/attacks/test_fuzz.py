"""Every file that edgesafe reads, damaged at random from fixed seeds.

Oracle, for each case: the reader gives a value, or one of edgesafe's own errors with an exit code of the list; it never
raises anything else, and never takes longer than some seconds. A study passes only if its bytes are the originals'.
`EDGESAFE_ATTACKS=100000` asks for at least that many cases in all (`make attacks`).
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign import CASES, REFUSALS, Target
from mutation import mutate
from readers import READERS, SHARES, answer, np_header, original, placed

from edgesafe import cli
from edgesafe.errors import EdgesafeError, ExitCode


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str, study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "class" if name.startswith("i.") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    whole, refused = original(name, study), 0
    path = placed(name, study, folder)
    path.write_bytes(whole)
    cases = int(CASES / len(READERS) * SHARES.get(name, 1.0))
    with Target(name, cases) as target:
        assert target.attempt(lambda: READERS[name](path), name) is ExitCode.DONE
        for case in range(cases):
            seed = zlib.crc32(name.encode()) * 1_000_003 + case
            path.write_bytes(mutate(whole, random.Random(seed)))
            refused += target.attempt(lambda: READERS[name](path), f"{name}, seed {seed}") is not ExitCode.DONE
        assert refused > cases / 20  # the damage is real


BOUND = (
    "study.json", "baseline-s0/variant.json", "baseline-s0/measurements.json", "baseline-s0/evidence.npz",
    "baseline-s0/model.onnx", "weight-r0.50-s0/variant.json", "weight-r0.50-s0/measurements.json",
    "weight-r0.50-s0/evidence.npz", "weight-r0.50-s0/model.onnx", "weight-r0.50-s0/model.safetensors",
    "baseline-s0/certificates.npz", "weight-r0.50-s0/certificates.npz",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOUND)
def test_a_study_passes_only_with_the_original_bytes(
    name: str, judged: Callable[[], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    cases = max(10, CASES // 10 // len(BOUND))
    with Target(f"gate, {name}", cases) as target:
        assert judged() == ExitCode.DONE
        for case in range(cases):
            seed = zlib.crc32(name.encode()) * 1_000_003 + case
            content = mutate(whole, random.Random(seed))
            path.write_bytes(content)
            begin = time.process_time()
            code = target.ended(judged())
            target.took(time.process_time() - begin, f"{name}, seed {seed}")
            assert code in (REFUSALS if content != whole else {ExitCode.DONE}), f"{name}, seed {seed}: exit {code}"
            assert "Traceback" not in capsys.readouterr().err
        path.unlink()
        assert judged() in REFUSALS
        os.mkfifo(path)
        assert judged() in REFUSALS


DEEP = b"[" * 200_000
INSTANCES = {  # what the campaign found, or what is behind what it found
    "hashes.npy": (b"PK\x03\x04" + bytes(40), np_header(b"{'shape': (2, 16, ")),
    "kept.json": (DEEP, b"[]"),
    "answer.json": (DEEP, answer([[1.0, 2.0], [1.0]]), answer([[]]), answer(outputs=None)),
    "labels.csv": (b"file,x,y\n" + b"a" * 140_000 + b",1,1\n", b"file,x,y\na/0.png,1e300,1\n", b"file,x,y\n\x00,1,1\n"),
    "split.csv": (b"path,part\n" + b"a" * 140_000 + b",train\n",),
    "data.npz": (b"PK\x03\x04" + bytes(100),),
}


@pytest.mark.parametrize("name", INSTANCES)
def test_what_was_found_is_refused(name: str, study: Path, tmp_path: Path) -> None:
    path = placed(name, study, tmp_path)
    for content in INSTANCES[name]:
        path.write_bytes(content)
        with pytest.raises(EdgesafeError):
            READERS[name](path)


def test_no_output_replaces_what_was_read(study: Path, judged: Callable[[], int], tmp_path: Path) -> None:
    copy, rules = tmp_path / "s", tmp_path / "p.toml"
    before = {path: path.read_bytes() for path in (*copy.rglob("*.json"), rules)}
    outputs = (copy / "study.json", copy / "baseline-s0" / "variant.json", copy / "new.json", rules)
    for option in ("--json", "--junit", "--markdown", "--openmetrics"):
        for output in outputs:
            arguments = ["gate", str(copy), "--policy", str(rules), option, str(output)]
            assert cli.run(arguments) == ExitCode.USAGE, (option, output)
    model = copy / "baseline-s0" / "model.onnx"
    content = model.read_bytes()
    assert cli.run(["bench", str(model), "--runs", "64", "--json", str(model)]) == ExitCode.USAGE
    page = ["report", str(copy), "--out", str(tmp_path / "r"), "--json"]
    assert cli.run([*page, str(copy / "study.json")]) == ExitCode.USAGE
    assert cli.run(["gate", str(copy), "--policy", str(rules), "--json", "/dev/null"]) == ExitCode.DONE
    assert Path("/dev/null").is_char_device()
    assert model.read_bytes() == content
    assert {path: path.read_bytes() for path in before} == before
    assert judged() == ExitCode.DONE
