"""What a report is made from, and what it is made into: the study as the store hands it over, grouped for reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt

from edgesafe.errors import (
    IntegrityError,
    NonFiniteError,
    NothingEvaluated,
    StoreError,
)
from edgesafe.records import (
    Comparison,
    Evidence,
    GateStatus,
    Measurement,
    Measurements,
    StudyRecord,
    Unit,
    VariantEntry,
    VariantRecord,
    Verdict,
)

__all__ = ["BASELINE", "Group", "ReportFiles", "Series", "StudyView", "Value", "grouped"]

BASELINE = "baseline"
_SEED = re.compile(r"-s\d+$")
_RATIO = re.compile(r"-r\d+(?:\.\d+)?$")


@dataclass(frozen=True)
class StudyView:
    """A study as the store hands it over. Nothing here is computed; `evidence` may load lazily.

    Attributes:
        study: study.json.
        variants: the finished variants.
        measurements: by variant id; a variant without an entry is shown as "not measured".
        evidence: by variant id; each is asked for a bounded number of times and not kept.
        verdict: of the gate, or None: then the page says how to run it.
        samples: PNG bytes of a contact sheet (corruptions x severities of one test image), or None.
        path: the study directory as the user would type it, for the command lines on the page.
    """

    study: StudyRecord
    variants: tuple[VariantRecord, ...]
    measurements: Mapping[str, Measurements]
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    verdict: Verdict | None = None
    samples: bytes | None = None
    path: str = ""

    def variant(self, variant_id: str) -> VariantRecord | None:
        """The finished variant of that id, or None."""
        return next((v for v in self.variants if v.id == variant_id), None)

    def baseline_of(self, variant: VariantRecord) -> VariantRecord | None:
        """What `variant` is compared with: the recorded baseline, else the one of its seed, else none."""
        measured = self.measurements.get(variant.id)
        if measured is not None and measured.baseline:
            return self.variant(measured.baseline)
        if variant.method == BASELINE:
            return None
        return next((v for v in self.variants if v.method == BASELINE and v.seed == variant.seed), None)

    def unfinished(self) -> tuple[VariantEntry, ...]:
        """Entries of the study that have no variant record: refused or pending."""
        done = {v.id for v in self.variants}
        return tuple(e for e in self.study.variants if e.id not in done)

    def check(self) -> None:
        """Refuse a study that cannot be reported honestly.

        Raises:
            NothingEvaluated: no finished variant.
            StoreError: two variants of one id, or measurements or verdicts of a variant that is not there.
            IntegrityError: measurements taken on a file that is not the variant's.
            NonFiniteError: a NaN or an infinity among the metrics.
        """
        if not self.variants:
            raise NothingEvaluated(
                "the study holds no finished variant", where=self.study.name, fix="run `edgesafe compress` to the end"
            )
        ids = [v.id for v in self.variants]
        if doubled := sorted({i for i in ids if ids.count(i) > 1}):
            raise StoreError("two variants have one id", where=doubled[0], fix="run the study again in a new directory")
        for name in self.measurements:
            variant = self.variant(name)
            if variant is None:
                raise StoreError("measurements of a variant that the study does not hold", where=name)
            _check_measured(variant, self.measurements[name])
        known = {*ids, *(e.id for e in self.study.variants)}
        if self.verdict is not None and (strange := sorted({g.variant for g in self.verdict.gates} - known)):
            raise StoreError(
                "the verdict judges a variant that the study does not hold",
                where=strange[0],
                fix="run `edgesafe gate` on this study again",
            )


def _check_measured(variant: VariantRecord, measured: Measurements) -> None:
    """Same file, finite numbers."""
    hashes = {a.sha256 for a in variant.artefacts if a.file.endswith(".onnx")}
    if hashes and measured.onnx_sha256 not in hashes:
        raise IntegrityError(
            "the measurements were taken on another ONNX file than the one recorded",
            where=variant.id,
            fix="run `edgesafe compress` again: it measures what is there",
        )
    both: Iterable[Measurement | Comparison] = (*measured.metrics.values(), *measured.differences.values())
    for m in both:
        if not all(isfinite(x) for x in (m.estimate, m.low, m.high) if x is not None):
            raise NonFiniteError("not a finite number", where=f"{variant.id}: {m.metric}", fix="measure it again")


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

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the others are compared with."""
        return self.method == BASELINE

    @property
    def first(self) -> VariantRecord:
        """The variant of the lowest seed."""
        return self.members[0]

    @property
    def label(self) -> str:
        """For people: "weight 50 %"."""
        if self.is_baseline:
            return BASELINE
        if self.ratio <= 0.0:
            return self.key
        return f"{self.series.replace('_', ' ')} {self.ratio * 100:g} %"

    def value(self, view: StudyView, metric: str) -> Value | None:
        """The metric over the seeds that have it; None: not measured."""
        found = [
            m.metrics[metric]
            for v in self.members
            if (m := view.measurements.get(v.id)) is not None and metric in m.metrics
        ]
        return _pooled(metric, found)

    def difference(self, view: StudyView, metric: str) -> Value | None:
        """The paired difference to the baseline over the seeds that have it."""
        found: list[Comparison] = [
            m.differences[metric]
            for v in self.members
            if (m := view.measurements.get(v.id)) is not None and metric in m.differences
        ]
        return _pooled(metric, found)

    def status(self, view: StudyView) -> GateStatus | None:
        """The worst of its gates of level "error" over all seeds; None: not gated."""
        ids = {v.id for v in self.members}
        if view.verdict is None:
            return None
        seen = {g.status for g in view.verdict.gates if g.variant in ids and g.level == "error"}
        worst = (
            GateStatus.REFUSED,
            GateStatus.MISSING,
            GateStatus.FAIL,
            GateStatus.INCONCLUSIVE,
            GateStatus.WAIVED,
            GateStatus.PASS,
        )
        return next((s for s in worst if s in seen), None)


def _pooled(metric: str, found: list[Measurement] | list[Comparison]) -> Value | None:
    """Mean and spread over seeds, or the single seed's own interval."""
    if not found:
        return None
    first, k = found[0], len(found)
    bounds = [(m.low, m.high) for m in found if m.low is not None and m.high is not None]
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
    mean = sum(m.estimate for m in found) / k
    sd = sqrt(sum((m.estimate - mean) ** 2 for m in found) / (k - 1))
    exact = all(m.low is None for m in found) and sd == 0.0
    floors = [m.noise_floor for m in found if isinstance(m, Measurement) and m.noise_floor is not None]
    return Value(
        metric,
        mean,
        None if exact else mean - sd,
        None if exact else mean + sd,
        first.unit,
        k,
        min(m.n for m in found),
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


def grouped(view: StudyView) -> tuple[tuple[Group, ...], tuple[Series, ...]]:
    """All groups (baseline first, then by series and ratio) and the series of compressed ones.

    Groups follow the variant ids (`weight-r0.50-s0` belongs to `weight-r0.50`), so labels of the recipe are kept apart.
    """
    members: dict[str, list[VariantRecord]] = {}
    for variant in view.variants:
        key = BASELINE if variant.method == BASELINE else _SEED.sub("", variant.id)
        members.setdefault(key, []).append(variant)
    groups = []
    for key, found in members.items():
        ordered = tuple(sorted(found, key=lambda v: (v.seed, v.id)))
        first = ordered[0]
        series = BASELINE if first.method == BASELINE else _RATIO.sub("", key)
        groups.append(Group(key, series, first.method, first.ratio, ordered))
    order = ("baseline", "weight", "filter", "channel", "random")

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
