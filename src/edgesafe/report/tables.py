"""The tables of the page: results, differences to the baseline, the corruption heat map, layers, provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from edgesafe import metrics
from edgesafe.display import ABSENT, STATUS, clean, number, size, title
from edgesafe.records import (
    LayerRecord,
    Parity,
    Unit,
    VariantRecord,
)
from edgesafe.report.parts import Heading, TablePart, Td
from edgesafe.report.stats import CellDifference, shipped_bytes
from edgesafe.report.view import Group, Value, View
from edgesafe.report.words import estimate, speed

__all__ = [
    "cost_table",
    "differences_table",
    "heat_table",
    "layer_table",
    "provenance_table",
    "quality_table",
    "siblings_table",
    "unfinished_table",
]

_MISSING = Td(ABSENT, kind="absent")
#: Those that the task has are shown.
_SHOWN = (
    "accuracy", "pck@1", "pck@2", "pck@3", "error.mean_px", "ece_em10_top1", "ece_em10_top1.calibrated", "nll", "mpc",
)  # fmt: skip


def _td(value: Value | None, *, signed: bool = False) -> Td:
    """The cell of a number, with its interval and its standard error in small print."""
    if value is None:
        return _MISSING
    return Td(number(value.estimate, value.unit, signed=signed), estimate(value, signed=signed))


def _count(group: Group, view: View, metric: str, field: str) -> Td:
    """The cell of an exact count: the metric's value, or else the field of variant.json, mean over the seeds."""
    value = group.value(view, metric)
    known = [getattr(v, field) for v in group.members if getattr(v, field) is not None]
    if value is None and not known:
        return _MISSING
    count = value.estimate if value is not None else sum(known) / len(known)
    unit = Unit.FRACTION if field == "sparsity" else Unit.COUNT
    if field == "sparsity":
        return Td(f"{number(count, unit, digits=1)} %", "exact")
    return Td(number(count, unit), f"{count:,.0f}")


def _file(group: Group, view: View) -> Td:
    """The cell of the file size: that of model.onnx, and that of the sparse file where it is smaller."""
    value = group.value(view, "size.onnx_bytes")
    stored = [a.bytes for v in group.members if (a := v.artefact("model.onnx")) is not None]
    dense = value.estimate if value is not None else sum(stored) / len(stored) if stored else None
    if dense is None:
        return _MISSING
    shipped = shipped_bytes(group, view)
    sparse = f"sparse: {size(shipped)}" if shipped is not None and shipped < dense else "exact"
    return Td(size(dense), sparse)


def _head_cells(group: Group, view: View) -> list[Td]:
    """The first cells of a row: the variant's name and, if there is a verdict, its status."""
    cells = [Td(clean(group.label), f"mean of {len(group.members)} seeds" if len(group.members) > 1 else "")]
    if view.verdict is not None:
        status = group.status(view)
        if status is not None:
            cells.append(Td(str(STATUS[status]), kind=f"status-{status.value}"))
        else:
            cells.append(Td("reference") if group.is_baseline else Td("not gated", kind="absent"))
    return cells


def _heads(view: View) -> list[Heading]:
    """The headings of the columns that `_head_cells` fills."""
    return [Heading("Variant"), *([Heading("Gate")] if view.verdict is not None else [])]


def quality_table(view: View, groups: Sequence[Group]) -> TablePart:
    """The table of accuracy, calibration, likelihood and robustness of each variant, each with its interval."""
    kind = view.study.record.data.kind
    wanted = [m for m in _SHOWN if kind in metrics.get(m).tasks]
    columns = [*_heads(view), *(Heading(title(m), _unit(m, percent="%")) for m in wanted)]
    rows = [(*_head_cells(g, view), *(_quality_cell(g, view, m) for m in wanted)) for g in groups]
    return TablePart("Quality of all variants", tuple(columns), tuple(rows), "wide sticky")


