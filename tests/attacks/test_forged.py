"""Files changed by somebody who makes all hashes anew: what is behind the hashes is read or refused, too.

Such a study may pass, or fail: `docs/trust.md` says so, and how a signature closes it. It never ends in a traceback and
never hangs. A bundle passes only if its files are the original ones.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from campaign import CASES, POLICY, Target
from mutation import edit, mutate

from edgesafe import cli
from edgesafe.commands import bundle as bundles
from edgesafe.commands.verify import verify
from edgesafe.deploy.bundle import archive
from edgesafe.errors import ExitCode
from edgesafe.files import sha256_bytes
from edgesafe.study.study import read

VARIANTS = ("baseline-s0", "weight-r0.50-s0")


def sealed(index: dict[str, Any]) -> bytes:
    """study.json with these values and a digest that is right."""
    body = json.dumps({**index, "index_sha256": ""}, indent=1).encode() + b"\n"
    return body.removesuffix(b'"\n}\n') + sha256_bytes(body).encode() + b'"\n}\n'


def forge(study: Path, name: str, rng: random.Random) -> None:
    """Change one value of a record, and every hash that knows of it."""
    index = json.loads((study / "study.json").read_text())
    index.pop("index_sha256")
    if name == "study.json":
        index = edit(index, rng)
    else:
        record = edit(json.loads((study / name).read_text()), rng)
        content = json.dumps(record, indent=1).encode() + b"\n"
        (study / name).write_bytes(content)
        owner, file = name.split("/")
        entry = next(entry for entry in index["variants"] if entry["id"] == owner)
        entry["records"][file] = sha256_bytes(content)
    (study / "study.json").write_bytes(sealed(index))


FORGED = ("study.json", *(f"{owner}/{file}" for owner in VARIANTS for file in ("variant.json", "measurements.json")))


def test_what_forges_leaves_a_study_that_is_read(study: Path, tmp_path: Path) -> None:
    """The control: values as they are, sealed anew, pass."""
    copy = shutil.copytree(study, tmp_path / "s")
    index = json.loads((copy / "study.json").read_text())
    index.pop("index_sha256")
    (copy / "study.json").write_bytes(sealed(index))
    assert read(copy).record.index_sha256 == json.loads(sealed(index))["index_sha256"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORGED)
def test_values_behind_the_hashes_are_read_or_refused(
    name: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, copy = tmp_path / "p.toml", tmp_path / "s"
    rules.write_text(POLICY)
    shutil.copytree(study, copy)
    changed = ("study.json", *([name] if name != "study.json" else []))
    originals = {file: (copy / file).read_bytes() for file in changed}
    cases = max(12, CASES // 20 // len(FORGED))
    with Target(f"forged, {name}", cases) as target:
        for case in range(cases):
            seed = zlib.crc32(name.encode()) * 1_000_003 + case
            forge(copy, name, random.Random(seed))
            commands = [["gate", str(copy), "--policy", str(rules)]]
            if case % 100 == 10:  # a page takes a second
                commands.append(["report", str(copy), "--policy", str(rules), "--out", str(tmp_path / "page")])
            for command in commands:
                begin = time.process_time()
                code = target.ended(cli.run(command))
                target.took(time.process_time() - begin, f"{command[0]}, {name}, seed {seed}")
                said = capsys.readouterr().err
                assert code is not ExitCode.INTERNAL, f"{command[0]}, {name}, seed {seed}: {said}"
                assert "Traceback" not in said
            for file, content in originals.items():
                (copy / file).write_bytes(content)


@pytest.fixture(scope="session")
def bundled(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled")
    (folder / "p.toml").write_text(POLICY)
    request = bundles.BundleRequest("weight-r0.50-s0", "host-1t", folder / "b", folder / "p.toml")
    bundles.bundle(read(study), request)
    return folder / "b"


def packed(folder: Path, path: Path, compression: int) -> bytes:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in archive.read(folder).files.items():
            out.writestr(name, content)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["folder", "stored", "deflated"])
def test_a_bundle_passes_only_with_the_original_files(kind: str, bundled: Path, tmp_path: Path) -> None:
    originals = archive.read(bundled).files
    if kind == "folder":
        place = shutil.copytree(bundled, tmp_path / "b")
    else:
        place = tmp_path / "b.zip"
        whole = packed(bundled, place, zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)
    cases, names = max(12, CASES // 50 // 3), sorted(originals)
    with Target(f"bundle, {kind}", cases) as target:
        for case in range(cases):
            rng = random.Random(zlib.crc32(kind.encode()) * 1_000_003 + case)
            path, content = place, b""
            if kind == "folder":
                path = place / rng.choice(names)
                whole = path.read_bytes()
            content = mutate(whole, rng)
            path.write_bytes(content)
            checked: list[bool] = []

            def look() -> None:
                checked.append(verify(place).exit_code == ExitCode.DONE)  # noqa: B023 - called in this turn

            target.attempt(look, f"{kind}, case {case}, {path.name}")
            if any(checked):
                found = archive.read(place)
                assert (found.files, dict(found.odd)) == (originals, {}), f"{kind}, case {case}: passed"
            path.write_bytes(whole)
        assert verify(place).exit_code == ExitCode.DONE
