"""Statistics on stored evidence that the page shows and measurements.json does not hold: cells, bins, the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import NonFiniteError
from edgesafe.measure.intervals.ece import paired_difference, wilson
from edgesafe.measure.metrics.calibration import ReliabilityBins, reliability_bins
from edgesafe.measure.probabilities import softmax64
from edgesafe.measure.sampling import margin_metrics
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.records import Cell, Evidence, GateStatus
from edgesafe.report.view import Group, Value, View

__all__ = [
    "BEST_RULE",
    "BestGroup",
    "CellDifference",
    "Pareto",
    "Reliability",
    "best",
    "cell_differences",
    "pareto",
    "ranking",
    "reliability",
    "tempered",
]


@dataclass(frozen=True)
class CellDifference:
    """Accuracy of a variant minus its baseline's in one (corruption, severity), on the same pixels. Fractions."""

    corruption: str
    severity: int
    estimate: float
    low: float
    high: float
    n: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0.0 or self.high < 0.0


def cell_differences(candidate: Evidence, baseline: Evidence) -> tuple[CellDifference, ...]:
    """Paired accuracy differences of every cell that both have, with two-sided 95 % intervals (Bonett & Price 2012).

    The interval speaks of one cell; among 75 cells of an unchanged net about four leave zero out by chance. Where the
    candidate's rows are a sample by the baseline's margin, they are weighted (`measure.margin`).
    """
    if is_drawn(candidate):
        return tuple(
            CellDifference(*key, difference.estimate, difference.low, difference.high, difference.n)
            for key, difference in margin_metrics.cell_differences(candidate, baseline).items()
        )
    differences = []
    for key in candidate.cells:
        if key not in baseline.cells:
            continue
        right, base = _paired(candidate.cells[key], baseline.cells[key])
        if right.size < 2:
            continue
        i = paired_difference(right, base, kind="rate")
        differences.append(CellDifference(key[0], key[1], i.estimate, i.low, i.high, i.n))
    return tuple(differences)


