"""The tables of the page: results, differences to the baseline, the corruption heat map, layers, provenance."""

from __future__ import annotations

from collections.abc import Sequence

from edgesafe.records import LayerRecord, Unit, VariantRecord
from edgesafe.report.parts import Column, TablePart, Td
from edgesafe.report.stats import CellDifference, shipped_bytes
from edgesafe.report.view import Group, StudyView, Value
from edgesafe.report.words import ABSENT, STATUS, amount, clean, interval, number, size, speed, title

__all__ = ["differences_table", "heat_table", "layer_table", "provenance_table", "results_table", "unfinished_table"]

_MISSING = Td(ABSENT, kind="absent")
_SHOWN = ("accuracy", "ece_em10_top1", "ece_em10_top1.calibrated", "nll", "mpc")


def _td(value: Value | None, *, signed: bool = False) -> Td:
    """A number and its interval."""
    if value is None:
        return _MISSING
    return Td(number(value.estimate, value.unit, signed=signed), interval(value, signed=signed))


def _count(group: Group, view: StudyView, metric: str, field: str) -> Td:
    """An exact count: the metric, or what variant.json says."""
    value = group.value(view, metric)
    known = [getattr(v, field) for v in group.members if getattr(v, field) is not None]
    if value is None and not known:
        return _MISSING
    count = value.estimate if value is not None else sum(known) / len(known)
    unit = Unit.FRACTION if field == "sparsity" else Unit.COUNT
    if field == "sparsity":
        return Td(f"{number(count, unit, digits=1)} %", "exact")
    return Td(number(count, unit), f"{count:,.0f}")


def _file(group: Group, view: StudyView) -> Td:
    """The dense file, and the sparse one where there is one."""
    value = group.value(view, "size.onnx_bytes")
    stored = [a.bytes for v in group.members if (a := v.artefact("model.onnx")) is not None]
    dense = value.estimate if value is not None else sum(stored) / len(stored) if stored else None
    if dense is None:
        return _MISSING
    shipped = shipped_bytes(group, view)
    sparse = f"sparse file {size(shipped)}" if shipped is not None and shipped < dense else "exact"
    return Td(size(dense), sparse)


def results_table(view: StudyView, groups: Sequence[Group]) -> TablePart:
    """One row per variant (or mean of seeds), one column per metric, each with its interval."""
    verdicts = view.verdict is not None
    heads = [Column("Variant"), *([Column("Gate")] if verdicts else [])]
    units = ("%", "%", "%", "nats", "%")
    heads += [Column(title(m), u) for m, u in zip(_SHOWN, units, strict=True)]
    heads += [Column("Latency, median", "ms"), Column("Latency ratio", "to baseline"), Column("ONNX file")]
    heads += [Column("Parameters"), Column("MACs"), Column("Sparsity", "of conv weights")]
    rows = []
    for g in groups:
        seeds = f"mean of {len(g.members)} seeds" if len(g.members) > 1 else ""
        row = [Td(clean(g.label), seeds)]
        if verdicts:
            status = g.status(view)
            row.append(
                Td(*_verdict_words(g, view))
                if status is None
                else Td(" ".join(STATUS[status]), kind=f"status-{status}")
            )
        row += [_td(g.value(view, m)) for m in _SHOWN]
        ratio = g.value(view, "latency.ratio")
        row.append(_td(g.value(view, "latency.p50_ms")))
        if g.is_baseline:
            row.append(Td("×1", "reference"))
        else:
            row.append(
                _MISSING
                if ratio is None
                else Td(amount(ratio.estimate, ratio.unit), f"{interval(ratio)}; {speed(ratio)}")
            )
        row += [_file(g, view), _count(g, view, "size.params", "params"), _count(g, view, "macs", "macs")]
        row.append(_count(g, view, "sparsity", "sparsity"))
        rows.append(tuple(row))
    return TablePart("All variants: estimate and interval", tuple(heads), tuple(rows), "wide sticky")


def _verdict_words(group: Group, view: StudyView) -> tuple[str, str, str]:
    """For a variant that no error gate judged."""
    del view
    return ("reference", "", "") if group.is_baseline else ("not gated", "", "absent")


_DIFFERENCES = ("accuracy", "mpc", "ece_em10_top1", "nll", "brier", "high_conf_error@0.9")
_LESS_IS_BETTER = ("ece_em10_top1", "nll", "brier", "high_conf_error@0.9")