def _unit(metric: str, *, percent: str) -> str:
    """The unit of a column of `metric` as its heading names it; `percent` is what a fraction is shown in: "%", "pp"."""
    unit = metrics.get(metric).unit
    return percent if unit is Unit.FRACTION else unit.value


def _quality_cell(group: Group, view: View, metric: str) -> Td:
    """The cell of a quality metric; an ECE after temperature that is not below the one before is marked worse."""
    value, before = group.value(view, metric), group.value(view, "ece_em10_top1")
    shown = _quality(value)
    if metric != "ece_em10_top1.calibrated" or value is None or before is None or value.estimate < before.estimate:
        return shown
    return Td(shown.text, f"{shown.small}\nnot better than before", "worse")


def _quality(value: Value | None) -> Td:
    """The cell of a number, its interval and, for a calibration error, its noise floor at this number of images."""
    shown = _td(value)
    if value is None or value.noise_floor is None:
        return shown
    joint = ", " if "\n" in shown.small else "\n"
    return Td(shown.text, f"{shown.small}{joint}floor {number(value.noise_floor, value.unit)}")


def cost_table(view: View, groups: Sequence[Group]) -> TablePart:
    """The table of latency, file size, parameters, MACs and sparsity of each variant."""
    columns = [
        *_heads(view),
        Heading("Latency, median", "ms"),
        Heading("Latency ratio", "to the baseline"),
        Heading("Speed"),
    ]
    columns += [
        Heading("ONNX file"),
        Heading("Parameters"),
        Heading("MACs"),
        Heading("Sparsity", "of convolution weights"),
    ]
    rows = []
    for g in groups:
        ratio = g.value(view, "latency.ratio")
        row = [*_head_cells(g, view), _td(g.value(view, "latency.p50_ms"))]
        if g.is_baseline:
            row += [Td("1", "reference"), Td("reference")]
        elif ratio is None:
            row += [_MISSING, _MISSING]
        else:
            row += [_td(ratio), Td(speed(ratio))]
        row += [_file(g, view), _count(g, view, "size.params", "params"), _count(g, view, "macs", "macs")]
        rows.append((*row, _count(g, view, "sparsity", "sparsity")))
    return TablePart("Cost of all variants", tuple(columns), tuple(rows), "wide sticky")


_DIFFERENCES = (
    "accuracy",
    "pck@1",
    "pck@2",
    "pck@3",
    "error.mean_px",
    "mpc",
    "ece_em10_top1",
    "nll",
    "brier",
    "high_conf_error@0.9",
)


def differences_table(view: View, groups: Sequence[Group]) -> TablePart | None:
    """Paired differences to the baseline, marked worse or better where the interval leaves zero out, or None."""
    compared = [g for g in groups if not g.is_baseline]
    flips = {g.key: g.difference(view, "flips") or g.value(view, "flips") for g in compared}
    caption = "Each variant minus the baseline, on the same images and the same corrupted pixels"
    return _paired_table(caption, [(g, partial(g.difference, view), flips[g.key]) for g in compared])


def siblings_table(view: View, groups: Sequence[Group]) -> TablePart | None:
    """Paired differences of files of other precisions to their fp32 siblings, and how fast they are; None: all fp32."""
    compared = [g for g in groups if g.first.conversion is not None]
    rows = [(g, partial(g.sibling_difference, view), g.sibling_difference(view, "flips")) for g in compared]
    table = _paired_table("Each file of another precision minus its fp32 sibling: what the conversion alone did", rows)
    ratios = [g.value(view, "latency.ratio.sibling") for g in compared]
    if table is None or not any(ratios):
        return table
    cells = [(_MISSING, _MISSING) if ratio is None else (_td(ratio), Td(speed(ratio))) for ratio in ratios]
    return replace(
        table,
        columns=(*table.columns, Heading("Latency ratio", "to the fp32 sibling"), Heading("Speed")),
        rows=tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True)),
    )


_Paired = tuple[Group, Callable[[str], Value | None], Value | None]


