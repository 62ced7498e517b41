"""Limits with units: "1.0pp", "5%", "8ms", "300kB". The unit says what is meant, so a rate without one is refused.

pp   percentage points: 1pp = 0.01 of a rate. Under max and min the rate itself, under max_drop and max_increase
     a difference of two rates.
%    under max and min: the rate itself, 5% = 0.05 (rates only). Under max_drop and max_increase: of the baseline's
     value, so that max_drop = "1%" of an accuracy of 0.90 is 0.9 pp. The two never mean the same thing there.
x    a ratio; it may be left out.
ms s us     time.        B kB MB GB KiB MiB GiB     size (k = 1000, Ki = 1024).        k M G     counts.
nats px     may be left out.        Scores (Brier, AURC) and logits have no unit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from edgesafe.errors import PolicyError
from edgesafe.metrics import Rule
from edgesafe.records import Unit

__all__ = ["Limit", "canonical", "parse"]

#: Bounded in length, so that no limit means absurdly long arithmetic.
_LIMIT = re.compile(r"\s*(?P<number>\d{1,20}(?:\.\d{1,20})?(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>[A-Za-z%]*)\s*", re.ASCII)

_SCALES: dict[Unit, dict[str, Decimal]] = {
    Unit.FRACTION: {"pp": Decimal("0.01"), "%": Decimal("0.01")},
    Unit.NATS: {"nats": Decimal(1), "": Decimal(1)},
    Unit.SCORE: {"": Decimal(1)},
    Unit.MS: {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001")},
    Unit.RATIO: {"x": Decimal(1), "": Decimal(1)},
    Unit.BYTES: {
        "B": Decimal(1),
        "kB": Decimal(10**3),
        "MB": Decimal(10**6),
        "GB": Decimal(10**9),
        "KiB": Decimal(2**10),
        "MiB": Decimal(2**20),
        "GiB": Decimal(2**30),
    },
    Unit.COUNT: {"": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)},
    Unit.LOGIT: {"": Decimal(1)},
    Unit.PIXELS: {"px": Decimal(1), "": Decimal(1)},
}
_EXAMPLES = {
    Unit.FRACTION: '"1.0pp"',
    Unit.NATS: '"0.02nats"',
    Unit.SCORE: "0.01",
    Unit.MS: '"8ms"',
    Unit.RATIO: '"0.9x"',
    Unit.BYTES: '"300kB"',
    Unit.COUNT: '"20M"',
    Unit.LOGIT: "1e-4",
    Unit.PIXELS: '"1.5px"',
}


@dataclass(frozen=True)
class Limit:
    """A limit as parsed: a number whose unit is settled, and the text it was written as.

    Attributes:
        value: in the metric's own unit (rates as fractions), or a fraction of the baseline's value if `of_baseline`.
        of_baseline: written with % under max_drop or max_increase.
        text: as the policy wrote it, without blanks.
    """

    value: float
    of_baseline: bool
    text: str


def parse(written: str | float, unit: Unit, rule: Rule, where: str) -> Limit:
    """Parses a limit with its unit, such as "1.0pp", for a metric and a rule.

    Args:
        written: a string with a unit, or a plain number where the unit may be left out.
        unit: of the metric; under MAX_RATIO it is ignored, the limit being a ratio.
        rule: decides what % means.
        where: key of the policy, for messages.

    Raises:
        PolicyError: no unit where one is needed, a unit of another quantity, not a number, negative, out of range.
    """
    unit = Unit.RATIO if rule is Rule.MAX_RATIO else unit
    text = written if isinstance(written, str) else repr(written)
    example = _EXAMPLES[unit]
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise PolicyError(
            f"'{text}' is not a limit", where=where, fix=f"write a number that is not negative and its unit: {example}"
        )
    number, suffix = Decimal(match["number"]), match["unit"]
    difference = rule in (Rule.MAX_DROP, Rule.MAX_INCREASE)
    of_baseline = suffix == "%" and difference
    if of_baseline:
        scale = Decimal("0.01")
    elif suffix in _SCALES[unit]:
        scale = _SCALES[unit][suffix]
    else:
        raise PolicyError(
            _wrong_unit(text, suffix, unit),
            where=where,
            fix=f"write for example {example}{_percent_hint(unit, difference)}",
        )
    value = float(number * scale)
    if not math.isfinite(value):
        raise PolicyError(f"'{text}' is too large", where=where, fix=f"write for example {example}")
    top = (unit is Unit.FRACTION and not of_baseline) or (of_baseline and rule is Rule.MAX_DROP)
    if top and value > 1.0:
        raise PolicyError(f"'{text}' is more than 100 %", where=where, fix=f"write for example {example}")
    return Limit(value, of_baseline, text.replace(" ", "").replace("\t", ""))


def _wrong_unit(text: str, suffix: str, unit: Unit) -> str:
    if suffix:
        return f"'{suffix}' in '{text}' is not a unit of this metric, which is in {unit.value}"
    return f"{text} has no unit"


def _percent_hint(unit: Unit, difference: bool) -> str:
    if not difference:
        return ""
    return (
        ' (percentage points) or "5%" (of the baseline\'s value)'
        if unit is Unit.FRACTION
        else ' or "5%" (of the baseline)'
    )


def canonical(limit: Limit, unit: Unit, rule: Rule) -> str:
    """The shortest text that `parse` reads as the same value: 0.06 as "6pp". TOML needs quotes round it."""
    unit = Unit.RATIO if rule is Rule.MAX_RATIO else unit
    suffix = "%" if limit.of_baseline else next(iter(_SCALES[unit]))
    scale = Decimal("0.01") if limit.of_baseline else _SCALES[unit][suffix]
    number = (Decimal(repr(limit.value)) / scale).normalize()
    plain = format(number, "f") if abs(number.adjusted()) < 18 else ""
    text = plain if 0 < len(plain) <= 18 else format(number, "E").replace("E+", "E")
    return text + suffix
