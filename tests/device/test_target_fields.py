"""What a target may say of its device: nothing that ssh or a shell would take for an option or a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesafe.deploy.device.connection import Connection
from edgesafe.errors import DeviceDropped, DeviceError, RecipeError
from edgesafe.recipe import parsing, toml
from edgesafe.records import DeviceAddress

HEAD = 'schema = "edgesafe.target/1"\nname = "board"\nthreads = 1\n'


def board(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(HEAD + "[ssh]\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "line",
    [
        'host = "-oProxyCommand=x"', 'host = "a b"', 'host = "a;b"', 'host = ""', 'host = "$(x)"', 'host = "a\\nb"',
        'host = "a"\nuser = "-x"', 'host = "a"\nuser = "a b"', 'host = "a"\nport = 0', 'host = "a"\nport = 65536',
        'host = "a"\nidentity = "-x"', 'host = "a"\nidentity = "a b"', 'host = "a"\nknown_hosts = "%h"',
        'host = "a"\nworkdir = "a;b"', 'host = "a"\nworkdir = "$HOME"', 'host = "a"\npython = "python3 -c"',
        'host = "a"\npasword = "x"', "port = 22",
    ],
)  # fmt: skip
def test_fields_that_could_mean_something_else_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ssh"):
        parsing.target(str(board(tmp_path, line)))


def test_the_command_line_ends_its_options_before_the_host(tmp_path: Path) -> None:
    section = parsing.target(str(board(tmp_path, 'host = "board.local"', 'user = "pi"', "port = 2222")))
    assert section.ssh is not None
    words = Connection(section.ssh).command("true; true")
    assert words[-3:] == ["--", "board.local", "true; true"]
    assert words[2:4] == ["-p", "2222"]
    assert "BatchMode=yes" in words
    assert "StrictHostKeyChecking=yes" in words


def test_how_a_device_is_reached_is_not_kept_with_a_recipe(tmp_path: Path) -> None:
    path = board(tmp_path, 'host = "secret.example"', 'user = "somebody"')
    plain = parsing.load(None, [f"target.name={path}"])
    assert plain.target.ssh is not None
    assert "secret" not in toml.dump_toml(plain)
    assert "somebody" not in str(plain.resolved())
    again = parsing.from_values(plain.resolved())  # as a study is read later, where the target's file may be gone
    assert (again.target.name, again.target.threads, again.target.ssh) == ("board", 1, None)
    assert again.sha256 == plain.sha256


@pytest.mark.parametrize(
    ("said", "code", "words", "kind"),
    [
        ("pi@b: Permission denied (publickey).", 255, "does not accept the key", DeviceError),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", 255, "not the known", DeviceError),
        ("No ED25519 host key is known for b\nHost key verification failed.", 255, "is not known", DeviceError),
        ("ssh: connect to host b port 1: Connection refused", 255, "nothing listens", DeviceError),
        ("ssh: Could not resolve hostname b: Name or service not known", 255, "no such host", DeviceError),
        ("cat: write error: No space left on device", 1, "disk is full", DeviceError),
        ("bash: line 1: python9: command not found", 127, "is not there", DeviceError),
        ("Connection to b closed by remote host.", 255, "connection broke", DeviceDropped),
        ("client_loop: send disconnect: Broken pipe", 255, "connection broke", DeviceDropped),
        ("Timeout, server b not responding.", 255, "connection broke", DeviceDropped),
        ("", 255, "connection broke", DeviceDropped),
        ("Killed", 137, "ended with 137: Killed", DeviceError),
    ],
)  # fmt: skip
def test_what_ssh_says_is_put_into_words(said: str, code: int, words: str, kind: type[DeviceError]) -> None:
    error = Connection(DeviceAddress(host="b"))._failure(code, said)
    assert type(error) is kind
    assert words in str(error)
    assert "b:22" in str(error)
