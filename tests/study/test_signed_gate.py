"""A signed study, from `edgesafe sign` to `edgesafe gate --require-signature`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgesafe import cli
from edgesafe.errors import ExitCode
from edgesafe.study.index import bound
from edgesafe.study.signature import SIGNATURE
from edgesafe.study.study import read


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    gate = '[[gate]]\nid = "a"\nmetric = "accuracy"\nmin = "90%"\n'
    path.write_text(f'schema = "edgesafe.policy/1"\nvariants = ["good-*"]\n{gate}')
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub")], check=True)
    return path


def gate(study: Path, policy: Path, key: Path) -> int:
    return cli.run(["gate", str(study), "--policy", str(policy), "--require-signature", str(key.with_suffix(".pub"))])


def test_only_what_was_signed_passes(mixed: Path, policy: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(mixed, policy, key) == ExitCode.REFUSED
    assert "not signed" in capsys.readouterr().err
    assert cli.run(["sign", str(mixed), "--key", str(key)]) == 0
    assert gate(mixed, policy, key) == 0
    record = read(mixed).record
    fewer = tuple(entry for entry in record.variants if entry.id != "bad-s0")
    (mixed / "study.json").write_bytes(bound(record.model_copy(update={"variants": fewer}))[1])
    assert cli.run(["gate", str(mixed), "--policy", str(policy)]) == 0  # hashes alone do not see it
    assert gate(mixed, policy, key) == ExitCode.REFUSED
    assert "is not one of study.json" in capsys.readouterr().err


def test_what_is_damaged_is_not_signed(mixed: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mixed / "good-s0" / "model.onnx").write_bytes(b"another")
    assert cli.run(["sign", str(mixed), "--key", str(key)]) == ExitCode.REFUSED
    assert "changed after it was measured" in capsys.readouterr().err
    assert not (mixed / SIGNATURE).exists()


@pytest.mark.parametrize("name", ["/dev/zero", "nowhere", "folder"])
def test_keys_and_signatures_that_cannot_be_read(
    mixed: Path, policy: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    path = Path(name) if name.startswith("/") else tmp_path / name
    assert cli.run(["sign", str(mixed), "--key", str(path)]) == ExitCode.USAGE
    command = ["gate", str(mixed), "--policy", str(policy), "--require-signature", str(path)]
    assert cli.run(command) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 2
