"""A study as a notebook shows it: the table that the terminal prints, as HTML."""

from __future__ import annotations

from html import escape

from edgesafe.commands.columns import cells, columns_of
from edgesafe.records import VariantStatus
from edgesafe.study.study import Study

__all__ = ["table"]

_CELL = "padding:.2em .7em;white-space:nowrap;border-bottom:1px solid rgba(128,128,128,.3)"


def table(study: Study) -> str:
    """One HTML table, without script or style sheet, legible on light and on dark pages; all text is escaped."""
    columns = columns_of(study)
    head = "".join(
        f'<th scope="col" style="{_CELL};text-align:{_side(i)}">{name}</th>'
        for i, name in enumerate(("variant", *(column.wide for column in columns)))
    )
    rows = []
    for variant in study.values():
        if variant.status is VariantStatus.DONE:
            texts = cells(variant, columns, wide=True)
        else:
            texts = [variant.id, f"{variant.status.value}: {variant.entry.reason}".rstrip(": ")]
        first, *rest = (escape(text) for text in texts)
        inner = f'<th scope="row" style="{_CELL};text-align:left;font-weight:normal">{first}</th>'
        if variant.status is VariantStatus.DONE:
            inner += "".join(f'<td style="{_CELL};text-align:right">{text}</td>' for text in rest)
        else:
            inner += f'<td colspan="{len(columns)}" style="{_CELL};text-align:left;opacity:.7">{rest[0]}</td>'
        rows.append(f"<tr>{inner}</tr>")
    caption = escape(f"{study.name} on {study.record.data.name}, measured under onnxruntime on {study.record.host.cpu}")
    return (
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f'<caption style="text-align:left;padding:.4em .7em">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _side(column: int) -> str:
    return "left" if column == 0 else "right"
