"""Numbers and verdicts in words: one place for units, rounding, signs and icons. A missing number is never a blank."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import ceil, floor, log10

from edgesafe.records import (
    Comparison,
    GateStatus,
    Measurement,
    Unit,
)
from edgesafe.report.view import Value

__all__ = [
    "ABSENT",
    "MINUS",
    "STATUS",
    "TIMES",
    "amount",
    "clean",
    "error",
    "estimate",
    "interval",
    "meanings",
    "number",
    "rule",
    "sentence",
    "sentences",
    "size",
    "speed",
    "title",
]

ABSENT = "not measured"
MINUS, TIMES = "\u2212", "\u00d7"

STATUS: dict[GateStatus, tuple[str, str]] = {
    GateStatus.PASS: ("✓", "pass"),
    GateStatus.FAIL: ("✗", "fail"),
    GateStatus.INCONCLUSIVE: ("?", "inconclusive"),
    GateStatus.WAIVED: ("!", "waived"),
    GateStatus.MISSING: ("∅", "missing"),
    GateStatus.REFUSED: ("⊘", "refused"),
}
"""Icon and word of each status. The word is always shown."""

_TITLES = {
    "accuracy": "Accuracy",
    "ece_em10_top1": "ECE",
    "ece_em10_top1.calibrated": "ECE after temperature",
    "nll": "NLL",
    "brier": "Brier score",
    "high_conf_error@0.9": "Wrong above 90 % confidence",
    "mpc": "mPC",
    "latency.p50_ms": "Latency, median",
    "latency.p90_ms": "Latency, 90th percentile",
    "latency.min_ms": "Latency, minimum",
    "latency.ratio": "Latency ratio",
    "size.onnx_bytes": "ONNX file",
    "size.params": "Parameters",
    "macs": "MACs",
    "sparsity": "Sparsity",
    "parity.max_abs_logit": "Parity, largest logit difference",
    "flips": "Flips",
    "mce": "MCE",
    "aurc": "AURC",
    "ece_classwise": "Classwise ECE",
}


_MEANINGS = {
    "mpc": "mPC (mean performance under corruption): accuracy averaged over all corruptions",
    "ece_em10_top1": "ECE (expected calibration error): how far confidence is from accuracy, on average",
    "nll": "NLL (negative log-likelihood, in nats): the penalty for unsure or wrong predictions",
    "brier": "Brier score: the squared error of the probabilities",
    "parity": "parity: how closely the ONNX file repeats the network it was exported from",
    "latency": "latency ratio: time over the baseline's, below 1 is faster",
    "macs": "MACs: multiply-accumulate operations per image",
}


def meanings(metrics: Iterable[str], points: bool) -> str:
    """The abbreviations among the metrics, spelled out: for the place where they are first read."""
    seen = {stem for metric in metrics for stem in _MEANINGS if metric.partition(".")[0] == stem}
    out = [text for stem, text in _MEANINGS.items() if stem in seen]
    out += ["pp: percentage points"] if points else []
    return "; ".join(out) + "." if out else ""


def clean(text: str) -> str:
    """`text` without control characters (XML cannot hold them), at most 200 characters, on one line."""
    kept = "".join(c if c.isprintable() else " " for c in str(text))
    kept = " ".join(kept.split())
    return kept if len(kept) <= 200 else kept[:199] + "…"


def sentence(text: str) -> str:
    """Text with a capital letter and a full stop."""
    shown = clean(text).rstrip(".")
    return f"{shown[:1].upper()}{shown[1:]}."


def sentences(texts: Iterable[str]) -> str:
    """The texts, each ending with a full stop: for a figure's description."""
    return " ".join(f"{clean(t).rstrip('.')}." for t in texts)


def title(metric: str) -> str:
    """A metric id for people: "mpc.severity.3" is "mPC, severity 3"."""
    if metric in _TITLES:
        return _TITLES[metric]
    head, _, tail = metric.partition(".")
    if head in _TITLES and tail:
        rest = clean(tail).replace("severity.", "severity ").replace("corruption.", "").replace("_", " ")
        return f"{_TITLES[head]}, {rest}"
    for stem in ("ece_em10_top1", "latency"):
        if metric.startswith(f"{stem}."):
            return f"{_TITLES.get(stem, stem)}, {clean(metric[len(stem) + 1 :]).replace('_', ' ')}"
    return clean(metric)


