"""What a campaign of attacks found, target by target: the table of docs/attacks.md.

    python tools/attacks_table.py build/attacks.jsonl [--write]

The log holds a line for each target that ended without a traceback, a hang or a false pass (`make attacks`); of a target
that was run again, the last line counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pages import put_table

CODES = ("done", "refused", "usage", "nothing_evaluated", "gate_failed", "gate_inconclusive")


def table(lines: list[dict[str, Any]]) -> str:
    found = {line["target"]: line for line in lines}
    rows = [
        "| target | cases | read (0) | 3 | 4 | 5 | 1, 2 | slowest s | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = {"cases": 0, "cpu_s": 0.0, "slowest_s": 0.0}
    for name, line in sorted(found.items()):
        codes = [line["codes"].get(code, 0) for code in CODES]
        counts = [*codes[:4], codes[4] + codes[5]]
        rows.append(
            f"| {name} | {line['cases']:,} | {' | '.join(f'{n:,}' for n in counts)} | {line['slowest_s']:.2f} | {line['cpu_s']:.0f} |"
        )
        total["cases"] += line["cases"]
        total["cpu_s"] += line["cpu_s"]
        total["slowest_s"] = max(total["slowest_s"], line["slowest_s"])
    rows.append(f"| all | {total['cases']:,} | | | | | | {total['slowest_s']:.2f} | {total['cpu_s']:.0f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/attacks.md")
    arguments = parser.parse_args()
    text = table([json.loads(line) for line in arguments.log.read_text().splitlines()])
    print(text)
    if arguments.write:
        put_table("attacks.md", text)


if __name__ == "__main__":
    main()
