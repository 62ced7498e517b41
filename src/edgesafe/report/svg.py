"""Inline SVG from matplotlib: small, deterministic, in the page's own colours, with unique ids and a text for readers.

Matplotlib draws in marker colours (`INK`, `series(0)`, …) that stand for CSS variables, so one drawing is right in
light, dark and print. Only the object API is used: no pyplot, no global state; rcParams are set inside a context.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from edgesafe.display import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BAD", "GRID", "INK", "LIMIT", "MARKERS", "MUTED", "PAPER", "Panel", "draw", "frame", "series", "severity"]

# Colours that matplotlib draws in; each becomes var(--…) of the style sheet.
INK, MUTED, GRID, PAPER, LIMIT, BAD, GOOD, WARN = (f"#0b0c{k:02x}" for k in range(1, 9))
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    LIMIT: "limit",
    BAD: "fail",
    GOOD: "pass",
    WARN: "warn",
}
SERIES_COLOURS = 7
SEVERITIES = 6
for _k in range(SERIES_COLOURS):
    _NAMES[f"#0b0d{_k:02x}"] = f"c{_k}"
for _k in range(SEVERITIES):
    _NAMES[f"#0b0e{_k:02x}"] = f"v{_k}"

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""One shape per series: colour is never the only difference."""

_RC: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "edgesafe",  # ids depend on content only
    "svg.id": None,
    "text.parse_math": False,  # a name with "$" is a name
    "axes.unicode_minus": True,
    "path.simplify": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.0,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#0b0[cde][0-9a-f]{2}")
_POINT = re.compile(r"M-?[\d.]+ -?[\d.]+")
_DEFAULT_TEXT = ("font-size:12px", "fill:var(--muted)")  # what the style sheet says of text in figures
_NUMBER = re.compile(r"-?\d+\.\d+")
_DROP_STYLE = re.compile(r"(?:font-family|font-style|stroke-linejoin|stroke-linecap): [^;]*(?:; |$)")


def series(k: int) -> str:
    """The k-th series colour (Okabe-Ito)."""
    return f"#0b0d{k % SERIES_COLOURS:02x}"


def severity(s: int) -> str:
    """The colour of severity 0 (clean) to 5 (viridis)."""
    return f"#0b0e{min(max(s, 0), SEVERITIES - 1):02x}"


@dataclass(frozen=True)
class Panel:
    """A finished drawing: `svg` is safe to put into the page."""

    name: str
    svg: Markup
    width: int


@contextmanager
def frame(width: int, height: int) -> Iterator[Figure]:
    """A matplotlib figure of width x height px, transparent, drawn under the report's settings."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # the reader's browser has its own fonts
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        yield figure


def axes(figure: Figure, box: tuple[float, float, float, float], *, grid: str = "y") -> Axes:
    """Axes at (left, bottom, right, top) px from the figure's edges: no box, light grid lines, no tick marks."""
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    left, bottom, right, top = box
    ax = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    ax.patch.set_visible(False)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(MUTED)
        spine.set_linewidth(1.0)
    ax.tick_params(length=0, colors=MUTED, labelsize=12, pad=5)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, axis=grid, color=GRID, linewidth=1.0)  # type: ignore[arg-type]
    return ax


def heading(ax: Axes, text: str, left: float, top: float) -> None:
    """A bold heading at (-left, top) in fractions of the axes."""
    ax.text(-left, top, text, transform=ax.transAxes, color=INK, fontsize=13.5, fontweight="bold")