def differences_table(view: StudyView, groups: Sequence[Group]) -> TablePart | None:
    """Paired differences to the baseline, marked worse or better where the interval leaves zero out. None: there are none."""
    rows, compared = [], [g for g in groups if not g.is_baseline]
    wanted = [m for m in _DIFFERENCES if any(g.difference(view, m) is not None for g in compared)]
    if not wanted:
        return None
    changed = any(g.difference(view, "flips") or g.value(view, "flips") for g in compared)
    for g in compared:
        row = [Td(clean(g.label), f"mean of {len(g.members)} seeds" if len(g.members) > 1 else "")]
        for metric in wanted:
            value = g.difference(view, metric)
            row.append(_MISSING if value is None else _judged(value, metric in _LESS_IS_BETTER))
        flips = g.difference(view, "flips") or g.value(view, "flips")
        if changed:
            row.append(_MISSING if flips is None else Td(number(flips.estimate, flips.unit), interval(flips)))
        rows.append(tuple(row))
    flip_head = (Column("Flips", "% of images"),) if changed else ()
    units = {"nll": "nats", "brier": "score"}
    heads = (Column("Variant"), *(Column(f"Δ {title(m)}", units.get(m, "pp")) for m in wanted), *flip_head)
    return TablePart(
        "Each variant minus the baseline, on the same images and the same corrupted pixels",
        heads,
        tuple(rows),
        "wide sticky",
    )


def _judged(value: Value, less_is_better: bool) -> Td:
    """A difference in words and sign: worse, better, or within the interval of zero."""
    shown = number(value.estimate, value.unit, signed=True)
    bounds = value.outer
    if bounds is None or bounds[0] <= 0.0 <= bounds[1]:
        return Td(shown, f"{interval(value, signed=True)}; no clear change" if bounds else "no interval")
    worse = (value.estimate > 0) == less_is_better
    return Td(
        shown, f"{interval(value, signed=True)}; {'worse' if worse else 'better'}", "worse" if worse else "better"
    )


_STEPS = (0.01, 0.02, 0.05)  #: of the heat map's colours, fractions


def heat_table(name: str, cells: Sequence[CellDifference], order: Sequence[str]) -> TablePart:
    """Corruption x severity: the paired accuracy difference in pp; in brackets and grey where the interval covers zero."""
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
    caption = f"{name}: accuracy minus the baseline's, pp, {many} images per cell"
    return TablePart(caption, (Column("Corruption"), *(Column(str(s)) for s in levels)), tuple(rows), "heat")


def _heat(cell: CellDifference) -> Td:
    """One cell."""
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
    heads = ("Layer", "Kind", "Out channels", "In channels", "Parameters", "Zero weights", "Criterion", "Note")
    return TablePart(f"Layers of {clean(variant.id)}", tuple(Column(h) for h in heads), rows, "wide layers")


def _layer_row(layer: LayerRecord) -> tuple[Td, ...]:
    """One layer."""

    def change(before: int, after: int) -> str:
        return f"{before:,}" if before == after else f"{before:,} → {after:,}"

    kept = layer.params_after / layer.params_before if layer.params_before else 1.0
    kept *= 1.0 - layer.sparsity
    order = [k for k in ("min", "median", "max", "threshold") if k in layer.criterion]
    order += sorted(set(layer.criterion) - set(order))
    criterion = ", ".join(f"{clean(k)} {layer.criterion[k]:.3g}" for k in order)
    touched = layer.out_before != layer.out_after or layer.in_before != layer.in_after or layer.sparsity > 0
    note = clean(layer.note) if layer.note else ("pruned" if touched else "left alone: no reason recorded")
    return (
        Td(clean(layer.name)),
        Td(clean(layer.kind)),
        Td(change(layer.out_before, layer.out_after)),
        Td(change(layer.in_before, layer.in_after)),
        Td(change(layer.params_before, layer.params_after), f"{kept * 100:.0f} % kept", bar=min(max(kept, 0.0), 1.0)),
        Td(f"{layer.sparsity * 100:.1f} %"),
        Td(criterion or "none recorded", kind="" if criterion else "absent"),
        Td(note),
    )


def provenance_table(view: StudyView) -> TablePart:
    """The files behind the numbers, by hash."""
    rows = []
    for v in view.variants:
        measured = view.measurements.get(v.id)
        parity = ", ".join(
            f"{clean(p.file)} against {clean(p.reference)}: {'bit-equal' if p.bit_equal else f'{p.max_abs_logit:.1e} logits'}"
            for p in v.parity
        )
        files = [f"{clean(a.file)} {clean(a.sha256)} ({size(a.bytes)})" for a in v.artefacts]
        rows.append(
            (
                Td(clean(v.id)),
                Td("not recorded" if v.opset is None else str(v.opset)),
                Td(parity or ABSENT, kind="" if parity else "absent"),
                Td(
                    ABSENT if measured is None else clean(measured.evidence_sha256),
                    kind="hash" if measured else "absent",
                ),
                Td(" ".join(files) or "none", kind="hash"),
            )
        )
    heads = ("Variant", "Opset", "Parity of the exported file", "Evidence", "Files")
    return TablePart("Files and their hashes (SHA-256)", tuple(Column(h) for h in heads), tuple(rows), "wide")


def unfinished_table(view: StudyView) -> TablePart | None:
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
    return TablePart("Variants without a result", (Column("Variant"), Column("Status"), Column("Reason")), rows)
