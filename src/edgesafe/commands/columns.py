"""The columns of a study's table, on the terminal and in a notebook: those of its task, where there are numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgesafe import metrics
from edgesafe.display import number, plus_minus, share, thousands
from edgesafe.records import Comparison, Measurement, Unit
from edgesafe.study.study import Study, Variant

__all__ = ["MISSING", "Column", "cells", "columns_of", "half"]

MISSING = "-"

Writer = Callable[[Variant], str]


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        metric: whose numbers they are; a task that does not have it has no such column.
        wide: its heading where units stand beside the numbers.
        narrow: its heading in 80 columns, with the unit.
        long: a variant's number with its unit.
        short: a variant's number in 80 columns.
        meaning: what the headings mean, where they do not say it; a sentence.
        unit: likewise, of the heading in 80 columns alone.
    """

    metric: str
    wide: str
    narrow: str
    long: Writer
    short: Writer
    meaning: str = ""
    unit: str = ""


def half(value: Measurement | Comparison | None, decimals: int = 2) -> str:
    """A rate in percent, and half its interval: "91.73 ±0.54"."""
    if value is None:
        return MISSING
    return plus_minus(value.estimate, value.low, value.high, value.unit, digits=decimals)


def _written(metric: str, how: Callable[[float], str]) -> Writer:
    """Writes a variant's estimate of a metric."""

    def write(variant: Variant) -> str:
        value = variant.measurements.metrics.get(metric)
        return MISSING if value is None else how(value.estimate)

    return write


def _rate(metric: str, wide: str, narrow: str, meaning: str = "") -> Column:
    """A column of rates with half their intervals."""

    def short(variant: Variant) -> str:
        return half(variant.measurements.metrics.get(metric), decimals=1)

    def long(variant: Variant) -> str:
        text = half(variant.measurements.metrics.get(metric))
        return text if text == MISSING else f"{text} %"

    return Column(metric, wide, narrow, long, short, meaning)


def _file(variant: Variant) -> str:
    """Bytes of the ONNX file, of the sparse one where there is one."""
    sparse = variant.record.artefact("model.sparse.onnx")
    if sparse is None:
        return _written("size.onnx_bytes", "{:,.0f} B".format)(variant)
    return f"{sparse.bytes:,} B sparse"


def _file_kb(variant: Variant) -> str:
    sparse = variant.record.artefact("model.sparse.onnx")
    if sparse is None:
        return _written("size.onnx_bytes", lambda stored: f"{stored / 1e3:,.0f}")(variant)
    return f"{sparse.bytes / 1e3:,.0f}"


_RATIO = _written("latency.ratio", partial(number, unit=Unit.RATIO, digits=2))
_ZEROS = _written("sparsity", share)
_COLUMNS = (
    _rate("accuracy", "accuracy", "acc. %"),
    _rate("pck@2", "PCK@2", "PCK@2 %", "PCK@2: keypoints nearer than 2 px to their labels."),
    Column(
        "error.mean_px", "error", "px", _written("error.mean_px", "{:.2f} px".format),
        _written("error.mean_px", "{:.2f}".format), unit="px: mean distance of keypoints to their labels.",
    ),
    _rate("ece_em10_top1", "ECE", "ECE %", "ECE: 10 equal-mass bins."),
    _rate("mpc", "mPC", "mPC %", "mPC: mean accuracy under corruption."),
    Column(
        "latency.p50_ms", "latency", "ms", _written("latency.p50_ms", "{:.3f} ms".format),
        _written("latency.p50_ms", partial(number, unit=Unit.MS, digits=3)), unit="ms: median latency.",
    ),
    Column(
        "latency.ratio", "ratio", "ratio", _RATIO, _RATIO, "ratio: latency against the baseline, below 1 is faster.",
    ),
    Column(
        "size.onnx_bytes", "ONNX", "kB", _file, _file_kb, unit="kB: the ONNX file, sparse where there is such a file.",
    ),
    Column(
        "size.params", "parameters", "params", _written("size.params", "{:,.0f}".format),
        _written("size.params", thousands),
    ),
    Column("sparsity", "sparsity", "zeros", _ZEROS, _ZEROS),
)  # fmt: skip


def columns_of(study: Study) -> tuple[Column, ...]:
    """The columns of the study's task, without those that none of its finished variants has a number for."""
    own = tuple(column for column in _COLUMNS if study.record.data.kind in metrics.get(column.metric).tasks)
    measured = study.measurements().values()
    if not measured:
        return own
    return tuple(column for column in own if any(column.metric in each.metrics for each in measured))


def cells(variant: Variant, columns: tuple[Column, ...], *, wide: bool) -> list[str]:
    """A variant's id and its numbers; of one that is not done, the status in the place of the first."""
    if variant.measured is None:
        return [variant.id, variant.status.value, *[MISSING] * (len(columns) - 1)]
    return [variant.id, *((column.long if wide else column.short)(variant) for column in columns)]
