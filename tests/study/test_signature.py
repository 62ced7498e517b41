"""Signatures of a study: made and checked as openssl makes and checks them, and refused when anything changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import IntegrityError, UsageError
from edgesafe.study import signature

INDEX = b'{"schema": "edgesafe.study/1"}\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, the oracle, is not installed")
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("ours", "theirs"):
        private, public = folder / name, folder / f"{name}.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        made |= {name: private.read_bytes(), f"{name}.pub": public.read_bytes()}
    return made


def test_openssl_accepts_what_we_sign_and_we_accept_what_it_signs(keys: dict[str, bytes], tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in (*keys, "index", "ours.sig", "openssl.sig")}
    for name, data in {**keys, "index": INDEX, "ours.sig": signature.sign(INDEX, keys["ours"], where="k")}.items():
        files[name].write_bytes(data)
    check = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", files["ours.pub"], "-in", files["index"]]
    assert subprocess.run([*check, "-sigfile", files["ours.sig"]], capture_output=True, check=False).returncode == 0
    make = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", files["ours"], "-in", files["index"]]
    subprocess.run([*make, "-out", files["openssl.sig"]], check=True)
    signature.verify(INDEX, files["openssl.sig"].read_bytes(), keys["ours.pub"], where="k")


@given(st.integers(0, 8 * 64 - 1))
def test_one_flipped_bit_of_the_signature_is_refused(keys: dict[str, bytes], bit: int) -> None:
    made = bytearray(signature.sign(INDEX, keys["ours"], where="k"))
    made[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError, match=r"is not one of study\.json"):
        signature.verify(INDEX, bytes(made), keys["ours.pub"], where="k")


def test_what_is_not_signed_so_is_refused(keys: dict[str, bytes]) -> None:
    made = signature.sign(INDEX, keys["ours"], where="k")
    signature.verify(INDEX, made, keys["ours.pub"], where="k")  # the control
    cases = [(INDEX + b" ", made, "ours.pub"), (INDEX, made, "theirs.pub"), (INDEX, made[:-1], "ours.pub")]
    cases += [(INDEX, made + b"\0", "ours.pub"), (INDEX, b"", "ours.pub")]
    for index, signed, key in cases:
        with pytest.raises(IntegrityError, match=r"is not one of study\.json"):
            signature.verify(index, signed, keys[key], where="k")
    with pytest.raises(IntegrityError, match="not signed"):
        signature.verify(INDEX, None, keys["ours.pub"], where="k")


def test_other_keys_are_one_line_that_says_how_to_make_one(keys: dict[str, bytes], tmp_path: Path) -> None:
    other, locked = tmp_path / "rsa", tmp_path / "locked"
    subprocess.run(["openssl", "genrsa", "-out", other, "2048"], check=True, capture_output=True)
    locked_key = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret", "-out", locked]
    subprocess.run(locked_key, check=True, capture_output=True)
    for key in (b"", b"not PEM", keys["ours.pub"], other.read_bytes(), locked.read_bytes()):
        with pytest.raises(UsageError, match="not a private Ed25519 key"):
            signature.sign(INDEX, key, where="k")
    for key in (b"", keys["ours"], other.read_bytes()):
        with pytest.raises(UsageError, match="not a public Ed25519 key"):
            signature.verify(INDEX, b"\0" * 64, key, where="k")
