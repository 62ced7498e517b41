"""What several studies measured, as points: one for each network, method and ratio, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from edgesafe.errors import NothingEvaluated
from edgesafe.records import Precision, Role
from edgesafe.report.comparison.together import is_shown, named, require_alike, unfinished
from edgesafe.study.study import Study, Variant

__all__ = ["Curve", "Point", "Spread", "curves", "titles"]


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
        study: what the study is called beside the others.
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
        """Network and method, with a comma between."""
        return f"{self.network}, {self.method}"


def titles(found: Sequence[Curve]) -> tuple[str, ...]:
    """What a figure calls each curve: network and method, and the study where another has the same."""
    plain = [curve.title for curve in found]
    return tuple(t if plain.count(t) == 1 else f"{t} ({c.study})" for t, c in zip(plain, found, strict=True))


def curves(studies: Sequence[Study]) -> tuple[Curve, ...]:
    """The curves of all studies: fp32 variants at ratios; budgets and other precisions have no place on them.

    Raises:
        UsageError: a study is given twice, or their numbers are not of the same thing; see `together`.
        NothingEvaluated: no variant at a ratio is finished.
    """
    names = named(studies)
    require_alike(studies, names)
    found = [curve for study, name in zip(studies, names, strict=True) for curve in _of(study, name)]
    if not found:
        what = "no fp32 variant at a ratio is finished, and nothing else has a place on a curve"
        raise NothingEvaluated(what, where=", ".join(names), fix="run edgesafe compress")
    return tuple(found)


def _of(study: Study, name: str) -> list[Curve]:
    entries = [e for e in study.record.variants if e.precision is Precision.FP32]
    done = {variant.id: variant for variant in study.finished() if variant.entry.precision is Precision.FP32}
    baselines = tuple(v for v in done.values() if v.entry.role is Role.BASELINE)
    network = str(study.record.recipe.get("model", {}).get("arch", "a network"))
    labels = dict.fromkeys(e.label for e in entries if is_shown(e))
    made = []
    for label in labels:
        mine = [v for v in done.values() if v.entry.label == label and is_shown(v.entry)]
        ratios = sorted({v.entry.ratio for v in mine})
        points = [Point(ratio, tuple(v for v in mine if v.entry.ratio == ratio)) for ratio in ratios]
        missing = tuple(unfinished(e) for e in entries if e.label == label and is_shown(e) and e.id not in done)
        if points:
            made.append(Curve(name, network, label, (Point(0.0, baselines), *points), missing))
    return made
