"""What a published study found (Mitra, Schwalbe, Klein, arXiv 2405.20876), as statements, tested on our evidence.

A statement that something does not get worse is a family of paired differences, one for each variant and seed that it
speaks of. It is **confirmed** if every interval lies on the good side of a margin, **contradicted** if one lies wholly
beyond it, and **undecided** otherwise. That all must confirm needs no correction; that one of k may contradict does:
its interval is widened to the level 1 - 0.05 / k (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

from edgesafe.records import Comparison, Measurement, Role
from edgesafe.report.comparison.points import Curve
from edgesafe.study.study import Variant

__all__ = ["MARGIN", "Answer", "Finding", "Statement", "findings"]

MARGIN = 0.01  #: a change below one percentage point counts as none: of accuracy, and of a calibration error
_LEVEL = 0.05  # of a contradiction, over all variants of a statement


class Answer(StrEnum):
    """What our evidence says to a statement."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    UNTESTED = "not tested"  #: no study measured what it is about


@dataclass(frozen=True)
class Statement:
    """A finding of the published study.

    Attributes:
        text: what it says.
        method: of pruning that it speaks of; None: all, and the unpruned networks where it is about those.
    """

    text: str
    method: str | None = None


@dataclass(frozen=True)
class Finding:
    """A statement and our answer.

    Attributes:
        statement: what was found.
        answer: what our evidence says.
        tested: how many intervals it rests on.
        confirming: how many of them lie on the good side.
        worst: the interval that speaks most against it, in words; empty: none.
    """

    statement: Statement
    answer: Answer
    tested: int = 0
    confirming: int = 0
    worst: str = ""


@dataclass(frozen=True)
class _Interval:
    """A number in which more is worse, with its interval; `limit` is how much is still right."""

    name: str
    estimate: float
    low: float
    high: float
    limit: float

    def beyond(self, tests: int) -> bool:
        """Whether it lies wholly beyond the limit, as one of so many that were looked at."""
        normal = NormalDist()
        wider = normal.inv_cdf(1 - _LEVEL / (2 * tests)) / normal.inv_cdf(0.975)
        return self.estimate - (self.estimate - self.low) * wider > self.limit


def findings(curves: Sequence[Curve]) -> tuple[Finding, ...]:
    """Every statement with our answer."""
    deepest = {"weight": lambda _: 0.7, "filter": lambda _: 0.5, "channel": _channel_limit}
    said = {
        "weight": "unstructured pruning up to 70 %", "filter": "filter pruning up to 50 %",
        "channel": "channel pruning up to 40 % (VGG) or 50 % (others)",
    }  # fmt: skip
    made = [
        _judged(Statement(f"Calibration (ECE) does not get worse by {said[method]}", method),
                _differences(curves, "ece_em10_top1", method, limit, sign=1))
        for method, limit in deepest.items()
    ]  # fmt: skip
    for method in deepest:
        limit = _channel_corruption_limit if method == "channel" else (lambda _: 0.7)
        depth = "up to 70 % (residual networks: 50 %)" if method == "channel" else "up to 70 %"
        statement = Statement(f"Accuracy under corruption (mPC) does not fall by {method} pruning {depth}", method)
        made.append(_judged(statement, _differences(curves, "mpc", method, limit, sign=-1)))
    under = [
        interval
        for severity in range(1, 6)
        for interval in _differences(curves, f"ece_em10_top1.severity.{severity}", None, lambda _: 0.7, sign=1)
    ]
    made.append(_judged(Statement("ECE under corruption is not worse than the unpruned network's, up to 70 %"), under))
    networks = {v.id + curve.study: (v, curve) for curve in curves for p in curve.points[:1] for v in p.variants}
    unpruned = list(networks.values())
    grown = "The unpruned networks' ECE grows by more than 400 % from clean images to severity 5"
    made.append(_judged(Statement(grown), [i for v, c in unpruned for i in _growth(v, c)]))
    fallen = "The unpruned networks' accuracy falls from above 90 % to below 55 % at severity 5"
    made.append(_judged(Statement(fallen), [i for v, c in unpruned for i in _fall(v, c)]))
    return tuple(made)


def _channel_limit(network: str) -> float:
    return 0.4 if network.startswith("vgg") else 0.5


def _channel_corruption_limit(network: str) -> float:
    return 0.7 if network.startswith("vgg") else 0.5


def _differences(
    curves: Sequence[Curve], metric: str, method: str | None, deepest: Callable[[str], float], sign: int
) -> list[_Interval]:
    """Paired differences to the baseline, turned so that more is worse, of all variants that are pruned no deeper."""
    made = []
    for curve in curves:
        for point in curve.points[1:]:
            for variant in point.variants:
                is_meant = method is None or variant.entry.method == method
                difference = variant.differences.get(metric)
                if is_meant and difference is not None and point.ratio <= deepest(curve.network) + 1e-9:
                    made += _interval(f"{variant.id} of {curve.study}", difference, sign, MARGIN)
    return made


def _interval(name: str, number: Comparison | Measurement, sign: int, limit: float) -> list[_Interval]:
    if number.low is None or number.high is None:
        return []
    low, high = sorted((sign * number.low, sign * number.high))
    return [_Interval(f"{name}: {_points(number)}", sign * number.estimate, low, high, limit)]


def _points(number: Comparison | Measurement) -> str:
    """A rate or its difference in percent or percentage points, with its interval."""
    unit = "pp" if isinstance(number, Comparison) else "%"
    sign = "+" if isinstance(number, Comparison) else ""
    low, high = (0.0 if bound is None else bound for bound in (number.low, number.high))
    return f"{number.metric} {number.estimate * 100:{sign}.2f} {unit} ({low * 100:{sign}.2f} to {high * 100:{sign}.2f})"


def _growth(variant: Variant, curve: Curve) -> list[_Interval]:
    """Five times the clean ECE minus that at severity 5: above 0 means less growth than was found."""
    clean, worst = (variant.metrics.get(f"ece_em10_top1{end}") for end in ("", ".severity.5"))
    if clean is None or worst is None or None in (clean.low, clean.high, worst.low, worst.high):
        return []
    low, high = 5 * (clean.low or 0.0) - (worst.high or 0.0), 5 * (clean.high or 0.0) - (worst.low or 0.0)
    words = f"{variant.id} of {curve.study}: {_points(clean)}, {_points(worst)}"
    return [_Interval(words, 5 * clean.estimate - worst.estimate, low, high, 0.0)]


def _fall(variant: Variant, curve: Curve) -> list[_Interval]:
    """Clean accuracy below 90 %, and that at severity 5 above 55 %, count as worse."""
    if variant.entry.role is not Role.BASELINE:
        return []
    name = f"{variant.id} of {curve.study}"
    clean, worst = variant.metrics.get("accuracy"), variant.metrics.get("mpc.severity.5")
    if clean is None or worst is None:
        return []
    return [*_interval(name, clean, -1, -0.90), *_interval(name, worst, 1, 0.55)]


def _judged(statement: Statement, intervals: Sequence[_Interval]) -> Finding:
    """Confirmed if all confirm, contradicted if one contradicts, else undecided."""
    if not intervals:
        return Finding(statement, Answer.UNTESTED)
    good = sum(interval.high <= interval.limit for interval in intervals)
    worst = max(intervals, key=lambda interval: interval.low - interval.limit)
    answer = Answer.CONFIRMED if good == len(intervals) else Answer.UNDECIDED
    if any(interval.beyond(len(intervals)) for interval in intervals):
        answer = Answer.CONTRADICTED
    return Finding(statement, answer, len(intervals), good, worst.name)
