"""What each estimate is about: its population, how many images or runs it rests on, and how its interval was got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgesafe.display import clean, title
from edgesafe.records import Comparison, Measurement, Unit
from edgesafe.report.parts import Heading, TablePart, Td
from edgesafe.report.view import Group, View

__all__ = ["basis_table"]

_VALUES = (
    "accuracy",
    "ece_em10_top1",
    "ece_em10_top1.calibrated",
    "nll",
    "mpc",
    "aurc",
    "pck@2",
    "error.mean_px",
    "latency.p50_ms",
    "latency.ratio",
    "size.onnx_bytes",
    "size.params",
    "macs",
    "sparsity",
)
_DIFFERENCES = (
    "accuracy",
    "mpc",
    "ece_em10_top1",
    "nll",
    "brier",
    "high_conf_error@0.9",
    "pck@2",
    "error.mean_px",
    "flips",
)


def basis_table(view: View, groups: Sequence[Group]) -> TablePart | None:
    """One row per metric of the tables, over all variants that have it. None: nothing is measured."""
    measured = [m for g in groups for v in g.members if (m := view.measurements.get(v.id)) is not None]
    rows = [_row(title(k), [m.metrics[k] for m in measured if k in m.metrics]) for k in _VALUES]
    rows += [
        _row(title(k) if k == "flips" else f"Δ {title(k)}", [m.differences[k] for m in measured if k in m.differences])
        for k in _DIFFERENCES
    ]
    shown_rows = tuple(row for row in rows if row is not None)
    if not shown_rows:
        return None
    heads = ("Estimate", "Population: what it speaks of", "Rests on", "Interval", "Unit")
    return TablePart("What each estimate is about", tuple(Heading(h) for h in heads), shown_rows, "basis")


def _row(name: str, estimates: Sequence[Measurement | Comparison]) -> tuple[Td, ...] | None:
    """The cells of one metric's row; where variants differ, all methods and populations. None: not measured."""
    if not estimates:
        return None
    exact = all(m.low is None and m.high is None for m in estimates)
    levels_seen = sorted({m.interval_level for m in estimates})
    levels = " and ".join(f"{c * 100:g} %" for c in levels_seen)
    methods = _several(m.method.replace("-", " ") for m in estimates)
    unit = estimates[0].unit.value
    if estimates[0].unit is Unit.FRACTION:
        unit = "pp" if name.startswith("Δ") else "%"
    return (
        Td(name),
        Td(_several(_population(m, exact=exact) for m in estimates)),
        Td("counted" if exact else _rests(estimates)),
        Td("exact" if exact else f"{levels}, {methods}"),
        Td(unit),
    )


def _population(measured: Measurement | Comparison, *, exact: bool) -> str:
    """The population that a number stands for: what the measurement states, "this file" if it was counted."""
    if measured.population is None:
        return "this file" if exact else "not stated"
    return measured.population.description


def _rests(estimates: Sequence[Measurement | Comparison]) -> str:
    """The number of images or runs that the estimates rest on; an image under many corruptions counts once."""
    rows = sorted({m.n for m in estimates})
    shown = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    details = estimates[0].details
    if "images" in details and "cells" in details:
        return f"{shown} pictures: {details['images']:,.0f} images in {details['cells']:,.0f} cells"
    return f"{shown} {'runs' if estimates[0].metric.startswith('latency') else 'images'}"


def _several(texts: Iterable[str]) -> str:
    """At most three different texts, sorted and joined by "; or ", and how many more there are."""
    seen = sorted({clean(t) for t in texts})
    return "; or ".join(seen[:3]) + (f"; and {len(seen) - 3} more" if len(seen) > 3 else "")
