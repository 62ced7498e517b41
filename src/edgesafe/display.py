"""How numbers, limits and statuses are written, and how text of others is made safe, for every output.

Terminal, gate outputs and report all write through this module, so that one thing looks the same everywhere:

* `show` gives numbers side by side at one precision, as sentences of the gate need them ("2.31 pp [1.82, 2.80]");
* `number` and `amount` give one number, with typographic signs, for tables and cards;
* `STATUS` has word, icon and mark of each verdict, `WORST_FIRST` their order;
* `terminal`, `workflow_data`, `workflow_property`, `markdown`, `markdown_code`, `xml` and `openmetrics` take text that
  may hold anything (names of files, studies, variants, approvers) and return what the medium shows and never obeys.
  HTML needs none: the page's templates escape by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from edgesafe import metrics
from edgesafe.metrics import DECIMALS, Rule, value_range
from edgesafe.records import GateStatus, Measurements, Unit

__all__ = [
    "ABSENT",
    "MINUS",
    "RULE_NOUNS",
    "STATUS",
    "TIMES",
    "WORST_FIRST",
    "StatusLook",
    "amount",
    "bounds",
    "cautions",
    "clean",
    "error",
    "interval",
    "markdown",
    "markdown_code",
    "number",
    "openmetrics",
    "plus_minus",
    "rule",
    "sentence",
    "sentences",
    "share",
    "show",
    "show_limit",
    "size",
    "slower",
    "terminal",
    "thousands",
    "title",
    "workflow_data",
    "workflow_property",
    "worst",
    "xml",
]

ABSENT = "not measured"
MINUS, TIMES = "\u2212", "\u00d7"


# -------------------------------------------------------------------------------------------------------- statuses


@dataclass(frozen=True)
class StatusLook:
    """How a status looks: its word (always shown), an icon of one letter's width, and a coloured mark for Markdown."""

    word: str
    icon: str
    mark: str

    def __str__(self) -> str:
        """Icon and word: "✓ pass"."""
        return f"{self.icon} {self.word}"


#: Worst first: the order of precedence, of sorting, and of what a group of results is called.
STATUS: dict[GateStatus, StatusLook] = {
    GateStatus.REFUSED: StatusLook("refused", "⊘", "⛔"),
    GateStatus.MISSING: StatusLook("missing", "∅", "⛔"),
    GateStatus.FAIL: StatusLook("fail", "✗", "❌"),
    GateStatus.INCONCLUSIVE: StatusLook("inconclusive", "?", "❔"),
    GateStatus.WAIVED: StatusLook("waived", "!", "⚠️"),
    GateStatus.PASS: StatusLook("pass", "✓", "✅"),
}
WORST_FIRST: tuple[GateStatus, ...] = tuple(STATUS)


def worst(statuses: Iterable[GateStatus]) -> GateStatus | None:
    """The worst of some statuses; None of none."""
    return min(statuses, key=WORST_FIRST.index, default=None)


# --------------------------------------------------------------------------------------------------------- numbers

_SCALE: dict[Unit, tuple[float, str]] = {  # factor to what people read, and its unit; decimals are in the catalogue
    Unit.FRACTION: (100.0, " %"),
    Unit.NATS: (1.0, " nats"),
    Unit.SCORE: (1.0, ""),
    Unit.MS: (1.0, " ms"),
    Unit.RATIO: (1.0, "x"),
    Unit.BYTES: (0.001, " kB"),
    Unit.COUNT: (1.0, ""),
    Unit.LOGIT: (1.0, ""),
    Unit.PIXELS: (1.0, " px"),
}


def show(
    values: Sequence[float], unit: Unit, *, difference: bool = False, apart: float | None = None
) -> tuple[list[str], str]:
    """Numbers as people read them, and their unit: ([0.0231, 0.01], FRACTION, difference) -> (["2.31", "1.00"], " pp").

    Args:
        values: in `unit`.
        unit: theirs.
        difference: differences of rates are in pp, rates in %.
        apart: a limit; as many decimals are shown as it takes to tell each value from it (7 at most), so that a
            message never reads "1.00 > 1.00".
    """
    (factor, suffix), decimals = _SCALE[unit], DECIMALS[unit]
    if unit is Unit.FRACTION and difference:
        suffix = " pp"
    if apart is not None:
        shown = [v * factor for v in values if v != apart]
        while decimals < 7 and any(f"{v:.{decimals}f}" == f"{apart * factor:.{decimals}f}" for v in shown):
            decimals += 1
    texts = [f"{v * factor:,.{decimals}f}" for v in values]
    return [_positive_zero(t) for t in texts], suffix


def _positive_zero(text: str) -> str:
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text