def _paired_table(caption: str, compared: Sequence[_Paired]) -> TablePart | None:
    """A row for each group: its paired difference in each metric that any has, and the flips. None: there are none."""
    wanted = [m for m in _DIFFERENCES if any(difference(m) is not None for _, difference, _ in compared)]
    if not wanted:
        return None
    changed = any(flips for _, _, flips in compared)
    rows = []
    for g, difference, flips in compared:
        row = [Td(clean(g.label), f"mean of {len(g.members)} seeds" if len(g.members) > 1 else "")]
        for metric in wanted:
            value = difference(metric)
            row.append(
                _MISSING if value is None else _judged(value, higher_is_better=metrics.get(metric).higher_is_better)
            )
        if changed:
            row.append(_td(flips))
        rows.append(tuple(row))
    flip_head = (Heading("Flips", "% of images"),) if changed else ()
    heads = (Heading("Variant"), *(Heading(f"Δ {title(m)}", _unit(m, percent="pp")) for m in wanted), *flip_head)
    return TablePart(caption, heads, tuple(rows), "wide sticky")


def _judged(value: Value, *, higher_is_better: bool) -> Td:
    """The cell of a difference, marked worse or better where its interval leaves zero out."""
    shown = number(value.estimate, value.unit, signed=True)
    bounds, small = value.outer, estimate(value, signed=True)
    if bounds is None:
        return Td(shown, "no interval")
    joint = ", " if "\n" in small else "\n"
    if bounds[0] <= 0.0 <= bounds[1]:
        return Td(shown, f"{small}{joint}no clear change")
    word = "worse" if (value.estimate > 0) != higher_is_better else "better"
    return Td(shown, f"{small}{joint}{word}", word)


_STEPS = (0.01, 0.02, 0.05)  #: of the heat map's colours, fractions


def heat_table(name: str, cells: Sequence[CellDifference], order: Sequence[str]) -> TablePart:
    """Corruption x severity: the paired accuracy difference, pp; bracketed and grey where it covers zero."""
    by_key = {(c.corruption, c.severity): c for c in cells}
    levels = sorted({c.severity for c in cells})
    seen = {c.corruption for c in cells}
    names = [*[n for n in order if n in seen], *sorted(seen - set(order))]
    rows = []
    for corruption in names:
        row = [Td(clean(corruption).replace("_", " "))]
        for s in levels:
            cell = by_key.get((corruption, s))
            row.append(Td("n. m.", kind="absent") if cell is None else _heat(cell))
        rows.append(tuple(row))
    images = sorted({c.n for c in cells})
    many = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    caption = f"{name} (pp, {many} images per cell)"
    return TablePart(caption, (Heading("Corruption"), *(Heading(str(s)) for s in levels)), tuple(rows), "heat")


def _heat(cell: CellDifference) -> Td:
    """A cell of the heat map: the difference in pp, coloured by its size, in brackets where the interval holds zero."""
    text = number(cell.estimate, Unit.FRACTION, signed=True, digits=1)
    if not cell.decided:
        return Td(f"({text})", kind="h0")
    step = 1 + sum(abs(cell.estimate) >= s for s in _STEPS)
    return Td(text, kind=f"{'hn' if cell.estimate < 0 else 'hp'}{step}")


def layer_table(variant: VariantRecord) -> TablePart | None:
    """What became of every layer; untouched layers say why. None: nothing was removed from this variant."""
    if variant.surgery is None:
        return None
    rows = tuple(_layer_row(layer) for layer in variant.surgery.layers)
    heads = ("Layer", "Kind", "Out channels", "In channels", "Parameters", "Zero weights", "Kept", "Criterion", "Note")
    return TablePart(f"Layers of {clean(variant.id)}", tuple(Heading(h) for h in heads), rows, "wide layers")


