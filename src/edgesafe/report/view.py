"""What a report is made from, and what it is made into: a study, grouped for reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, sqrt

from edgesafe.display import worst
from edgesafe.errors import NonFiniteError, StoreError
from edgesafe.records import (
    Certificates,
    Comparison,
    Evidence,
    GateStatus,
    Measurement,
    Measurements,
    Unit,
    VariantEntry,
    VariantRecord,
    VariantStatus,
    Verdict,
)
from edgesafe.study.study import Study, Variant

__all__ = ["Group", "ReportFiles", "Series", "Value", "View", "grouped"]


@dataclass(frozen=True)
class View:
    """A study and what a report shows beside it. Nothing here is computed; `evidence` may load lazily.

    Attributes:
        study: verified.
        evidence: by variant id; each is asked for a bounded number of times and not kept.
        verdict: of the gate, or None: then the page says how to run it.
        samples: PNG bytes of a contact sheet (corruptions x severities of one test image), or None.
        certificates: by variant id, of those that were certified.
    """

    study: Study
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    verdict: Verdict | None = None
    samples: bytes | None = None
    certificates: Mapping[str, Certificates] = field(default_factory=dict)

    @cached_property
    def variants(self) -> tuple[VariantRecord, ...]:
        """The records of the finished variants, in the study's order."""
        return tuple(self.study.records().values())

    @cached_property
    def measurements(self) -> Mapping[str, Measurements]:
        """By variant id; a variant without an entry is shown as "not measured"."""
        return self.study.measurements()

    def baseline_of(self, variant: VariantRecord) -> VariantRecord | None:
        """What `variant` is compared with, or None."""
        baseline = self.study[variant.id].entry.baseline
        return self.study.records().get(baseline) if baseline is not None else None

    def unfinished(self) -> tuple[VariantEntry, ...]:
        """Entries of the study that have no results: refused or pending."""
        return tuple(entry for entry in self.study.record.variants if entry.status is not VariantStatus.DONE)

    def check(self) -> None:
        """Refuse what cannot be reported honestly.

        Raises:
            NothingEvaluated: no finished variant.
            StoreError: a verdict on a variant that is not there.
            NonFiniteError: a NaN or an infinity among the metrics.
        """
        self.study.finished()
        for name, measured in self.measurements.items():
            _check_finite(name, measured)
        if self.verdict is not None and (strange := sorted({g.variant for g in self.verdict.gates} - set(self.study))):
            raise StoreError(
                "the verdict judges a variant that the study does not hold",
                where=strange[0],
                fix="run `edgesafe gate` on this study again",
            )


def _check_finite(name: str, measured: Measurements) -> None:
    both: Iterable[Measurement | Comparison] = (
        *measured.metrics.values(), *measured.differences.values(), *measured.sibling_differences.values()
    )  # fmt: skip
    for m in both:
        if not all(isfinite(x) for x in (m.estimate, m.low, m.high) if x is not None):
            raise NonFiniteError("not a finite number", where=f"{name}: {m.metric}", fix="measure it again")


@dataclass(frozen=True)
class ReportFiles:
    """The report: contents of index.html, report.md, results.csv and results.json."""

    html: str
    markdown: str
    csv: str
    json: str


@dataclass(frozen=True)
class Value:
    """A metric of a group: one seed's estimate and interval, or the mean of several seeds and their spread.

    Attributes:
        estimate, low, high: in `unit`. One seed: the measurement's interval. Several: mean -/+ one sample standard
            deviation over seeds (as in the paper). None where the number is exact.
        seeds: how many seeds it rests on.
        outer: the outermost bounds of the seeds' own intervals; None where a seed has none.
        se: standard error of one seed's estimate; None where the number is exact, and of a mean over seeds, whose
            spread is `low` to `high`.
    """

    metric: str
    estimate: float
    low: float | None
    high: float | None
    unit: Unit
    seeds: int
    n: int
    method: str
    noise_floor: float | None = None
    outer: tuple[float, float] | None = None
    se: float | None = None

    @property
    def spread(self) -> str:
        """What `low` and `high` are, in words."""
        if self.low is None or self.high is None:
            return "exact" if self.seeds == 1 else "mean of seeds"
        return "mean ± standard deviation over seeds" if self.seeds > 1 else f"95 % interval ({self.method})"


