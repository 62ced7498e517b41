"""The words and small print of the report: abbreviations spelled out, estimates with interval and error, speed.

How numbers and statuses look is in `edgesafe.display`; here is what only the report's `Value` needs.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgesafe import display
from edgesafe.display import ABSENT, error, number
from edgesafe.records import Comparison, Measurement
from edgesafe.report.view import Value

__all__ = ["estimate", "interval", "meanings", "speed"]

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


def interval(value: Value, *, signed: bool = False) -> str:
    """The interval as text, 91.17-92.25 or -0.32 to +0.10, or the spread over seeds; "exact" where there is none."""
    if value.low is not None and value.high is not None and value.seeds > 1 and not signed:
        return f"± {number((value.high - value.low) / 2, value.unit)}"
    return display.interval(value.low, value.high, value.unit, signed=signed)


def estimate(value: Value | Measurement | Comparison, *, signed: bool = False, digits: int | None = None) -> str:
    """The small print of an estimate, on two lines: its interval and its standard error ("SE 0.28"), in its unit."""
    if isinstance(value, Value):
        shown = interval(value, signed=signed)
    else:
        shown = display.interval(value.low, value.high, value.unit, signed=signed, digits=digits)
    return shown if value.se is None else f"{shown}\nSE {error(value.se, value.unit)}"


def speed(ratio: Value | None) -> str:
    """The latency ratio (variant / baseline) in words. "no speed-up" unless every seed's interval is below 1."""
    if ratio is None:
        return ABSENT
    if ratio.outer is not None and ratio.outer[1] < 1.0:
        return f"{1 / ratio.estimate:.2f} times as fast"
    if ratio.outer is not None and ratio.outer[0] > 1.0:
        return "no speed-up (slower)"
    return "no speed-up"
