"""Files of users: special ones, endless ones and links are one line; nothing is replaced that must not be."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe import files
from edgesafe.errors import PolicyError, RecipeError, StoreError, UsageError
from edgesafe.policy import lock, policy
from edgesafe.recipe import parsing


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    return path


def test_a_regular_file_is_read_whole_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "l").symlink_to(tmp_path / "f")
    for name in ("f", "l"):
        assert files.read_bounded(tmp_path / name, 3, "a file") == b"abc"
    (tmp_path / "empty").touch()
    assert files.read_bounded(tmp_path / "empty", 3, "a file") == b""


def test_what_is_no_file_is_one_line_at_once(tmp_path: Path, pipe: Path) -> None:
    begin = time.monotonic()
    cases = {
        pipe: "is a pipe, not a file",
        tmp_path: "is a folder",
        Path("/dev/zero"): "is a device",
        Path("/dev/null"): "is a device",
        tmp_path / "none": "no such file",
        pipe / "below": "no such file",
        Path("x" * 5000): "too long",
        Path("a\0b"): "not a path",
        Path("a\udc80b\ud800"): "not a path",
    }
    for path, says in cases.items():
        with pytest.raises(PolicyError, match=says) as caught:
            files.read_bounded(path, 100, "a file", PolicyError)
        assert len(str(caught.value)) < 400
        str(caught.value).encode()  # can be printed
        assert not files.is_file(path)
    assert time.monotonic() - begin < 2


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as handle:
        handle.truncate(1 << 40)  # a terabyte of holes
    with pytest.raises(UsageError, match="at most 10 are read"):
        files.read_bounded(path, 10, "a file")
    with pytest.raises(UsageError, match="grew beyond"):  # says that it is empty, and is not
        files.read_bounded(Path("/proc/self/status"), 10, "a file")


def test_every_text_of_a_user_is_read_so(pipe: Path) -> None:
    for read in (policy.load, lock.load, parsing.load):
        for path in (pipe, Path("/dev/zero"), pipe.parent, Path("x" * 5000 + ".toml")):
            with pytest.raises(UsageError):
                read(path)
    for name in (str(pipe), "y" * 5000 + ".toml"):
        with pytest.raises(UsageError):
            parsing.parse({"target": {"name": name}})


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "9" * 5_000,
        ".".join("a" * 4_000) + " = 1",
        "\n".join(f"[{'.'.join('a' * 1000)}]\nb{i} = 1" for i in range(120)),
        "[" + ".".join("1" * 1000) + "]\n" + "".join(f"b.c{i}=1\n" for i in range(20_000)),
        "[" + ".".join(["'a b'"] * 1000) + "]\n" + "".join(f"b.c{i}=1\n" for i in range(20_000)),
        "a." * 30 + "a = 1",
        'x = "\\ud800"',
    ],
)
def test_toml_that_costs_too_much_ends_soon_in_one_line(text: str) -> None:
    begin = time.monotonic()
    with pytest.raises(RecipeError):
        files.parse_toml(text, "r.toml", RecipeError)
    assert time.monotonic() - begin < 2


def test_numbers_and_sentences_are_no_long_keys() -> None:
    values = files.parse_toml(f"x = [{'0.25, ' * 300}-1.5e-3]\ny = 'a.b/c.d e.g.'", "r.toml")
    assert len(values["x"]) == 301


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        files.parse_toml(text, "t", PolicyError)
    except PolicyError:
        return


@pytest.mark.parametrize(
    "item",
    ["compress.²=1", "compress.99999999999=1", "seeds=[99999999999999999999]", "target.threads=100000",
     "model.args={a=" + "1" * 5000 + "}", "a." * 2000 + "b=1", 'name="\udc80"', "name=\udc80x", "evaluate.seed=1e400"],
)  # fmt: skip
def test_overrides_that_cannot_be_meant(item: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parsing.load(None, [item])
    str(caught.value).encode()


# ---------------------------------------------------------------------------------------------------------- writing


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "f", tmp_path / "l"
    target.write_bytes(b"old")
    link.symlink_to(target)
    for path, says in ((link, "symbolic link"), (tmp_path, "is a folder"), (Path("a\0b"), "not a path")):
        with pytest.raises(StoreError, match=says):
            files.atomic_write(path, b"new")
    assert target.read_bytes() == b"old"
    assert link.is_symlink()
    target.unlink()
    with pytest.raises(StoreError, match="link to nothing"):
        files.atomic_write(link, b"new")
    files.atomic_write(target, b"new")
    assert target.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "l"]


def test_devices_and_pipes_are_written_to(pipe: Path) -> None:
    files.atomic_write(Path("/dev/null"), b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(StoreError, match="nobody reads"):
        files.atomic_write(pipe, b"x")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 200_000  # more than a pipe holds
    for _ in range(200):
        try:
            files.atomic_write(pipe, content)
            break
        except StoreError:  # the reader is not there yet
            time.sleep(0.01)
    reader.join(10)
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_in_the_place_of_the_scratch_file_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep")
    (tmp_path / ".f.part").symlink_to(precious)
    files.atomic_write(tmp_path / "f", b"new")
    assert precious.read_bytes() == b"keep"
    assert (tmp_path / "f").read_bytes() == b"new"


def test_outputs_that_are_inputs(tmp_path: Path) -> None:
    study, rules = tmp_path / "study", tmp_path / "p.toml"
    study.mkdir()
    (study / "study.json").touch()
    rules.touch()
    (tmp_path / "alias").symlink_to(rules)
    inputs = [study, rules, tmp_path / "absent"]
    for output in (study / "study.json", study / "new" / "x.json", rules, tmp_path / "study" / ".." / "p.toml",
                   tmp_path / "alias"):  # fmt: skip
        with pytest.raises(UsageError, match="would be overwritten"):
            files.refuse_inputs([output], inputs)
    with pytest.raises(UsageError, match="two outputs"):
        files.refuse_inputs([tmp_path / "a", tmp_path / "study" / ".." / "a"], inputs)
    files.refuse_inputs([tmp_path / "a", tmp_path / "study2", Path("/dev/null"), Path("/dev/null")], inputs)
