"""From stored records to numbers that a limit can be held against, with their uncertainty.

Each reading is an estimate with one spread below and one above, per unit of the normal quantile z, so that a bound at
any one-sided confidence g is estimate + z(g) * spread. A record's interval [low, high] at two-sided confidence c gives
spread_above = (high - estimate) / z((1 + c) / 2), and likewise below: at g = (1 + c) / 2 the stored bounds come back
as they are, and an interval that is not symmetric (Wilson, bootstrap) stays so. Where only a standard error is stored,
both spreads are it. A number with neither is exact by its metric, or is refused.

Relative rules use the paired difference d = candidate - baseline. For a limit of r times the baseline's value b,
"candidate <= r b" is the contrast d - (r - 1) b <= 0, whose spread is at most spread(d) + |r - 1| spread(b) whatever
the correlation (triangle inequality for standard deviations): never too small, and close for r near 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from edgesafe.display import bounds, show
from edgesafe.errors import IntegrityError, NonFiniteError
from edgesafe.metrics import Basis, MetricInfo, Rule, expand, get, info, is_family
from edgesafe.policy.counted import exact_values
from edgesafe.policy.policy import Against, Clause
from edgesafe.records import (
    Comparison,
    GateStatus,
    IntervalMethod,
    Measurement,
    Measurements,
    Unit,
    VariantRecord,
)

__all__ = ["Problem", "Reading", "Subject", "metrics_of", "read", "valid"]


@dataclass(frozen=True)
class Subject:
    """A candidate to judge, and what it is compared with: "the baseline", which may be its fp32 sibling.

    Without a baseline `baseline_id` is None; `baseline` alone is None where that variant was not measured. Where a
    record is None, counted metrics are taken from the measurements alone.
    """

    id: str
    candidate: Measurements
    record: VariantRecord | None
    baseline_id: str | None
    baseline: Measurements | None
    baseline_record: VariantRecord | None
    distinct: float = 1.0  #: share of the test images that are different ones
    sibling: Measurements | None = None  #: of the fp32 variant that it was converted from
    sibling_record: VariantRecord | None = None
    against: Against = Against.BASELINE  #: what the baseline here is

    def compared(self, against: Against) -> Subject:
        """The candidate beside what a gate compares it with: its baseline, or its fp32 sibling, if it has one."""
        if against is Against.BASELINE:
            return self
        changes = {"baseline": self.candidate.sibling, "differences": self.candidate.sibling_differences}
        return replace(
            self, candidate=self.candidate.model_copy(update=changes), baseline_id=self.candidate.sibling,
            baseline=self.sibling, baseline_record=self.sibling_record, against=against,
        )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A member of a gate that cannot be decided: its exact metric id, MISSING or REFUSED, and why."""

    metric: str
    status: GateStatus  #: MISSING or REFUSED
    reason: str


@dataclass(frozen=True)
class Reading:
    """A number against its limit, both in the orientation of the rule (a drop is positive when the candidate is worse).

    Attributes:
        metric: exact id.
        rule: decides on which side of the limit is right.
        estimate: in `unit`.
        limit: in `unit`, as applied: "5%" of the baseline is already multiplied out.
        below: spread below the estimate, per unit of z; 0 for an exact number.
        above: spread above it.
        n: different images, or runs. Several corruptions of one image are one image.
        method: of the record.
        unit: RATIO under MAX_RATIO, else the metric's.
        info: of the metric.
        noise_floor: of an ECE.
        of: the baseline's value where the limit is a share of it.
        against: what a relative rule compared with.
    """

    metric: str
    rule: Rule
    estimate: float
    limit: float
    below: float
    above: float
    n: int
    method: str
    unit: Unit
    info: MetricInfo
    noise_floor: float | None = None
    of: float | None = None
    against: Against = Against.BASELINE

    @property
    def exact(self) -> bool:
        """Whether the number is counted and not estimated, so that it has no uncertainty."""
        return self.info.basis is Basis.EXACT

    def bounds(self, z: float) -> tuple[float, float]:
        """One-sided bounds at the confidence whose normal quantile is z, within what the number can be at all."""
        low, high = self.estimate - z * self.below, self.estimate + z * self.above
        return bounds(low, high, self.unit, difference=self.rule in (Rule.MAX_DROP, Rule.MAX_INCREASE))

    def passes(self, z: float) -> bool:
        """Whether the bound on the bad side still meets the limit (non-inferiority)."""
        low, high = self.bounds(z)
        return low >= self.limit if self.rule is Rule.MIN else high <= self.limit

    def excess(self) -> float:
        """How far the estimate is beyond the limit; negative within it."""
        return self.limit - self.estimate if self.rule is Rule.MIN else self.estimate - self.limit

    def alarm_p(self) -> float:
        """p-value of the hypothesis that the limit is met: small where the number is surely beyond it."""
        excess = self.excess()
        spread = self.above if self.rule is Rule.MIN else self.below
        if spread == 0.0 or excess <= 0.0:
            return 0.0 if excess > 0.0 else 1.0
        return 1.0 - NormalDist().cdf(excess / spread)


