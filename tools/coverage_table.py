"""The share of lines and branches that the fast tests execute, room by room: the table of docs/coverage.md.

    python tools/coverage_table.py build/coverage.json [--write]

The JSON file is coverage.py's report of a run with branches (`make coverage`).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from pages import put_table

COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def rooms(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> dict[str, Counter[str]]:
    """The counts of each room at the top of src/edgesafe, and of all."""
    found: dict[str, Counter[str]] = {}
    for file, entry in report["files"].items():
        path = Path(file)
        room = path.relative_to("src/edgesafe").parts[0].removesuffix(".py")
        for name in (room, "all"):
            found.setdefault(name, Counter()).update({key: entry["summary"][key] for key in COUNTS})
    return dict(sorted(found.items(), key=lambda one: (one[0] == "all", one[0])))


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}".replace("%", " %") if whole else "-"


def table(found: dict[str, Counter[str]]) -> str:
    lines = ["| room | lines | executed | branches | taken |", "|---|---:|---:|---:|---:|"]
    for name, n in found.items():
        lines.append(
            f"| {name if name == 'all' else f'`{name}`'} | {n['num_statements']:,} | "
            f"{share(n['covered_lines'], n['num_statements'])} | {n['num_branches']:,} | "
            f"{share(n['covered_branches'], n['num_branches'])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/coverage.md")
    arguments = parser.parse_args()
    text = table(rooms(json.loads(arguments.report.read_text())))
    print(text)
    if arguments.write:
        put_table("coverage.md", text)


if __name__ == "__main__":
    main()