def _signed(text: str, value: float, signed: bool) -> str:
    """Typographic minus; a plus where a difference is meant; no "-0.00"."""
    body = text.lstrip("-")
    if not body.strip("0.,"):
        return body
    return f"{MINUS}{body}" if value < 0 else f"+{body}" if signed else body


def number(value: float, unit: Unit, *, signed: bool = False, digits: int | None = None) -> str:
    """A value in its unit, without the unit: fractions as percent (or percentage points), large counts in k, M, G.

    Args:
        value: in `unit`.
        unit: its unit.
        signed: a difference: a plus is written, too.
        digits: decimals; None: the usual ones.
    """
    if unit is Unit.BYTES:
        return _signed(size(abs(value)), value, signed)
    if unit is Unit.COUNT:
        return _signed(_count(abs(value)), value, signed)
    if unit is Unit.LOGIT:
        return f"{value:.1e}"
    if unit is Unit.MS:  # three significant digits: latencies span five orders of magnitude
        places = digits if digits is not None else max(0, 2 - floor(log10(abs(value)))) if value else 2
        return _signed(f"{value:.{min(places, 4)}f}", value, signed)
    places = digits if digits is not None else min(DECIMALS[unit], 3)
    return _signed(f"{value * _SCALE[unit][0]:.{places}f}", value, signed)


def amount(value: float, unit: Unit, *, signed: bool = False, points: bool = False) -> str:
    """A value with its unit: "91.73 %", "-1.66 pp", "1.84 ms", "x0.52", with typographic signs."""
    text = number(value, unit, signed=signed)
    suffix = {Unit.FRACTION: " pp" if points or signed else " %", Unit.MS: " ms", Unit.PIXELS: " px"}.get(unit, "")
    return f"{TIMES}{text}" if unit is Unit.RATIO and not signed else f"{text}{suffix}"


def bounds(low: float, high: float, unit: Unit, *, difference: bool = False) -> tuple[float, float]:
    """The bounds of an interval without what no value of the metric can be: an ECE is never negative."""
    least, most = value_range(unit, difference=difference)
    return min(max(low, least), most), min(max(high, least), most)


def interval(
    low: float | None, high: float | None, unit: Unit, *, signed: bool = False, digits: int | None = None
) -> str:
    """An interval as text, 91.17-92.25 or -0.32 to +0.10, in its metric's range; "exact" where there is none."""
    if low is None or high is None:
        return "exact"
    low, high = bounds(low, high, unit, difference=signed)
    texts = (number(x, unit, signed=signed, digits=digits) for x in (low, high))
    return " to ".join(texts) if signed or low < 0 else "–".join(texts)  # noqa: RUF001 (a range)


def plus_minus(estimate: float, low: float | None, high: float | None, unit: Unit, *, digits: int) -> str:
    """An estimate with half its interval, without the unit: "91.73 ±0.54"; alone where there is no interval."""
    text = number(estimate, unit, digits=digits)
    return text if low is None or high is None else f"{text} ±{number((high - low) / 2, unit, digits=digits)}"


def share(fraction: float) -> str:
    """A fraction as whole percent, as short as can be: "50%"."""
    return f"{fraction:.0%}"


def thousands(count: float) -> str:
    """A count in thousands, or in millions from one million on, with one decimal: "271.1 k"."""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def error(se: float, unit: Unit) -> str:
    """A standard error in its unit, two significant digits: fractions as percentage points."""
    shown = se * (100.0 if unit is Unit.FRACTION else 1.0)
    return f"{shown:.{min(max(1 - floor(log10(shown)), 0), 9)}f}" if shown > 0.0 else "0"


def size(count: float) -> str:
    """Bytes in decimal units: 1 MB = 1,000,000 bytes."""
    if count >= 999_500:
        return f"{count / 1e6:.2f} MB"
    if count >= 1000:
        return f"{count / 1e3:.0f} kB"
    return f"{count:.0f} B"


def _count(value: float) -> str:
    """A count with three significant digits and a suffix."""
    for scale, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= scale * 0.9995:
            scaled = value / scale
            return f"{scaled:.{max(0, 3 - ceil(log10(scaled + 1e-9)))}f}{suffix}"
    return f"{value:.0f}"


# ------------------------------------------------------------------------------------------------- limits and words

#: What a rule makes of a metric's name in a sentence: "accuracy drop 2.31 pp".
RULE_NOUNS = {
    Rule.MAX_DROP: " drop",
    Rule.MAX_INCREASE: " increase",
    Rule.MAX_RATIO: " ratio",
    Rule.MAX: "",
    Rule.MIN: "",
}
_LIMIT = re.compile(r"([\d.]+(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)")