def read(subject: Subject, metric: MetricInfo, clause: Clause, z: float) -> Reading | Problem:
    """The reading of one metric under one rule.

    Args:
        subject: the candidate, and its baseline.
        metric: of the catalogue, with an exact id.
        clause: rule and limit.
        z: normal quantile of the decision's confidence; used only for differences in which no image changed.

    Returns:
        The number with its spreads and the limit in its unit; a problem where the records hold no such number.

    Raises:
        IntegrityError: a record contradicts itself, its key, its unit or another record.
        NonFiniteError: a number is not finite.
    """
    if (clause.rule.relative or metric.paired) and (problem := _no_baseline(subject, metric)):
        return problem
    if not clause.rule.relative:
        return _absolute(subject, metric, clause)
    if metric.basis is Basis.EXACT:
        found = _exact_difference(subject, metric, clause)
    else:
        found = _paired(subject, metric, clause, z)
    return replace(found, against=subject.against) if isinstance(found, Reading) else found


def _no_baseline(subject: Subject, metric: MetricInfo) -> Problem | None:
    """Why there is nothing to compare `metric` with; None if there is."""
    noun = subject.against.noun
    if subject.baseline_id is None:
        why = f"no {noun} to compare with; measure one, or ask for absolute gates only"
        return Problem(metric.id, GateStatus.MISSING, why)
    if subject.baseline is None and subject.baseline_record is None:
        return Problem(metric.id, GateStatus.MISSING, f"the {noun} '{subject.baseline_id}' has no measurements")
    if metric.basis is not Basis.EXACT and subject.candidate.baseline != subject.baseline_id:
        against = subject.candidate.baseline or "nothing"
        return Problem(
            metric.id, GateStatus.MISSING, f"measured against '{against}', not against '{subject.baseline_id}'"
        )
    return None


def _absolute(subject: Subject, metric: MetricInfo, clause: Clause) -> Reading | Problem:
    if metric.basis is Basis.EXACT:
        value = exact_values(subject.candidate, subject.record).get(metric.id)
        if value is None:
            return _missing(metric)
        return Reading(
            metric.id, clause.rule, value, clause.limit.value, 0.0, 0.0, 1, IntervalMethod.EXACT, metric.unit, metric
        )
    stored: Measurement | Comparison | None = subject.candidate.metrics.get(metric.id)
    if stored is None and metric.paired:
        stored = subject.candidate.differences.get(metric.id)
    if stored is None:
        return _missing(metric)
    _check(stored, metric, subject.id)
    spreads = _spreads(stored)
    if spreads is None:
        return _no_uncertainty(metric)
    floor = stored.noise_floor if metric.is_ece and isinstance(stored, Measurement) else None
    value, limit, n, method = stored.estimate, clause.limit.value, _images(stored), stored.method
    return Reading(metric.id, clause.rule, value, limit, *spreads, n, method, metric.unit, metric, floor)