def draw(figure: Figure, name: str, title: str, description: str) -> Panel:
    """The figure as inline SVG.

    Args:
        figure: drawn inside `frame`.
        name: prefix of every id; unique on the page; letters, digits, hyphens.
        title: short name, for screen readers and as a tooltip.
        description: what it shows, in a sentence or two.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 (matplotlib's own output)
    width, height = (round(float(v)) for v in root.attrib["viewBox"].split()[2:])
    ids = _used_ids(root, name)
    parts = [
        f'<svg class="plot" role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {width} {height}"'
        f' style="max-width:{round(width * 1.3)}px">',
        f'<title id="{name}-t">{escape(clean(title))}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
    ]
    for child in root:
        _write(child, ids, parts)
    parts.append("</svg>")
    return Panel(name, Markup("".join(parts)), width)  # noqa: S704 (every text and attribute is escaped in _write)


def _used_ids(root: ET.Element, name: str) -> dict[str, str]:
    """Old id -> new id, for the ids that something refers to."""
    used: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            target = value[1:] if key == _LINK else value[5:-1] if value.startswith("url(#") else ""
            if target and target not in used:
                used[target] = f"{name}-{len(used)}"
    return used


def _write(element: ET.Element, ids: dict[str, str], parts: list[str]) -> None:
    """Serialise without namespaces, metadata, unused ids, empty groups and needless digits."""
    tag = element.tag.removeprefix(_SVG)
    if tag in ("metadata", "style") or not isinstance(element.tag, str):
        return
    attributes = _attributes(element, ids)
    if tag == "g" and not attributes:
        for child in element:
            _write(child, ids, parts)
        return
    if tag in ("g", "defs") and len(element) == 0:
        return
    if tag == "defs" and all(child.tag == f"{_SVG}style" for child in element):
        return
    if tag == "path" and (attributes.get("style") == "fill:none" or _POINT.fullmatch(attributes.get("d", ""))):
        return  # a line of one point: only its marker shows
    head = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    text = (element.text or "").strip("\n") if tag in ("text", "tspan") else ""
    if not len(element) and not text:
        parts.append(f"<{tag}{head}/>")
        return
    parts.append(f"<{tag}{head}>{escape(text)}")
    for child in element:
        _write(child, ids, parts)
    parts.append(f"</{tag}>")


def _attributes(element: ET.Element, ids: dict[str, str]) -> dict[str, str]:
    """The attributes of an element that change the drawing, with the short ids of `ids` and without default values."""
    out: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "id":
            if value in ids:
                out["id"] = ids[value]
        elif key == _LINK:
            out["href"] = f"#{ids[value[1:]]}"
        elif value.startswith("url(#"):
            out[key] = f"url(#{ids[value[5:-1]]})"
        elif key == "style":
            if style := _style(value, element.tag == f"{_SVG}text"):
                out["style"] = style
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key == "d":
            out[key] = _path(value)
        elif key in ("x", "y", "transform", "width", "height", "points"):
            out[key] = _short(value)
        else:
            out[key] = value
    return out


def _style(value: str, text: bool) -> str:
    """Marker colours become CSS variables; fonts, and what is usual for text, come from the page."""
    value = _DROP_STYLE.sub("", value).rstrip("; ")
    value = _COLOUR.sub(lambda m: f"var(--{_NAMES[m.group()]})", value)
    value = _NUMBER.sub(_round, value).replace(": ", ":").replace("; ", ";")
    return ";".join(p for p in value.split(";") if p not in _DEFAULT_TEXT) if text else value


def _path(value: str) -> str:
    """Path data without needless spaces and letters: a number pair after "M" or "L" means another "L"."""
    short = re.sub(r" ?([A-Za-z]) ?", r"\1", _short(value))
    drawing = ""

    def join(match: re.Match[str]) -> str:
        nonlocal drawing
        same, drawing = match[1] == "L" and drawing in ("M", "L"), match[1]
        return " " if same else match[1]

    return re.sub(r"([A-Za-z])", join, short)


def _short(value: str) -> str:
    """At most two decimals in coordinates, single spaces."""
    return _NUMBER.sub(_round, " ".join(value.split()))


def _round(match: re.Match[str]) -> str:
    """A number with at most two decimals."""
    text = f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def spread_labels(values: Sequence[float], gap: float, least: float = -math.inf) -> list[float]:
    """Positions near `values`, at least `gap` apart, in the same order: labels at line ends do not overlap.

    None is below `least`, where an axis and its numbers lie.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = [values[i] for i in order]
    for _ in range(50):
        moved = False
        for a in range(len(placed) - 1):
            lack = gap - (placed[a + 1] - placed[a])
            if lack > 1e-9 * max(1.0, abs(gap)):
                placed[a] -= lack / 2
                placed[a + 1] += lack / 2
                moved = True
        if not moved:
            break
    out = [0.0] * len(values)
    for position, index in enumerate(order):
        out[index] = least = max(placed[position], least)
        least += gap
    return out


def end_label(
    ax: Axes, label: str, colour: str, end: tuple[float, float], place: tuple[float, float], shrink: float = 3.0
) -> None:
    """Name a line beside its end, and lead from the name to it.

    Args:
        ax: with final limits.
        label: of the line.
        colour: of the line.
        end: its last point, in the axes' units.
        place: left edge and middle of the name; see `spread_labels`.
        shrink: points that the leading line keeps from the end.
    """
    ax.annotate(
        label, xy=end, xytext=place, va="center", color=INK, fontsize=12, annotation_clip=False,
        arrowprops={
            "arrowstyle": "-", "relpos": (0.0, 0.5), "color": colour, "lw": 1.0, "shrinkA": 0, "shrinkB": shrink
        },
    )  # fmt: skip
