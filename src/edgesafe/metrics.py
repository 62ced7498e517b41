"""The catalogue of metrics: every id that edgesafe measures, with its unit, direction, basis and title.

Measuring, policy, report and terminal all look here; no other module holds a table of units, titles or directions.
An id that is not here can be neither measured nor gated, so a misspelt id is an error when the policy is read and not a
gate that quietly never runs.

To add a metric, add one line to `_CATALOGUE`. Its id may hold one parameter, and then stands for as many metrics as the
parameter has values:

    Quantity("certified_accuracy.<set>", "Certified accuracy", _FRACTION, True, _IMAGES)

`info("certified_accuracy.brightness=2")` then knows unit, direction and title ("Certified accuracy, brightness=2"), and
a policy may name that id or the whole family, "certified_accuracy.*". The parameters are in `_PARAMETERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import TaskKind, Unit

__all__ = [
    "DECIMALS",
    "FILE_SIZES",
    "SHIPPED_BYTES",
    "Basis",
    "MetricInfo",
    "Rule",
    "expand",
    "get",
    "info",
    "is_family",
    "is_of_certificates",
    "known",
    "members",
    "title",
    "value_range",
]

#: The four corruptions that CIFAR-10-C holds beside the fifteen of the benchmark.
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)

#: File of a variant -> the metric that is its size in bytes.
FILE_SIZES = {
    "model.onnx": "size.onnx_bytes",
    "model.sparse.onnx": "size.sparse_onnx_bytes",
}
#: The smallest of these, which have the same outputs bit for bit: what goes to the device. Derived, stored nowhere.
SHIPPED_BYTES = "size.shipped_bytes"

#: Decimals shown of a number in the unit that people read (percent for fractions, kB for bytes).
DECIMALS: dict[Unit, int] = {
    Unit.FRACTION: 2,
    Unit.NATS: 4,
    Unit.SCORE: 4,
    Unit.MS: 3,
    Unit.RATIO: 3,
    Unit.BYTES: 1,
    Unit.COUNT: 0,
    Unit.LOGIT: 6,
    Unit.PIXELS: 2,
}


class Rule(StrEnum):
    """What a gate limits. All but MIN are upper limits: the larger the number, the worse."""

    MAX = "max"  #: the value itself
    MIN = "min"  #: the value itself, from below
    MAX_DROP = "max_drop"  #: baseline minus candidate
    MAX_INCREASE = "max_increase"  #: candidate minus baseline
    MAX_RATIO = "max_ratio"  #: candidate divided by baseline

    @property
    def relative(self) -> bool:
        """Whether the rule compares with a baseline."""
        return self not in (Rule.MAX, Rule.MIN)


class Basis(StrEnum):
    """What a metric is estimated from, which decides whether it has an interval."""

    IMAGES = "images"  #: `n` images: it has an interval, and policy's min_samples applies
    RUNS = "runs"  #: `n` timed runs: it has an interval
    EXACT = "exact"  #: counted, not estimated


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric before anything is measured.

    Attributes:
        id: "accuracy", "mpc.corruption.fog", …
        title: for people, as the report shows it: "Accuracy", "mPC, fog".
        unit: of its value.
        higher_is_better: the direction.
        basis: what it is estimated from.
        paired: it is itself a comparison with the baseline ("latency.ratio", "flips").
        is_ece: an expected calibration error: biased upwards at small n, so it has a noise floor.
        comparable: its difference to the baseline makes sense; latencies are compared by "latency.ratio" alone.
        tasks: the kinds of task that have it.
    """

    id: str
    title: str
    unit: Unit
    higher_is_better: bool
    basis: Basis
    paired: bool = False
    is_ece: bool = False
    comparable: bool = True
    tasks: frozenset[TaskKind] = frozenset(TaskKind)

    @property
    def decimals(self) -> int:
        """Number of decimals shown, in the unit that people read (percent for fractions, kB for bytes)."""
        return DECIMALS[self.unit]

    def rules(self) -> tuple[Rule, ...]:
        """The rules that this metric can be put under."""
        if self.paired or not self.comparable:
            return (Rule.MIN,) if self.higher_is_better else (Rule.MAX,)
        if self.higher_is_better:
            return (Rule.MIN, Rule.MAX_DROP)
        return (Rule.MAX, Rule.MAX_INCREASE, Rule.MAX_RATIO)


