"""Labels of points touch nothing: neither points, nor labels, nor ticks, nor headings, nor the lines of others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.report import svg
from edgesafe.report.labels import (
    Placed,
    crosses,
    label_points,
    overlap,
    place,
)

SIZE = (60.0, 13.0)
ROOM = (2.0, 40.0, 398.0, 270.0)
TICKS = [(10.0, 30.0 + 40 * k, 40.0, 44.0 + 40 * k) for k in range(6)]
spots = st.lists(st.tuples(st.floats(50, 340), st.floats(50, 260)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(spots)
def test_labels_touch_nothing_wherever_the_points_are(points: list[tuple[float, float]]) -> None:
    found = place(points, [SIZE] * len(points), TICKS, ROOM)
    shown = [f for f in found if f is not None]
    dots = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for a, b in itertools.combinations([f.box for f in shown], 2):
        assert not overlap(a, b)
    for i, f in enumerate(found):
        if f is None:
            continue
        assert not any(overlap(f.box, other) for other in (*TICKS, *dots))
        assert f.box[0] >= ROOM[0] and f.box[1] >= ROOM[1] and f.box[2] <= ROOM[2] and f.box[3] <= ROOM[3]
        assert (f.box[2] - f.box[0], f.box[3] - f.box[1]) == pytest.approx(SIZE)
        if f.anchor is not None:
            others = [g.box for g in shown if g is not f]
            assert not any(crosses((points[i], f.anchor), other) for other in others)
    assert found[0] is not None or len(points) > 1, "a single point has room"


def _boxes(ax) -> list[tuple[float, float, float, float]]:
    texts = [*ax.texts, *ax.xaxis.get_ticklabels(), *ax.yaxis.get_ticklabels(), ax.xaxis.label]
    return [tuple(t.get_window_extent().extents) for t in texts if t.get_text()]


CIFAR = [
    (1.0, 91.73, "baseline"),
    (1.005, 90.74, "weight 30 %"),
    (1.003, 90.82, "weight 50 %"),
    (1.012, 90.33, "weight 70 %"),
    (0.945, 89.46, "filter 30 %"),
    (0.708, 86.15, "filter 50 %"),
    (0.938, 88.95, "channel 30 %"),
    (0.793, 85.97, "channel 50 %"),
]


@pytest.mark.parametrize("points", [CIFAR, CIFAR[:1], [(x, y, "x" * 28) for x, y, _ in CIFAR[:4]]])
def test_no_text_of_a_drawing_overlaps_another(points: list[tuple[float, float, str]]) -> None:
    """The boxes that matplotlib measures, ticks and heading among them: "filter 50 %" once lay on the tick "86"."""
    with svg.frame(400, 300) as figure:
        ax = svg.axes(figure, (44, 40, 60, 34), grid="both")
        ax.plot([x for x, _, _ in points], [y for _, y, _ in points], linestyle="", marker="o")
        ax.margins(0.12)
        ax.autoscale_view()
        ax.locator_params(axis="both", nbins=6)
        ax.set_xlabel("latency ratio (left is faster)")
        ax.text(-36 / 296, 1.05, "Accuracy, %, against latency", transform=ax.transAxes, fontsize=13.5)
        missing = label_points(ax, points)
        figure.draw_without_rendering()
        dots = [ax.transData.transform((x, y)) for x, y, _ in points]
        labels = [t for t in ax.texts if t.get_text() in {n for _, _, n in points}]
        assert len(labels) + missing == len(points)
        if points is CIFAR:
            assert missing == 0
        for text in labels:
            box = tuple(text.get_window_extent().extents)
            assert sum(overlap(box, other) for other in _boxes(ax)) == 1, "its own box alone"
            assert not any(overlap(box, (x - 5, y - 5, x + 5, y + 5)) for x, y in dots)
            assert box[0] >= 0 and box[2] <= 400


@given(st.lists(st.floats(-10, 10), min_size=8, max_size=8))
def test_a_line_enters_a_box_if_a_point_of_it_lies_inside(v: list[float]) -> None:
    box = (min(v[0], v[1]), min(v[2], v[3]), max(v[0], v[1]), max(v[2], v[3]))
    start, end = np.array(v[4:6]), np.array(v[6:8])
    points = start + np.linspace(0, 1, 201)[:, None] * (end - start)
    inside = np.all((points > np.array(box[:2]) + 1e-9) & (points < np.array(box[2:]) - 1e-9), axis=1)
    if inside.any():
        assert crosses(((v[4], v[5]), (v[6], v[7])), box)


def test_a_line_beside_a_box_does_not_cross_it() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    assert not crosses(((-1.0, 2.0), (2.0, 2.0)), box) and not crosses(((2.0, -1.0), (2.0, 5.0)), box)
    assert not crosses(((-2.0, 0.5), (-1.0, 0.5)), box) and crosses(((-2.0, 0.5), (0.5, 0.5)), box)


def test_where_there_is_no_room_a_label_is_left_out() -> None:
    full = [(0.0, 0.0, 400.0, 300.0)]
    assert place([(200.0, 150.0)], [SIZE], full, ROOM) == [None]
    alone = place([(200.0, 150.0)], [SIZE], [], ROOM)[0]
    assert isinstance(alone, Placed) and alone.anchor is None and alone.box[0] == pytest.approx(211.0)