def _paired(candidate: Cell, baseline: Cell) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right (1) or wrong (0) of both, float64 (n,), on the images that both have."""
    _, a, b = np.intersect1d(candidate.index, baseline.index, assume_unique=True, return_indices=True)
    right, base = candidate.prediction == candidate.label, baseline.prediction == baseline.label
    return right[a].astype(np.float64), base[b].astype(np.float64)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: equal-mass bins as points, and the histogram of confidence in 20 equal widths.

    Attributes:
        bins: of `ece_em10_top1`.
        low, high: float64 (bins,), Wilson's 95 % interval of each bin's accuracy.
        histogram: float64 (20,), share of images per 0.05 of confidence; sums to 1.
    """

    bins: ReliabilityBins
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    histogram: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The calibration error that these bins mean: sum of count times gap, over n."""
        gaps = np.abs(self.bins.accuracy - self.bins.confidence)
        return float((self.bins.count * gaps).sum() / self.bins.count.sum())


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Reliability:
    """The diagram of `confidence` (n,) in [0, 1] against `correct` (n,).

    Raises:
        NothingEvaluated, DataError, NonFiniteError, RefusedError: see `measure.calibration.check_pairs`.
    """
    bins = reliability_bins(confidence, correct)
    hits = np.rint(bins.accuracy * bins.count).astype(np.int64)
    spread = [wilson(int(k), int(n)) for k, n in zip(hits, bins.count, strict=True)]
    low, high = np.array([i.low for i in spread]), np.array([i.high for i in spread])
    histogram, _ = np.histogram(np.clip(confidence, 0.0, 1.0), bins=20, range=(0.0, 1.0))
    return Reliability(bins, low, high, histogram / confidence.size)


def tempered(evidence: Evidence, temperature: float) -> NDArray[np.float64]:
    """Top-1 confidence (n,) of softmax(logits / temperature), float64: what model.calibrated.onnx says."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise NonFiniteError(f"temperature {temperature} is not positive", where="temperature", fix="fit it again")
    return np.asarray(softmax64(evidence.logits / np.float32(temperature)).max(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Pareto:
    """A group's accuracy, latency ratio and file size, and whether another group is at least as good in all of them."""

    group: Group
    accuracy: Value | None
    ratio: float | None  #: latency over the baseline's (1 for the baseline), timed in turns; None: not measured
    file: float | None  #: bytes of the ONNX file to ship: the sparse one where there is one
    dominated: bool
    timing: Value | None = None  #: `ratio` with its interval; None for the baseline


def shipped_bytes(group: Group, view: View) -> float | None:
    """Bytes of the file one would ship: the sparse ONNX file where there is one, else model.onnx. Mean over seeds."""
    file_sizes = []
    for variant in group.members:
        sizes = [a.bytes for a in variant.artefacts if a.file in ("model.onnx", "model.sparse.onnx")]
        measured = view.measurements.get(variant.id)
        if measured is not None and "size.onnx_bytes" in measured.metrics:
            sizes.append(int(measured.metrics["size.onnx_bytes"].estimate))
        if sizes:
            file_sizes.append(min(sizes))
    return sum(file_sizes) / len(file_sizes) if file_sizes else None


def pareto(groups: Sequence[Group], view: View) -> tuple[Pareto, ...]:
    """Every group, marked where another is at least as good in accuracy, latency ratio and file size and better in one.

    The ratio and not the median: medians of different variants come from different timing sessions. What
    is not measured does not count: neither for nor against.
    """
    rows = [(g, g.value(view, "accuracy"), _ratio(g, view), shipped_bytes(g, view)) for g in groups]
    costs = [(None if a is None else -a.estimate, t, f) for _, a, t, f in rows]
    return tuple(
        Pareto(
            g,
            a,
            t,
            f,
            any(_dominates(other, costs[i]) for j, other in enumerate(costs) if j != i),
            None if g.is_baseline else g.value(view, "latency.ratio"),
        )
        for i, (g, a, t, f) in enumerate(rows)
    )


def _ratio(group: Group, view: View) -> float | None:
    """The latency ratio; 1 for a baseline that was timed."""
    if group.is_baseline:
        return None if group.value(view, "latency.p50_ms") is None else 1.0
    value = group.value(view, "latency.ratio")
    return None if value is None else value.estimate


def _dominates(costs: tuple[float | None, ...], other_costs: tuple[float | None, ...]) -> bool:
    """Whether `costs` are at least as small in every cost that both have, and smaller in at least one of them.

    The order is (-accuracy, latency ratio, bytes of the file); None is not measured. False if an accuracy is missing.
    """
    if costs[0] is None or other_costs[0] is None:
        return False
    pairs = [(x, y) for x, y in zip(costs, other_costs, strict=True) if x is not None and y is not None]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


@dataclass(frozen=True)
class BestGroup:
    """One of the best variants and the numbers that put it there."""

    group: Group
    status: GateStatus | None
    drop: Value | None  #: accuracy minus the baseline's, paired
    latency: Value | None  #: latency ratio
    file_ratio: float | None  #: shipped bytes / baseline's
    points: Pareto


CONTROL = "random"
EXCLUDED = (GateStatus.FAIL, GateStatus.MISSING, GateStatus.REFUSED)
RANK = {GateStatus.PASS: 0, GateStatus.WAIVED: 1, GateStatus.INCONCLUSIVE: 2, None: 3}
LEAST_BEST, MOST_BEST = 3, 9
BEST_RULE = (
    "Compressed variants on the Pareto front that the page draws, of accuracy, latency ratio and file size (no other "
    "variant is at least as good in all three and better in one), without a failed, missing or refused gate and "
    "without the control (random); ordered by verdict, then by whole percentage points of accuracy lost to the "
    f"baseline, then by latency ratio, then by file size. Shown: the first {LEAST_BEST}, and all that are surely "
    f"faster than the baseline, {MOST_BEST} at most."
)


def best(points: Sequence[Pareto], view: View) -> tuple[BestGroup, ...]:
    """The best compressed groups of the drawn points, by `BEST_RULE`."""
    baseline = next((p for p in points if p.group.is_baseline), None)
    out = []
    for p in points:
        status = p.group.status(view)
        compressed = not p.group.is_baseline and p.group.method != CONTROL
        if not compressed or p.dominated or p.accuracy is None or status in EXCLUDED:
            continue
        ratio = p.file / baseline.file if p.file and baseline is not None and baseline.file else None
        drop, latency = p.group.difference(view, "accuracy"), p.group.value(view, "latency.ratio")
        out.append(BestGroup(p.group, status, drop, latency, ratio, p))
    ordered = sorted(out, key=lambda b: ranking(b.points, b.status, baseline))
    first = ordered[:LEAST_BEST]
    faster = [b for b in ordered if b.latency is not None and b.latency.outer is not None and b.latency.outer[1] < 1.0]
    return tuple(b for b in ordered if b in first or b in faster)[:MOST_BEST]


def ranking(point: Pareto, status: GateStatus | None, baseline: Pareto | None) -> tuple[int, float, float, float, str]:
    """What orders variants, smallest first: verdict, whole points of accuracy lost, latency ratio, file size, name."""
    lost = 0.0
    if point.accuracy is not None and baseline is not None and baseline.accuracy is not None:
        lost = max(0.0, baseline.accuracy.estimate - point.accuracy.estimate)
    latency = point.ratio if point.ratio is not None else float("inf")
    file = point.file if point.file is not None else float("inf")
    return (RANK.get(status, 9), float(np.floor(round(lost * 100, 9))), latency, file, point.group.key)