def value_range(unit: Unit, *, difference: bool = False) -> tuple[float, float]:
    """The least and the greatest value that a metric in `unit`, or a difference of two of them, can have.

    No metric is negative, and no rate is above 1. A bound of an interval beyond the range says nothing, so bounds are
    clipped to it before they are shown or decided on.
    """
    top = 1.0 if unit is Unit.FRACTION else float("inf")
    return (-top if difference else 0.0), top


# --------------------------------------------------------------------------------------------------- the catalogue


@dataclass(frozen=True)
class Form:
    """A variation of a metric: what is added to its id and to its title."""

    suffix: str
    title: str


_PLAIN = (Form("", ""),)
_BY_SEVERITY = tuple(Form(f".severity.{s}", f", severity {s}") for s in SEVERITIES)
_BY_CORRUPTION = tuple(Form(f".corruption.{c}", f", {c.replace('_', ' ')}") for c in (*CORRUPTIONS, *EXTRA_CORRUPTIONS))
_BY_CELL = tuple(
    Form(f".{c}.{s}", f", {c.replace('_', ' ')}, severity {s}")
    for c in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    for s in SEVERITIES
)
_AND_SIBLING = (*_PLAIN, Form(".sibling", ", to the fp32 sibling"))  # of what is not fp32: the same weights in fp32
_CORRUPTED = (*_PLAIN, *_BY_SEVERITY, *_BY_CORRUPTION)
_SEEN = (*_CORRUPTED, Form(".corrupted", ", under corruption"))
_EVERYWHERE = (*_CORRUPTED, Form(".calibrated", " after temperature"))


@dataclass(frozen=True)
class Quantity:
    """One line of the catalogue: a quantity, and the forms in which it is measured. See `MetricInfo` for the rest.

    Attributes:
        id: may hold one parameter of `_PARAMETERS`, such as "<set>".
        forms: the ids measured are `id` with each form's suffix.
    """

    id: str
    title: str
    unit: Unit
    higher_is_better: bool
    basis: Basis
    forms: tuple[Form, ...] = _PLAIN
    paired: bool = False
    is_ece: bool = False
    comparable: bool = True
    tasks: frozenset[TaskKind] = frozenset(TaskKind)

    def info(self, form: Form) -> MetricInfo:
        """The metric in one of its forms: the form's suffix is added to the id, its title to the title."""
        return MetricInfo(
            self.id + form.suffix, self.title + form.title, self.unit, self.higher_is_better, self.basis, self.paired,
            self.is_ece, self.comparable, self.tasks,
        )  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """The part of an id that differs between the metrics of one quantity: what it may be, and its usual values."""

    pattern: str
    usual: tuple[str, ...] = ()
    percent: bool = False  #: shown as a percentage in titles


_PARAMETERS = {
    "<confidence>": Parameter(r"0\.(?!0+\b)\d{1,4}", ("0.9",), percent=True),
    "<px>": Parameter(r"[1-9]\d{0,2}", ("1", "2", "3")),
    "<set>": Parameter(r"[a-z0-9][a-z0-9_=%,.+-]*"),  # of perturbations: "brightness=2", "jpeg=50..95"
}