def _signed(text: str, value: float, signed: bool) -> str:
    """Typographic minus; a plus where a difference is meant; no "-0.00"."""
    body = text.lstrip("-")
    if not body.strip("0.,"):
        return body
    return f"{MINUS}{body}" if value < 0 else f"+{body}" if signed else body


def number(value: float, unit: Unit, *, signed: bool = False, digits: int | None = None) -> str:
    """A value in its unit, without the unit: fractions as percent (or percentage points)."""
    if unit is Unit.FRACTION:
        return _signed(f"{value * 100:.{2 if digits is None else digits}f}", value, signed)
    if unit is Unit.BYTES:
        return _signed(size(abs(value)), value, signed)
    if unit is Unit.COUNT:
        return _signed(_count(abs(value)), value, signed)
    if unit is Unit.MS:
        places = digits if digits is not None else max(0, 2 - floor(log10(abs(value)))) if value else 2
        return _signed(f"{value:.{min(places, 4)}f}", value, signed)
    if unit is Unit.LOGIT:
        return f"{value:.1e}"
    return _signed(f"{value:.{3 if digits is None else digits}f}", value, signed)


def amount(value: float, unit: Unit, *, signed: bool = False, points: bool = False) -> str:
    """A value with its unit: "91.73 %", "-1.66 pp", "1.84 ms", "x0.52", with typographic signs."""
    text = number(value, unit, signed=signed)
    suffix = {Unit.FRACTION: " pp" if points or signed else " %", Unit.MS: " ms"}.get(unit, "")
    return f"{TIMES}{text}" if unit is Unit.RATIO and not signed else f"{text}{suffix}"


def interval(value: Value, *, signed: bool = False) -> str:
    """The interval as text, 91.17-92.25 or -0.32 to +0.10; "exact" where there is none."""
    if value.low is None or value.high is None:
        return "exact"
    if value.seeds > 1 and not signed:
        return f"± {number((value.high - value.low) / 2, value.unit)}"
    low, high = (number(x, value.unit, signed=signed) for x in (value.low, value.high))
    return f"{low} to {high}" if signed or value.low < 0 else f"{low}–{high}"  # noqa: RUF001 (a range)


def estimate(found: Value | Measurement | Comparison, *, signed: bool = False, digits: int | None = None) -> str:
    """The small print of an estimate, on two lines: its interval and its standard error ("SE 0.28"), in its unit."""
    if isinstance(found, Value):
        shown = interval(found, signed=signed)
    elif found.low is None or found.high is None:
        shown = "exact"
    else:
        low, high = (number(x, found.unit, signed=signed, digits=digits) for x in (found.low, found.high))
        shown = f"{low} to {high}" if signed or found.low < 0 else f"{low}–{high}"  # noqa: RUF001 (a range)
    return shown if found.se is None else f"{shown}\nSE {error(found.se, found.unit)}"


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


def speed(ratio: Value | None) -> str:
    """The latency ratio (variant / baseline) in words. "no speed-up" unless every seed's interval is below 1."""
    if ratio is None:
        return ABSENT
    if ratio.outer is not None and ratio.outer[1] < 1.0:
        return f"{1 / ratio.estimate:.2f} times as fast"
    if ratio.outer is not None and ratio.outer[0] > 1.0:
        return "no speed-up (slower)"
    return "no speed-up"


_RULE = re.compile(r"(max|min|max_drop|max_increase|max_ratio)\s+([0-9.eE+-]+)\s*([A-Za-z%]*)")
_RULES = {"max": "≤", "min": "≥", "max_drop": "drop ≤", "max_increase": "increase ≤", "max_ratio": "ratio ≤"}


def rule(text: str) -> str:
    """A gate's rule as people write it: "max_drop 1.0pp" is "drop ≤ 1.0 pp". What is not understood stays as it is."""
    match = _RULE.fullmatch(text.strip())
    if match is None:
        return clean(text)
    unit = {"": "", "x": ""}.get(match[3], f" {match[3]}")
    return f"{_RULES[match[1]]} {match[2]}{unit}"