def _paired(subject: Subject, metric: MetricInfo, clause: Clause, z: float) -> Reading | Problem:
    stored = subject.candidate.differences.get(metric.id)
    if stored is None:
        to = " to the fp32 sibling" if subject.against is Against.SIBLING else ""
        return Problem(metric.id, GateStatus.MISSING, f"no paired difference of '{metric.id}'{to} was measured")
    _check(stored, metric, subject.id)
    spreads = _spreads(stored)
    if spreads is None:
        return _no_uncertainty(metric)
    below, above = _unseen(stored, *spreads, z)
    share = _share(clause)
    if share is not None and share != 0.0:
        own = subject.baseline.metrics.get(metric.id) if subject.baseline else None
        if own is None:
            why = f"the {subject.against.noun}'s own '{metric.id}' was not measured"
            return Problem(metric.id, GateStatus.MISSING, why)
        _check(own, metric, subject.baseline_id or "")
        of_baseline = _spreads(own)
        if of_baseline is None:
            return _no_uncertainty(metric)
        extra = abs(share) * max(of_baseline)
        below, above = below + extra, above + extra
    source = (_images(stored), _as_paired(stored.method))
    return _against(metric, clause, (stored.estimate, stored.baseline), (below, above), source)


def _images(stored: Measurement | Comparison) -> int:
    """Different images behind a number. Rows of several cells share images; the record then says how many there are."""
    return min(stored.n, int(stored.details.get("images", stored.n)))


def _as_paired(method: IntervalMethod) -> str:
    return method if method.is_paired else f"{method}, paired"


def _exact_difference(subject: Subject, metric: MetricInfo, clause: Clause) -> Reading | Problem:
    value = exact_values(subject.candidate, subject.record).get(metric.id)
    if value is None:
        return _missing(metric)
    base = exact_values(subject.baseline, subject.baseline_record).get(metric.id)
    if base is None:
        return Problem(metric.id, GateStatus.MISSING, f"the {subject.against.noun} has no '{metric.id}'")
    return _against(metric, clause, (value - base, base), (0.0, 0.0), (1, IntervalMethod.EXACT))


def _against(
    metric: MetricInfo,
    clause: Clause,
    values: tuple[float, float],
    spreads: tuple[float, float],
    source: tuple[int, str],
) -> Reading | Problem:
    """Turns (difference, baseline value) into the orientation of the rule and the limit into the metric's unit."""
    (difference, base), (below, above), (n, method), rule = values, spreads, source, clause.rule
    if rule is Rule.MAX_RATIO:
        if base <= 0.0:
            return Problem(
                metric.id, GateStatus.REFUSED, f"the baseline's '{metric.id}' is {base:g}, so there is no ratio to it"
            )
        ratio = 1.0 + difference / base
        return Reading(
            metric.id, rule, ratio, clause.limit.value, below / base, above / base, n, method, Unit.RATIO, metric,
            of=base,
        )  # fmt: skip
    if rule is Rule.MAX_DROP:
        difference, below, above = -difference, above, below
    limit = clause.limit.value * base if clause.limit.of_baseline else clause.limit.value
    of = base if clause.limit.of_baseline else None
    return Reading(metric.id, rule, difference, limit, below, above, n, method, metric.unit, metric, of=of)


def _share(clause: Clause) -> float | None:
    """The r - 1, where the limit is r times the baseline's value; None where it is absolute."""
    if clause.rule is Rule.MAX_RATIO:
        return clause.limit.value - 1.0
    return clause.limit.value if clause.limit.of_baseline else None


def _unseen(stored: Comparison, below: float, above: float, z: float) -> tuple[float, float]:
    """Where no image changed, a rate's difference still has an uncertainty: at most 1 - (1 - g)^(1/n) changed unseen.

    That is the exact one-sided (Clopper-Pearson) bound for 0 of n, the "rule of three". Without it, ten images on which
    two nets agree would prove that they agree on all.
    """
    if below > 0.0 or above > 0.0 or stored.unit is not Unit.FRACTION or stored.method is IntervalMethod.EXACT:
        return below, above
    alpha = 1.0 - NormalDist().cdf(z)
    widest = (1.0 - math.exp(math.log(alpha) / stored.n)) / z
    return widest, widest


