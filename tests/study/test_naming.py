"""Ids are made in one place, and every one of them is a name that may be written and read."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edgesafe.records import Name
from edgesafe.study import naming

NAME = TypeAdapter(Name)
SOURCE = Path(__file__).parents[2] / "src" / "edgesafe"


def test_what_variants_are_called() -> None:
    assert naming.baseline(3).id == "baseline-s3"
    assert naming.candidate().id == "candidate-s0"
    assert naming.at_ratio("filter", 0.5, 0).id == "filter-r0.50-s0"
    assert naming.at_budget("filter", "macs", 0.6, 12).id == "filter-macs0.6-s12"
    assert naming.at_ratio("slow", 0.345, 1).group == "slow-r0.34"  # two digits, as Python rounds them
    assert naming.at_budget("a_b", "latency", 1.25, 0).label == "a_b"


@given(st.text(max_size=300))
def test_any_text_becomes_a_name_and_a_name_stays_what_it_is(text: str) -> None:
    name = naming.cleaned(text)
    assert NAME.validate_python(name) == name == naming.cleaned(name)
    assert NAME.validate_python(f"{name}-audit")


def test_a_long_text_leaves_room_for_what_is_put_behind_a_name() -> None:
    assert len(naming.cleaned("a" * 300)) == naming.MAX_LENGTH - 20


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}[A-Za-z0-9]", fullmatch=True))
def test_plain_stems_are_kept(stem: str) -> None:
    assert naming.cleaned(stem) == stem


def test_nobody_else_makes_or_reads_ids() -> None:
    made = re.compile(r"""f?["'](baseline|candidate)-s[{0-9]|removesuffix\(["']-s|-r\{ratio|["']-s\\d""")
    for path in sorted(SOURCE.rglob("*.py")):
        code = "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        code = re.sub(r'"""(?s:.*?)"""', "", code)
        assert not made.search(code) or path.name == "naming.py", path
