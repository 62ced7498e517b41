"""What several studies measured, as points: one for each network, method and ratio, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from edgesafe.errors import NothingEvaluated, UsageError
from edgesafe.records import Precision, Role
from edgesafe.study.study import Study, Variant

__all__ = ["Curve", "Point", "Spread", "curves"]


@dataclass(frozen=True)
class Spread:
    """A metric over seeds.

    Attributes:
        mean: of the seeds' estimates.
        sd: their sample standard deviation; None for one seed.
        seeds: how many.
    """

    mean: float
    sd: float | None
    seeds: int


@dataclass(frozen=True)
class Point:
    """One ratio of a curve; 0 is the unpruned network.

    Attributes:
        ratio: share removed, in [0, 1).
        variants: one for each seed.
    """

    ratio: float
    variants: tuple[Variant, ...]

    def spread(self, metric: str) -> Spread | None:
        """A metric over the seeds; None: no seed measured it."""
        values = [v.metrics[metric].estimate for v in self.variants if metric in v.metrics]
        if not values:
            return None
        return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Curve:
    """A method on a network, by rising ratio.

    Attributes:
        study: the study's name.
        network: architecture.
        method: the series' label, for people.
        points: the unpruned network first.
        missing: variants that the study asks for and does not hold, with the reason.
    """

    study: str
    network: str
    method: str
    points: tuple[Point, ...]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        """What a figure calls the points: network and method, with a comma between."""
        return f"{self.network}, {self.method}"


def curves(studies: Sequence[Study]) -> tuple[Curve, ...]:
    """The curves of all studies: fp32 variants at ratios; budgets and other precisions have no place on them.

    Raises:
        UsageError: two studies of one name, or of different test images.
        NothingEvaluated: no variant at a ratio is finished.
    """
    names = [study.record.name for study in studies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError("two studies have this name", where=twice, fix="give each study once, or --set name=… of one")
    tests = {study.record.data.test_sha256 for study in studies}
    if len(tests) > 1:
        what = "measured on different test images: nothing can be compared"
        raise UsageError(what, where=", ".join(names), fix="compare studies of one data set and data.test_images")
    found = [curve for study in studies for curve in _of(study)]
    if not found:
        raise NothingEvaluated("no pruned variant is finished", where=", ".join(names), fix="run edgesafe compress")
    return tuple(found)


def _of(study: Study) -> list[Curve]:
    entries = [e for e in study.record.variants if e.precision is Precision.FP32]
    done = {variant.id: variant for variant in study.finished() if variant.entry.precision is Precision.FP32}
    baselines = tuple(v for v in done.values() if v.entry.role is Role.BASELINE)
    network = str(study.record.recipe.get("model", {}).get("arch", "a network"))
    labels = dict.fromkeys(e.label for e in entries if e.role is Role.CANDIDATE and e.ratio > 0)
    made = []
    for label in labels:
        mine = [v for v in done.values() if v.entry.label == label and v.entry.ratio > 0]
        ratios = sorted({v.entry.ratio for v in mine})
        points = [Point(ratio, tuple(v for v in mine if v.entry.ratio == ratio)) for ratio in ratios]
        missing = tuple(
            f"{e.id} ({e.status.value}{': ' + e.reason if e.reason else ''})"
            for e in entries
            if e.label == label and e.id not in done
        )
        if points:
            made.append(Curve(study.record.name, network, label, (Point(0.0, baselines), *points), missing))
    return made