_FRACTION, _COUNT, _BYTES, _MS = Unit.FRACTION, Unit.COUNT, Unit.BYTES, Unit.MS
_IMAGES, _RUNS, _EXACT = Basis.IMAGES, Basis.RUNS, Basis.EXACT
_CLASSES, _POINTS = frozenset({TaskKind.CLASSIFICATION}), frozenset({TaskKind.KEYPOINTS})
_CATALOGUE = (
    Quantity("accuracy", "Accuracy", _FRACTION, True, _IMAGES, (*_PLAIN, *_BY_CELL)),
    Quantity("mpc", "mPC", _FRACTION, True, _IMAGES, _CORRUPTED),
    Quantity("flips", "Flips", _FRACTION, False, _IMAGES, _AND_SIBLING, paired=True),
    Quantity("ece_em10_top1", "ECE", _FRACTION, False, _IMAGES, _EVERYWHERE, is_ece=True, tasks=_CLASSES),
    Quantity("nll", "NLL", Unit.NATS, False, _IMAGES, _EVERYWHERE, tasks=_CLASSES),
    Quantity("brier", "Brier score", Unit.SCORE, False, _IMAGES, _EVERYWHERE, tasks=_CLASSES),
    Quantity("aurc", "AURC", Unit.SCORE, False, _IMAGES, _EVERYWHERE, tasks=_CLASSES),
    Quantity("mce", "MCE", _FRACTION, False, _IMAGES, _EVERYWHERE, tasks=_CLASSES),
    Quantity("ece_classwise", "Classwise ECE", _FRACTION, False, _IMAGES, _EVERYWHERE, tasks=_CLASSES),
    Quantity(
        "high_conf_error@<confidence>", "Wrong above <confidence> confidence", _FRACTION, False, _IMAGES,
        _EVERYWHERE, tasks=_CLASSES,
    ),
    Quantity("certified_accuracy.<set>", "Certified accuracy, <set>", _FRACTION, True, _IMAGES),
    Quantity("falsified.<set>", "Falsified, <set>", _FRACTION, False, _IMAGES),
    Quantity("unknown.<set>", "Neither certified nor falsified, <set>", _FRACTION, False, _IMAGES),
    Quantity("certified_agreement.<set>", "Certified agreement, <set>", _FRACTION, True, _IMAGES, paired=True),
    Quantity("certified_points.<set>", "Certified keypoints, <set>", _FRACTION, True, _IMAGES, tasks=_POINTS),
    Quantity("certify.cpu_ms.<set>", "CPU time of certifying an image, <set>", _MS, False, _RUNS, comparable=False),
    Quantity("pck@<px>", "Keypoints within <px> px", _FRACTION, True, _IMAGES, _SEEN, tasks=_POINTS),
    Quantity("error.mean_px", "Keypoint error, mean", Unit.PIXELS, False, _IMAGES, _SEEN, tasks=_POINTS),
    Quantity("latency.p50_ms", "Latency, median", _MS, False, _RUNS, comparable=False),
    Quantity("latency.p90_ms", "Latency, 90th percentile", _MS, False, _RUNS, comparable=False),
    Quantity("latency.min_ms", "Latency, minimum", _MS, False, _EXACT, comparable=False),
    Quantity("latency.ratio", "Latency ratio", Unit.RATIO, False, _RUNS, _AND_SIBLING, paired=True),
    Quantity("memory.peak_bytes", "Peak memory", _BYTES, False, _EXACT),
    Quantity("size.onnx_bytes", "ONNX file", _BYTES, False, _EXACT),
    Quantity("size.sparse_onnx_bytes", "Sparse ONNX file", _BYTES, False, _EXACT),
    Quantity(SHIPPED_BYTES, "ONNX file that ships", _BYTES, False, _EXACT),
    Quantity("size.params", "Parameters", _COUNT, False, _EXACT),
    Quantity("macs", "MACs", _COUNT, False, _EXACT),
    Quantity("sparsity", "Sparsity", _FRACTION, True, _EXACT),
    Quantity("parity.max_abs_logit", "Parity, largest logit difference", Unit.LOGIT, False, _EXACT, comparable=False),
)  # fmt: skip


def _parameter(metric: str) -> str:
    """The parameter in an id of the catalogue, such as "<set>"; "" if it has none."""
    return next((name for name in _PARAMETERS if name in metric), "")