def slower(measured: Measurements) -> str:
    """The warning that a file of another precision is slower than its fp32 sibling on this host; "" where it is not.

    It is where the whole interval of `latency.ratio.sibling` lies above 1.
    """
    ratio = measured.metrics.get("latency.ratio.sibling")
    if ratio is None or ratio.low is None or ratio.low <= 1.0:
        return ""
    factor = number(ratio.estimate, Unit.RATIO, digits=2)
    return f"{measured.variant} is slower here than its fp32 sibling {measured.sibling}: {factor} times as long"


def differs_on_device(measured: Measurements) -> str:
    """The warning that images got another verdict on the device than their certificates say; "" where none did."""
    rechecks = measured.device.rechecks if measured.device is not None else ()
    wrong = [f"{len(one.differ)} of {one.certified + one.falsified} of {one.set}" for one in rechecks if one.differ]
    if not wrong or measured.device is None:
        return ""
    return f"{measured.variant} answers otherwise than certified on {measured.device.target}: {', '.join(wrong)} images"


def cautions(measured: Measurements) -> tuple[str, ...]:
    """The warnings about a variant that every output gives: slower than its sibling, another verdict on the device."""
    return tuple(text for text in (slower(measured), differs_on_device(measured)) if text)


def show_limit(text: str) -> str:
    """A limit as written in the policy, with a blank before the unit: "1.0pp" -> "1.0 pp"."""
    match = _LIMIT.fullmatch(text)
    if match is None or not match[2] or match[2] == "x":
        return text
    return f"{match[1]} {match[2]}"


def rule(text: str) -> str:
    """A gate's rule as people write it: "max_drop 1.0pp" is "drop ≤ 1.0 pp". What is not understood stays as it is."""
    name, _, limit = text.strip().partition(" ")
    if name not in set(Rule) or not _LIMIT.fullmatch(limit.strip()):
        return clean(text)
    shown = show_limit(limit.strip()).removesuffix("x")
    return f"{RULE_NOUNS[Rule(name)]} {'≥' if name == Rule.MIN else '≤'} {shown}".strip()


def title(metric: str) -> str:
    """A metric's title from the catalogue; the cleaned id where the catalogue does not know it."""
    return metrics.title(metric) or clean(metric)


def sentence(text: str) -> str:
    """Text with a capital letter and a full stop."""
    shown = clean(text).rstrip(".")
    return f"{shown[:1].upper()}{shown[1:]}."


def sentences(texts: Iterable[str]) -> str:
    """The texts, each ending with a full stop: for a figure's description."""
    return " ".join(f"{clean(t).rstrip('.')}." for t in texts)


# -------------------------------------------------------------------------------------------------- text of others


def _printable(text: str) -> str:
    """Text of one line: a blank for each control, format (bidi, zero-width), surrogate and line-ending character."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def clean(text: str) -> str:
    """`text` without control characters, at most 200 characters, on one line: a name in a table or figure."""
    kept = " ".join(_printable(text).split())
    return kept if len(kept) <= 200 else kept[:199] + "…"


def terminal(text: str) -> str:
    """One line for a terminal or a CI log: no escape codes, no newlines, nothing that GitHub's runner obeys.

    The runner reads lines that begin with `::` and anything after `##[` as commands, so both are broken by a blank.
    """
    return _printable(text).replace("::", ": :").replace("##[", "## [")


def workflow_data(text: str) -> str:
    """The message of a GitHub workflow command, where %, CR and LF are escaped."""
    return _without_escapes(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def workflow_property(text: str) -> str:
    """A property of a GitHub workflow command, where colons and commas are escaped, too."""
    return workflow_data(text).replace(":", "%3A").replace(",", "%2C")


def _without_escapes(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\r\n" else " " for c in text)


_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>|~&@#]")


def markdown(text: str) -> str:
    """Plain text within Markdown or one of its tables: no mark-up, no HTML, no links, no mentions."""
    flat = " ".join(_printable(text).split())
    kept = _MARKDOWN.sub(lambda m: f"&#{ord(m.group())};" if m.group() in "<>&@|`#" else f"\\{m.group()}", flat)
    return kept.replace("://", ":\u200b//").replace("www.", "www\u200b.")


def markdown_code(text: str) -> str:
    """Inside backticks in a Markdown table, where an escape would be shown as it is; at most 200 characters."""
    return " ".join(_printable(text).split()).replace("`", "'").replace("|", "¦").replace("\\", "/")[:200]


#: Characters that XML 1.0 cannot hold, not even escaped (section 2.2, production Char).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml(text: str) -> str:
    """Text that an XML library can write: U+FFFD for what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def openmetrics(text: str) -> str:
    """The value of an OpenMetrics label."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return _printable(escaped)
