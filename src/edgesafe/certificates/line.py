"""Exact margins of an ONNX network along a segment of images: the real-valued function, for comparison with papers.

A network of affine and piecewise-linear operators is piecewise linear in the parameter of a segment. Values of all
live tensors are kept at rising points of the segment. Before each piecewise-linear operator the places where one of its
inputs changes sign become new points, at which every live tensor is interpolated. Between two points everything is
linear, so the least margin over the points is the least margin. The number of points measures how bent the network is.

Convolutions run under onnxruntime in float32, or in float64 with numpy (`precise`). Margins nearer to 0 than 1e-4 are
left undecided. It does not cover rounding to 8 bits: see docs/certificates.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates.enumeration import Images
from edgesafe.certificates.operators import Network
from edgesafe.certificates.sets import FiniteSet
from edgesafe.errors import UsageError
from edgesafe.measure.inference.classifier import Classifier
from edgesafe.measure.tasks import Rules, rules_of
from edgesafe.records.certificates import CertificateEngine, SetCertificates, Standing, Witnesses

__all__ = ["PREFIX", "TOLERANCE", "LineResult", "Segment", "Walk", "certify_line", "least_margin", "segment_of"]

PREFIX = "line."  #: of the ids of sets that were decided so, because their numbers mean something else

TOLERANCE = 1e-4  #: margins nearer to 0 than this are not decided: float32 sums in another order differ by 1e-5
_PARTS = 16  # pieces that a segment begins in: memory for the points of one piece at a time
_MOST_NEW = 600  # points that one operator may add to a piece before it is halved
_SHORTEST = 1e-6  # of the segment: such a piece is not halved again

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Segment:
    """Images pivot + factor (x - pivot) + offset, with factor and offset running straight from `start` to `stop`.

    Attributes:
        pivot: of the factor, in grey levels.
        start, stop: (factor, offset).
    """

    pivot: float
    start: tuple[float, float]
    stop: tuple[float, float]

    def images(self, image: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unclipped pixels at points in [0, 1]: float64 (len(points), H, W, C)."""
        x = image.astype(np.float64)
        factor, offset = (a + points * (b - a) for a, b in zip(self.start, self.stop, strict=True))
        along: NDArray[np.float64] = self.pivot + factor[:, None, None, None] * (x - self.pivot)
        return along + offset[:, None, None, None]


@dataclass(frozen=True)
class LineResult:
    """The least margin that was found, where, and how many points the network needed."""

    margin: float
    at: float  #: in [0, 1] of the segment
    points: int


class Walk:
    """Tensors by name, at the points of a piece; `split` is called before each piecewise-linear operator."""

    def __init__(self, points: NDArray[np.float64], most_new: int) -> None:
        self.points, self.most_new = points, most_new
        self.tensors: dict[str, Values] = {}

    def split(self, values: Values) -> None:
        """Make the zeros of `values` (points, ...), linear between points, points of every live tensor.

        Raises:
            TooManyPoints: they are more than `most_new`.
        """
        flat = values.reshape(len(values), -1)
        positive = flat > 0
        bent = np.flatnonzero(positive.any(0) & ~positive.all(0))
        segment, column = np.nonzero(positive[1:, bent] != positive[:-1, bent])
        if not len(segment):
            return
        before, after = (flat[segment + k, bent[column]].astype(np.float64) for k in (0, 1))
        place = before / (before - after)
        least = 1e-12 if values.dtype == np.float64 else 1e-7
        inside = (place > least) & (place < 1 - least)
        where = np.unique(segment[inside] + place[inside])
        if len(where) > self.most_new:
            raise TooManyPoints
        if len(where):
            self._insert(where)

    def _insert(self, where: NDArray[np.float64]) -> None:
        n = len(self.points)
        left = np.minimum(np.floor(where).astype(np.int64), n - 2)
        order = np.argsort(np.concatenate([np.arange(n), where]), kind="stable")
        source = np.concatenate([np.arange(n), left])[order]
        weight = np.concatenate([np.zeros(n), where - left])[order]
        self.points = _between(self.points, source, weight).astype(np.float64)
        for name, values in self.tensors.items():
            self.tensors[name] = _between(values, source, weight)


class TooManyPoints(Exception):  # noqa: N818 - it asks for a shorter piece; nothing is wrong
    """A piece needs more points than memory should hold."""