def _layer_row(layer: LayerRecord) -> tuple[Td, ...]:
    """The cells of one layer's row: channels, parameters, zero weights, scores, and why it was left alone."""

    def change(before: int, after: int) -> str:
        return f"{before:,}" if before == after else f"{before:,} → {after:,}"

    kept = layer.params_after / layer.params_before if layer.params_before else 1.0
    kept *= 1.0 - layer.sparsity
    known: tuple[str, ...] = ("median", "threshold")
    first = [k for k in known if k in layer.criterion]
    rest: list[str] = [k for k in ("min", "max") if k in layer.criterion]
    rest += sorted(k for k in layer.criterion if k not in (*first, *rest))
    criterion, more = (", ".join(f"{clean(k)} {layer.criterion[k]:.3g}" for k in keys) for keys in (first, rest))
    if not criterion:
        criterion, more = more, ""
    touched = layer.out_before != layer.out_after or layer.in_before != layer.in_after or layer.sparsity > 0
    note = clean(layer.note) if layer.note else ("pruned" if touched else "left alone: no reason recorded")
    return (
        Td(clean(layer.name)),
        Td(clean(layer.kind)),
        Td(change(layer.out_before, layer.out_after)),
        Td(change(layer.in_before, layer.in_after)),
        Td(change(layer.params_before, layer.params_after)),
        Td(f"{layer.sparsity * 100:.1f} %"),
        Td(f"{kept * 100:.0f} %", bar=min(max(kept, 0.0), 1.0)),
        Td(criterion or "none recorded", more, kind="" if criterion else "absent"),
        Td(note),
    )


def provenance_table(view: View) -> TablePart:
    """The files behind the numbers, by hash, and how the exported ones were proven equal to what they came from."""
    rows = []
    for v in view.variants:
        measured = view.measurements.get(v.id)
        for a in v.artefacts:
            proven, images = _proven(v, a.file)
            rows.append(
                (
                    Td(clean(v.id)),
                    Td(clean(a.file), f"opset {v.opset}" if v.opset is not None and a.file.endswith(".onnx") else ""),
                    Td(size(a.bytes)),
                    Td(clean(a.sha256), kind="hash"),
                    Td(" and ".join(proven), f"logits, {images:,} images")
                    if proven
                    else Td("not compared", kind="absent"),
                )
            )
        seen = Td(ABSENT, kind="absent") if measured is None else Td(clean(measured.evidence_sha256), kind="hash")
        rest = Td("does not apply", kind="absent")
        rows.append((Td(clean(v.id)), Td("evidence"), rest, seen, rest))
    heads = ("Variant", "File", "Size", "SHA-256", "Parity")
    return TablePart("Files and their hashes", tuple(Heading(h) for h in heads), tuple(rows), "wide")


def _proven(variant: VariantRecord, file: str) -> tuple[list[str], int]:
    """What is known of a file beside what it came from, and on how many images."""
    checks = [check for check in variant.parity if check.file == file]
    if file == "model.onnx" and variant.conversion is not None:
        seen = variant.conversion.agreement
        alike = seen.argmax_agreement
        same = "" if alike is None else f", same {number(alike, Unit.FRACTION)} % of classes"
        of = clean(variant.conversion.sibling)
        return [f"not equal, converted from {of}: within {seen.max_abs_logit:.1e}{same}"], seen.n
    return [_parity(check) for check in checks], min((check.n for check in checks), default=0)


def _parity(parity: Parity) -> str:
    """The file that this one was compared with, and the largest difference of a logit between them."""
    if parity.bit_equal:
        return f"bit-equal to {clean(parity.reference)}"
    return f"within {parity.max_abs_logit:.1e} of {clean(parity.reference)}"


def unfinished_table(view: View) -> TablePart | None:
    """Variants that were refused or are still to do. None: all are done."""
    rows = tuple(
        (
            Td(clean(e.id)),
            Td("✗ refused" if e.status == "refused" else "… pending"),
            Td(clean(e.reason) or "not run yet"),
        )
        for e in view.unfinished()
    )
    if not rows:
        return None
    return TablePart("Variants without a result", (Heading("Variant"), Heading("Status"), Heading("Reason")), rows)