def _check(stored: Measurement | Comparison, metric: MetricInfo, where: str) -> None:
    """A record must be about the metric it is filed under, in its unit, finite, with an interval round its estimate."""
    if stored.metric != metric.id:
        raise IntegrityError(f"'{stored.metric}' is filed as '{metric.id}'", where=where, fix="measure again")
    if stored.unit is not metric.unit:
        raise IntegrityError(
            f"'{metric.id}' is in {stored.unit.value}, not in {metric.unit.value}", where=where, fix="measure again"
        )
    numbers = (stored.estimate, stored.low, stored.high, stored.se, stored.interval_level)
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise NonFiniteError(f"'{metric.id}' is not finite", where=where, fix="measure again")
    if stored.n < 1 or (stored.se is not None and stored.se < 0) or not 0.0 < stored.interval_level < 1.0:
        raise IntegrityError(
            f"'{metric.id}' has an impossible n, se or interval level", where=where, fix="measure again"
        )
    if stored.low is not None and stored.high is not None and stored.low > stored.high:
        raise IntegrityError(f"the interval of '{metric.id}' is upside down", where=where, fix="measure again")


def _spreads(stored: Measurement | Comparison) -> tuple[float, float] | None:
    """Spread below and above the estimate, per unit of z; None where the record holds no uncertainty."""
    if stored.low is not None and stored.high is not None:
        z = NormalDist().inv_cdf((1.0 + stored.interval_level) / 2.0)
        below, above = (stored.estimate - stored.low) / z, (stored.high - stored.estimate) / z
        # The bootstrap interval of a biased estimator may lie wholly on one side of it: no certainty on the other side.
        if below < 0.0:
            below = above if stored.se is None else stored.se
        if above < 0.0:
            above = below if stored.se is None else stored.se
        return below, above
    return (stored.se, stored.se) if stored.se is not None else None


def _missing(metric: MetricInfo) -> Problem:
    return Problem(metric.id, GateStatus.MISSING, f"'{metric.id}' was not measured")


def _no_uncertainty(metric: MetricInfo) -> Problem:
    return Problem(
        metric.id, GateStatus.REFUSED, f"'{metric.id}' has no interval and no standard error; measure it again"
    )


def metrics_of(subject: Subject, metric: str) -> tuple[MetricInfo, ...]:
    """What an id or a family stands for here.

    Of a family, those that the candidate or its baseline holds: what the baseline has, the candidate must have.
    """
    if not is_family(metric):
        return (get(metric),)
    ids = set(subject.candidate.metrics) | set(subject.candidate.differences)
    if subject.baseline is not None:
        ids |= set(subject.baseline.metrics)
    return tuple(member for name in expand(metric, ids) if (member := info(name)) is not None)


def valid(item: Reading | Problem, min_samples: int, distinct: float = 1.0) -> Reading | Problem:
    """Refuses fewer different images than `min_samples`, and a limit of an ECE that a perfect model would break."""
    if isinstance(item, Problem):
        return item
    n = math.floor(item.n * distinct + 1e-9)
    if item.info.basis is Basis.IMAGES and n < min_samples:
        what = "images" if distinct == 1.0 else f"different images ({item.n:,} with copies)"
        reason = f"'{item.metric}' rests on {n:,} {what}, the policy asks for {min_samples:,}; evaluate more"
        return Problem(item.metric, GateStatus.REFUSED, reason)
    if item.noise_floor is not None and item.limit < item.noise_floor:
        (limit, floor), unit = show((item.limit, item.noise_floor), item.unit, apart=item.noise_floor)
        reason = (
            f"limit {limit}{unit} of '{item.metric}' is below its noise floor: at n={item.n:,} a perfectly calibrated "
            f"model shows up to {floor}{unit}; raise the limit or evaluate more images"
        )
        return Problem(item.metric, GateStatus.REFUSED, reason)
    return item