def _between(values: Values, left: NDArray[np.int64], weight: NDArray[np.float64]) -> Values:
    """Values at the new points; rows with weight 0 are copied bit for bit."""
    out: Values = values[left]
    new = np.flatnonzero(weight)
    share = weight[new].astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    out[new] += share * (values[left[new] + 1] - out[new])
    return out


def least_margin(
    network: Network, segment: Segment, image: NDArray[np.uint8], label: NDArray[Any], rules: Rules
) -> LineResult:
    """The least margin of a label along a segment; stops at the first piece that decides against it.

    Between two points the outputs are linear, so that both the largest of the other logits less that of the label and
    the largest distance of a keypoint to its label are convex: the least margin lies at a point.

    Args:
        network: a file's graph.
        segment: which images.
        image: uint8 (H, W, C).
        label: the image's own, (1, …).
        rules: of the task.
    """
    worst, at, count = np.inf, 0.0, 0
    edges = np.linspace(0.0, 1.0, _PARTS + 1)
    todo = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))[::-1]
    while todo and worst > -TOLERANCE:
        low, high = todo.pop()
        walk = Walk(np.array([low, high]), _MOST_NEW if high - low > _SHORTEST else 1 << 40)
        try:
            outputs = network.run(walk, segment.images(image, walk.points))
        except TooManyPoints:
            middle = (low + high) / 2
            todo += [(middle, high), (low, middle)]
            continue
        margins = rules.margins(outputs, np.repeat(label, len(outputs), axis=0))
        least = int(margins.argmin())
        count += len(walk.points)
        if margins[least] < worst:
            worst, at = float(margins[least]), float(walk.points[least])
    return LineResult(worst, at, count)


def segment_of(finite: FiniteSet) -> Segment:
    """The real-valued range that a set of one parameter stores in 8 bits.

    Raises:
        UsageError: not brightness, contrast or exposure alone.
    """
    match = re.fullmatch(r"(brightness|contrast|exposure)=([\d.]+)%?", finite.id)
    if match is None:
        raise UsageError("no straight line of images", where=finite.id, fix="give brightness, contrast or exposure")
    reach = float(Fraction(match[2]))
    if match[1] == "brightness":
        return Segment(127.5, (1.0, -reach), (1.0, reach))
    return Segment(127.5 if match[1] == "contrast" else 0.0, (1.0 - reach / 100, 0.0), (1.0 + reach / 100, 0.0))


def certify_line(
    network: Network, classifier: Classifier, images: Images, finite: FiniteSet, advance: Callable[[int], None]
) -> SetCertificates:
    """Decide images along the range of a set, without rounding.

    Args:
        network: the file's graph.
        classifier: the file, for the untouched images.
        images: what is certified.
        finite: brightness, contrast or exposure.
        advance: told the number of images done.

    Returns:
        Certificates under the id "line.<set>"; `members` and `ran` are the points of each image's line.

    Raises:
        UsageError: see `segment_of`.
    """
    segment, n, shape = segment_of(finite), len(images), images.pixels.shape[1:]
    rules = rules_of(images.task)
    logits = classifier.logits(images.pixels, 64)
    margin, points = rules.margins(logits, images.labels), np.ones(n, np.int64)
    standing = np.full(n, Standing.WRONG, np.uint8)
    for row in range(n):
        if margin[row] > 0.0:
            least = least_margin(network, segment, images.pixels[row], images.labels[row : row + 1], rules)
            margin[row], points[row] = min(float(margin[row]), least.margin), least.points
            decided = Standing.CERTIFIED if margin[row] >= TOLERANCE else Standing.FALSIFIED
            standing[row] = Standing.UNKNOWN if abs(margin[row]) < TOLERANCE else decided
        advance(1)
    none, reach = np.empty(0, np.int64), finite.reach(shape)
    blank = np.empty((0, *shape), np.uint8)
    return SetCertificates(
        id=PREFIX + finite.id, sha256=finite.sha256, unit=finite.unit, reach=reach, engine=CertificateEngine.LINE,
        outwards=False, complete=False, index=images.index, label=rules.right_answers(images.labels),
        prediction=rules.answers(logits, images.labels), standing=standing, margin=margin,
        distance=np.full(n, reach), witness=np.full(n, -1, np.int64), members=points, ran=points,
        agrees=np.full(n, -1, np.int8), answer_count=np.zeros(n, np.int64), answers=none,
        witnesses=Witnesses(none, blank, blank, none, ()),
    )  # fmt: skip