def _filled(template: MetricInfo, name: str, value: str) -> MetricInfo:
    """The metric of a template whose parameter `name` has this value; a percentage is shown as one in the title."""
    shown = f"{100 * float(value):g} %" if _PARAMETERS[name].percent else value
    return replace(template, id=template.id.replace(name, value), title=template.title.replace(name, shown))


def _listed() -> Iterator[MetricInfo]:
    for quantity in _CATALOGUE:
        name = _parameter(quantity.id)
        for form in quantity.forms:
            metric = quantity.info(form)
            values = _PARAMETERS[name].usual if name else ()
            yield from (_filled(metric, name, value) for value in values) if values else (metric,)


@lru_cache(maxsize=1)
def known() -> dict[str, MetricInfo]:
    """The catalogue by id, in a fixed order: what has no parameter, and of the others the usual values.

    A quantity without usual values stands in it with its parameter ("falsified.<set>"), which `info` does not accept.
    """
    return {metric.id: metric for metric in _listed()}


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[re.Pattern[str], str, MetricInfo], ...]:
    """For each id with a parameter: the ids that it stands for, the parameter, the metric."""
    out = []
    for quantity in _CATALOGUE:
        if name := _parameter(quantity.id):
            for form in quantity.forms:
                template = quantity.info(form)
                before, _, after = template.id.partition(name)
                pattern = f"{re.escape(before)}({_PARAMETERS[name].pattern}){re.escape(after)}"
                out.append((re.compile(pattern), name, template))
    return tuple(out)


@lru_cache(maxsize=4096)
def info(metric: str) -> MetricInfo | None:
    """What is known of `metric` (an exact id), or None if it is not a metric."""
    if "<" in metric:
        return None
    if metric in known():
        return known()[metric]
    matches = ((pattern.fullmatch(metric), name, template) for pattern, name, template in _templates())
    return next((_filled(template, name, match[1]) for match, name, template in matches if match), None)


def get(metric: str) -> MetricInfo:
    """As `info`, for code that measures: an id that is not in the catalogue is a defect of that code.

    Raises:
        KeyError: not in the catalogue.
    """
    if (entry := info(metric)) is None:
        raise KeyError(f"'{metric}' is not in the catalogue of metrics")
    return entry


def title(metric: str) -> str:
    """An id or family for people: "mPC, fog", "mPC, each corruption"; "" if it is unknown."""
    if (entry := info(metric)) is not None:
        return entry.title
    matching = members(metric)
    if not matching:
        return ""
    if len(matching) == 1:
        return re.sub(r"<[a-z]+>", "each", matching[0].title)
    what = "each corruption" if ".corruption." in metric else "each severity" if ".severity." in metric else "each"
    return f"{matching[0].title.partition(',')[0]}, {what}"


# -------------------------------------------------------------------------------------------------------- families


def is_family(metric: str) -> bool:
    """Whether `metric` stands for several, such as "mpc.corruption.*"."""
    return "*" in metric


def is_of_certificates(metric: str) -> bool:
    """Whether an id or family is about what was certified: "falsified.jpeg=50..95", "certified_accuracy.*"."""
    return metric.startswith(("certified_", "falsified.", "unknown."))


def expand(pattern: str, ids: Iterable[str]) -> tuple[str, ...]:
    """Those of `ids` that the family `pattern` covers, sorted.

    A `*` stands for one part between dots, or for a whole parameter: "falsified.*" covers "falsified.jpeg=50..95".
    """
    stem = pattern.partition("*")[0]
    is_parameter = any(metric.id.startswith(f"{stem}<") for _, _, metric in _templates()) if stem else False
    regex = re.compile(re.escape(pattern).replace(r"\*", r".+" if is_parameter else r"[^.]+"))
    return tuple(sorted({metric for metric in ids if regex.fullmatch(metric)}))


def members(metric: str) -> tuple[MetricInfo, ...]:
    """The metrics of the catalogue that an id or a family stands for; empty if it is unknown."""
    if is_family(metric):
        return tuple(known()[name] for name in expand(metric, known()))
    entry = info(metric)
    return (entry,) if entry else ()
