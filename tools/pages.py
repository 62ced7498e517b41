"""Tables within a page of docs/, between two marks: what a tool measured goes there and nowhere else."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- table -->\n"


def put_table(page: str, text: str) -> None:
    """Put a table in the place of the one that stands between the two marks of a page of docs/."""
    path = DOCS / page
    before, _, rest = path.read_text().partition(MARK)
    path.write_text(before + MARK + text + MARK + rest.partition(MARK)[2])
