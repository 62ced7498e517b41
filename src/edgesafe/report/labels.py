"""Labels of points that hit nothing: neither points, nor other labels, nor the axes' ticks, nor the drawing's edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin
from typing import TYPE_CHECKING

from edgesafe.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Placed", "crosses", "label_points", "overlap", "place"]

_Line = tuple[tuple[float, float], tuple[float, float]]
Box = tuple[float, float, float, float]  #: left, bottom, right, top, in px

FONT = 11.0
_POINT = 7.0  # half the side of a marker's box
_GAP = 3.0  # between a label and anything else
_LEADER = 16.0  # a label whose centre line is further away than this gets a line to its point
_RINGS = (0.0, 8.0, 18.0, 30.0, 44.0, 60.0, 80.0)  # distances tried, beyond the nearest
_ANGLES = tuple(2 * pi * k / 16 for k in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11))  # right, left, up, …


@dataclass(frozen=True)
class Placed:
    """A label's box and, for one that stands away from its point, where its line ends; None: no line."""

    box: Box
    anchor: tuple[float, float] | None


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box], room: Box
) -> list[Placed | None]:
    """A box for each label, near its point and free of everything else; None where there is no room.

    Args:
        points: (x, y) px.
        sizes: (width, height) px of each label.
        taken: boxes that no label may touch (ticks, headings).
        room: every label stays inside.

    Returns:
        In the order of `points`. Crowded points choose first.
    """
    dots = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    placed: list[Placed | None] = [None] * len(points)
    blocked = [*taken, *dots]

    def crowd(i: int) -> float:
        return sum(1.0 / (1.0 + hypot(points[i][0] - x, points[i][1] - y)) for x, y in points)

    lines: list[_Line] = []
    for i in sorted(range(len(points)), key=lambda i: (-round(crowd(i), 9), i)):
        for box in _tries(points[i], sizes[i]):
            inside = box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]
            grown = (box[0] - _GAP, box[1] - _GAP, box[2] + _GAP, box[3] + _GAP)
            if not inside or any(overlap(grown, other) for other in blocked):
                continue
            anchor = _anchor(points[i], box)
            own = None if anchor is None else (points[i], anchor)
            if any(crosses(line, grown) for line in lines):
                continue
            others = [dot for k, dot in enumerate(dots) if k != i] + [f.box for f in placed if f is not None]
            if own is not None and any(crosses(own, other) for other in others):
                continue
            blocked.append(box)
            lines += [] if own is None else [own]
            placed[i] = Placed(box, anchor)
            break
    return placed


def crosses(line: _Line, box: Box) -> bool:
    """Whether a straight line enters a box (Liang & Barsky 1984)."""
    (x, y), (x1, y1) = line
    start, end = 0.0, 1.0
    for step, low, high in ((x1 - x, box[0] - x, box[2] - x), (y1 - y, box[1] - y, box[3] - y)):
        if step == 0.0:
            if low >= 0.0 or high <= 0.0:
                return False
            continue
        near, far = sorted((low / step, high / step))
        start, end = max(start, near), min(end, far)
    return start < end


def _tries(point: tuple[float, float], size: tuple[float, float]) -> list[Box]:
    """Boxes around the point, ring by ring."""
    (x, y), (w, h) = point, size
    out = []
    for ring in _RINGS:
        for angle in _ANGLES:
            c, s = cos(angle), sin(angle)
            reach = _POINT + _GAP + 1.0 + ring
            cx, cy = x + c * (reach + w / 2), y + s * (reach + h / 2)
            out.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return out


def _anchor(point: tuple[float, float], box: Box) -> tuple[float, float] | None:
    """The place on the box nearest to the point, if that is far away."""
    x, y = min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])
    return (x, y) if hypot(point[0] - x, point[1] - y) > _LEADER else None


def label_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> int:
    """Write a label at each point (data x, data y, text); returns how many found no room.

    Call it when limits, ticks and headings are final. Widths are measured in DejaVu Sans, the widest of the page's
    fonts.
    """
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    spots: list[tuple[float, float]] = [tuple(ax.transData.transform((x, y)).tolist()) for x, y, _ in points]
    texts = [t for axis in (ax.xaxis, ax.yaxis) for t in axis.get_ticklabels()] + [ax.xaxis.label, *ax.texts]
    taken = [t.get_window_extent().extents for t in texts if t.get_text()]
    shown = [
        ax.text(0, 0, text, transform=None, color=svg.MUTED, fontsize=FONT, ha="left", va="bottom")
        for _, _, text in points
    ]
    sizes = []
    for text in shown:
        extent = text.get_window_extent()
        sizes.append((float(extent.width), float(extent.height)))
    edge = ax.figure.bbox.extents
    room = (float(edge[0]) + 2, float(ax.bbox.y0) + 2, float(edge[2]) - 2, float(ax.bbox.y1) + 6)
    boxes = [(float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in taken]
    missing = 0
    for text, spot, label in zip(shown, spots, place(spots, sizes, boxes, room), strict=True):
        if label is None:
            text.remove()
            missing += 1
            continue
        text.set_position(label.box[:2])
        if label.anchor is not None:
            xs, ys = zip(spot, label.anchor, strict=True)
            ax.plot(xs, ys, transform=None, color=svg.MUTED, linewidth=0.8, clip_on=False, zorder=1)
    return missing