@dataclass(frozen=True)
class Group:
    """The variants that differ by seed only: one row of the tables, one point of the figures."""

    key: str  #: "weight-r0.50", or "baseline"
    series: str  #: "weight": its method, or the recipe's label
    method: str
    ratio: float
    members: tuple[VariantRecord, ...]  #: by seed
    is_baseline: bool = False  #: whether this is what the others are compared with

    @property
    def first(self) -> VariantRecord:
        """The member with the lowest seed, which stands for the group where one file must be shown."""
        return self.members[0]

    @property
    def label(self) -> str:
        """The group's name as tables and figures show it, such as "weight 50 %"."""
        if self.is_baseline:
            return self.series
        if self.ratio <= 0.0:
            return self.key
        return f"{self.series.replace('_', ' ')} {self.ratio * 100:g} %"

    def value(self, view: View, metric: str) -> Value | None:
        """The metric over the seeds that have it; None: not measured."""
        measurements = [
            m.metrics[metric]
            for v in self.members
            if (m := view.measurements.get(v.id)) is not None and metric in m.metrics
        ]
        return _pooled(metric, measurements)

    def difference(self, view: View, metric: str) -> Value | None:
        """The paired difference to the baseline over the seeds that have it."""
        comparisons: list[Comparison] = [
            m.differences[metric]
            for v in self.members
            if (m := view.measurements.get(v.id)) is not None and metric in m.differences
        ]
        return _pooled(metric, comparisons)

    def sibling_difference(self, view: View, metric: str) -> Value | None:
        """The paired difference to the fp32 siblings over the seeds that have it; None where these are fp32."""
        measured = [m for v in self.members if (m := view.measurements.get(v.id)) is not None]
        return _pooled(metric, [m.sibling_differences[metric] for m in measured if metric in m.sibling_differences])

    def status(self, view: View) -> GateStatus | None:
        """The worst of its gates of level "error" over all seeds; None: not gated."""
        ids = {v.id for v in self.members}
        if view.verdict is None:
            return None
        return worst(g.status for g in view.verdict.gates if g.variant in ids and g.level == "error")


def _pooled(metric: str, estimates: list[Measurement] | list[Comparison]) -> Value | None:
    """Mean and spread over seeds, or the single seed's own interval."""
    if not estimates:
        return None
    first, k = estimates[0], len(estimates)
    bounds = [(m.low, m.high) for m in estimates if m.low is not None and m.high is not None]
    outer = (min(b[0] for b in bounds), max(b[1] for b in bounds)) if len(bounds) == k else None
    if k == 1:
        floor = first.noise_floor if isinstance(first, Measurement) else None
        return Value(
            metric,
            first.estimate,
            first.low,
            first.high,
            first.unit,
            1,
            first.n,
            first.method,
            floor,
            outer,
            first.se,
        )
    mean = sum(m.estimate for m in estimates) / k
    sd = sqrt(sum((m.estimate - mean) ** 2 for m in estimates) / (k - 1))
    exact = all(m.low is None for m in estimates) and sd == 0.0
    floors = [m.noise_floor for m in estimates if isinstance(m, Measurement) and m.noise_floor is not None]
    return Value(
        metric,
        mean,
        None if exact else mean - sd,
        None if exact else mean + sd,
        first.unit,
        k,
        min(m.n for m in estimates),
        "seeds",
        max(floors) if floors else None,
        outer,
        None,
    )


@dataclass(frozen=True)
class Series:
    """The groups of one method (or label), by rising ratio: one line of the figures."""

    name: str
    method: str
    groups: tuple[Group, ...]


def grouped(view: View) -> tuple[tuple[Group, ...], tuple[Series, ...]]:
    """All groups (baseline first, then by series and ratio) and the series of compressed ones."""
    members: dict[str, list[Variant]] = {}
    for variant in view.study.values():
        if variant.recorded is not None:
            members.setdefault(variant.entry.group, []).append(variant)
    groups = []
    for key, seeds in members.items():
        ordered = sorted(seeds, key=lambda v: (v.entry.seed, v.id))
        first = ordered[0].entry
        series = first.label if first.ratio > 0.0 or first.is_baseline else key
        records = tuple(variant.record for variant in ordered)
        groups.append(Group(key, series, first.method, first.ratio, records, first.is_baseline))
    order = ("baseline", "weight", "filter", "channel", "usn", "random")

    def rank(group: Group) -> tuple[int, int, str, float, str]:
        known = order.index(group.method) if group.method in order else len(order)
        return (0 if group.is_baseline else 1, known, group.series, group.ratio, group.key)

    groups.sort(key=rank)
    names = dict.fromkeys(g.series for g in groups if not g.is_baseline)
    lines = tuple(
        Series(name, next(g.method for g in groups if g.series == name), tuple(g for g in groups if g.series == name))
        for name in names
    )
    return tuple(groups), lines
