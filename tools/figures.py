"""Figures of a study's page as SVG files of their own, in its light colours: for reports that are read as Markdown.

python tools/figures.py index.html OUT_DIR strategy-0 moved-0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PLOT = re.compile(r'<svg class="plot" role="img" aria-labelledby="([\w-]+)-t [\w-]+-d" (.*?</svg>)', re.DOTALL)
_ROOM = 8  # px around a figure


def figures(page: str) -> dict[str, str]:
    """The figures of a page (index.html of `edgesafe report`) as SVG documents, by the name of each."""
    colours = dict(re.findall(r"--(\w+): (#\w+)", page[: page.index("@media")]))  # the first block: light
    return {name: _alone(rest, colours) for name, rest in _PLOT.findall(page)}


def _alone(rest: str, colours: dict[str, str]) -> str:
    """A document of one figure, from where its view box stands to its end."""
    match = re.match(r'viewBox="0 0 (\d+) (\d+)" style="[^"]*">', rest)
    assert match is not None, rest[:80]
    width, height = (int(side) + 2 * _ROOM for side in match.groups())
    box = f'viewBox="{-_ROOM} {-_ROOM} {width} {height}" width="{width}" height="{height}"'
    text = f'<style>text {{ font: 12px "DejaVu Sans", sans-serif; fill: {colours["muted"]} }}</style>'
    paper = f'<rect x="{-_ROOM}" y="{-_ROOM}" width="{width}" height="{height}" fill="{colours["paper"]}"/>'
    body = re.sub(r"var\(--(\w+)\)", lambda match: colours[match.group(1)], rest[match.end() :])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{text}{paper}{body}\n'


def main() -> None:
    """Write the figures that are named."""
    source, out, *names = sys.argv[1:]
    drawn = figures(Path(source).read_text())
    if missing := [name for name in names if name not in drawn]:
        sys.exit(f"no figure {', '.join(missing)} in {source}; it has {', '.join(drawn)}")
    for name in names:
        (Path(out) / f"{name}.svg").write_text(drawn[name])


if __name__ == "__main__":
    main()
