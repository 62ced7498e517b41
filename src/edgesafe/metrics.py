"""The metrics that a policy may name: unit, direction, what the number rests on, and which rules make sense for it.

Ids are those of the design, section 4. A metric that is not here cannot be gated, so a misspelt id is an error when the
policy is read and not a gate that quietly never runs. A family is an id with `*` for one or more dotted parts, such as
"mpc.corruption.*".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import Unit

__all__ = ["Basis", "MetricInfo", "Rule", "expand", "info", "is_family", "known", "members", "nearest"]

#: The four corruptions that CIFAR-10-C holds beside the fifteen of the benchmark.
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)


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
    """What a metric is estimated from."""

    IMAGES = "images"  #: `n` images: it has an interval, and policy's min_samples applies
    RUNS = "runs"  #: `n` timed runs: it has an interval
    EXACT = "exact"  #: counted, not estimated


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric before anything is measured.

    Attributes:
        id: "accuracy", "mpc.corruption.fog", …
        unit: of its value.
        higher_is_better: the direction.
        basis: what it is estimated from.
        paired: it is itself a comparison with the baseline ("latency.ratio", "flips").
        is_ece: an expected calibration error: biased upwards at small n, so it has a noise floor.
    """

    id: str
    unit: Unit
    higher_is_better: bool
    basis: Basis
    paired: bool = False
    is_ece: bool = False

    def rules(self) -> tuple[Rule, ...]:
        """The rules that this metric can be put under."""
        if self.paired or self.id.startswith(("latency.", "parity.")):
            return (Rule.MAX,)
        if self.higher_is_better:
            return (Rule.MIN, Rule.MAX_DROP)
        return (Rule.MAX, Rule.MAX_INCREASE, Rule.MAX_RATIO)


_IMAGES, _RUNS, _EXACT = Basis.IMAGES, Basis.RUNS, Basis.EXACT
_BASES: tuple[tuple[str, Unit, bool], ...] = (
    ("ece_em10_top1", Unit.FRACTION, False),
    ("nll", Unit.NATS, False),
    ("brier", Unit.SCORE, False),
    ("aurc", Unit.SCORE, False),
    ("mce", Unit.FRACTION, False),
    ("ece_classwise", Unit.FRACTION, False),
    ("high_conf_error@0.9", Unit.FRACTION, False),
)
_SINGLES = (
    MetricInfo("accuracy", Unit.FRACTION, True, _IMAGES),
    MetricInfo("mpc", Unit.FRACTION, True, _IMAGES),
    MetricInfo("flips", Unit.FRACTION, False, _IMAGES, paired=True),
    MetricInfo("latency.p50_ms", Unit.MS, False, _RUNS),
    MetricInfo("latency.p90_ms", Unit.MS, False, _RUNS),
    MetricInfo("latency.min_ms", Unit.MS, False, _EXACT),
    MetricInfo("latency.ratio", Unit.RATIO, False, _RUNS, paired=True),
    MetricInfo("size.onnx_bytes", Unit.BYTES, False, _EXACT),
    MetricInfo("size.sparse_onnx_bytes", Unit.BYTES, False, _EXACT),
    MetricInfo("size.params", Unit.COUNT, False, _EXACT),
    MetricInfo("macs", Unit.COUNT, False, _EXACT),
    MetricInfo("sparsity", Unit.FRACTION, True, _EXACT),
    MetricInfo("parity.max_abs_logit", Unit.LOGIT, False, _EXACT),
)
#: high_conf_error may be measured at any confidence; the table below lists it at 0.9.
_HIGH_CONF = re.compile(r"high_conf_error@(0\.\d{1,4})(\..+)?")


@lru_cache(maxsize=1)
def known() -> dict[str, MetricInfo]:
    """Every metric by id, in a fixed order."""
    table = {single.id: single for single in _SINGLES}
    corruptions = CORRUPTIONS + EXTRA_CORRUPTIONS
    suffixes = ("", *(f".severity.{s}" for s in SEVERITIES), *(f".corruption.{c}" for c in corruptions))
    for suffix in suffixes[1:]:
        table[f"mpc{suffix}"] = MetricInfo(f"mpc{suffix}", Unit.FRACTION, True, _IMAGES)
    for name, unit, up in _BASES:
        for suffix in (*suffixes, ".calibrated"):
            is_ece = name == "ece_em10_top1"
            table[name + suffix] = MetricInfo(name + suffix, unit, up, _IMAGES, is_ece=is_ece)
    for corruption in corruptions:
        for severity in SEVERITIES:
            cell = f"accuracy.{corruption}.{severity}"
            table[cell] = MetricInfo(cell, Unit.FRACTION, True, _IMAGES)
    return table


def info(metric: str) -> MetricInfo | None:
    """What is known of `metric` (an exact id), or None if it is not a metric."""
    found = known().get(metric)
    if found is None and (match := _HIGH_CONF.fullmatch(metric)) and float(match[1]) > 0:
        like = known().get(f"high_conf_error@0.9{match[2] or ''}")
        return MetricInfo(metric, like.unit, like.higher_is_better, like.basis) if like else None
    return found


def is_family(metric: str) -> bool:
    """Whether `metric` stands for several, such as "mpc.corruption.*"."""
    return "*" in metric


def expand(pattern: str, ids: Iterable[str]) -> tuple[str, ...]:
    """Those of `ids` that the family `pattern` covers, sorted. A `*` stands for one part between dots."""
    regex = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
    return tuple(sorted({one for one in ids if regex.fullmatch(one)}))


def members(metric: str) -> tuple[MetricInfo, ...]:
    """The known metrics that an id or a family stands for; empty if it is unknown."""
    if is_family(metric):
        return tuple(known()[one] for one in expand(metric, known()))
    found = info(metric)
    return (found,) if found else ()


def nearest(name: str, among: Iterable[str]) -> str:
    """The member of `among` that looks most like `name`: first by a shared beginning, then by similarity."""
    candidates = tuple(among)
    starts = [one for one in candidates if name and one.startswith(name)]
    pool = starts or candidates
    close = difflib.get_close_matches(name, pool, n=1, cutoff=0.0)
    return close[0] if close else ""
