"""The page of attacks names tests that exist, for every row."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = (*(f"A{k}" for k in range(1, 14)), *(f"B{k}" for k in range(1, 7)), *(str(k) for k in range(1, 23)))


def test_every_row_names_tests_that_exist() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([AB]?\d+) \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    assert [row for row, _ in rows] == list(ROWS)
    for row, cell in rows:
        named = re.findall(r"`(\w+)`", cell)
        assert named, row
        assert not set(named) - defined, row
