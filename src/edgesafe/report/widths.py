"""Layer widths before and after, one small panel per variant: where the pruning took its channels or weights from."""

from __future__ import annotations

from collections.abc import Sequence

from edgesafe.display import clean
from edgesafe.records import LayerRecord, SurgeryRecord
from edgesafe.report import svg
from edgesafe.report.parts import (
    FigurePart,
    Heading,
    TablePart,
    Td,
)
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group

__all__ = ["widths_figure"]


def _narrowed(surgery: SurgeryRecord) -> bool:
    """Whether channels were removed; otherwise single weights were set to zero."""
    return any(x.out_before != x.out_after or x.in_before != x.in_after for x in surgery.layers)


def _pair(layer: LayerRecord, narrowed: bool) -> tuple[float, float]:
    """Before and after: output channels, or the percentage of weights that are not zero."""
    if narrowed:
        return float(layer.out_before), float(layer.out_after)
    return 100.0, 100.0 * (1.0 - layer.sparsity)


def _panel(name: str, group: Group, surgery: SurgeryRecord, k: int) -> Panel:
    """One variant: the original widths tinted, what is left solid."""
    narrowed = _narrowed(surgery)
    pairs = [_pair(layer, narrowed) for layer in surgery.layers]
    with svg.frame(400, 170) as figure:
        ax = svg.axes(figure, (44, 36, 14, 34))
        edges = [v for i in range(len(pairs)) for v in (i + 0.1, i + 0.9)]
        for values, colour in (([b for b, _ in pairs], svg.GRID), ([a for _, a in pairs], svg.series(k))):
            heights = [v for x in values for v in (x, 0.0)][:-1]
            ax.stairs(heights, edges, fill=True, color=colour, linewidth=0)
        top = max(b for b, _ in pairs)
        ax.set_ylim(0, top * 1.02)
        ax.set_xlim(0, len(pairs))
        ax.set_yticks([0, top / 2, top], ["0", f"{top / 2:g}", f"{top:g}{'' if narrowed else ' %'}"])
        step = max(1, len(pairs) // 8)
        ticks = list(range(0, len(pairs), step))
        ax.set_xticks([t + 0.5 for t in ticks], [str(t + 1) for t in ticks])
        ax.set_xlabel("layer", color=svg.MUTED, fontsize=12)
        what = "output channels" if narrowed else "weights left"
        svg.heading(ax, f"{clean(group.label)}: {what}", 40 / 342, 1.09)
        changed = sum(a < b for b, a in pairs)
        text = (
            f"{what.capitalize()} of {len(pairs)} layers before (tinted) and after (solid); "
            f"{changed} layers have fewer. Smallest share left: {min(a / b for b, a in pairs) * 100:.0f} %."
        )
        return svg.draw(figure, name, f"Layers of {group.label}", text)


def widths_figure(groups: Sequence[Group], series_of: Sequence[str]) -> FigurePart | None:
    """Every pruned variant's layers (of several seeds, the lowest). None: nothing was pruned."""
    pruned = [(g, g.first.surgery) for g in groups if g.first.surgery is not None and g.first.surgery.layers]
    if not pruned:
        return None
    panels = tuple(
        _panel(f"width-{i}", g, surgery, series_of.index(g.series) if g.series in series_of else 0)
        for i, (g, surgery) in enumerate(pruned)
    )
    names = list(dict.fromkeys(layer.name for _, surgery in pruned for layer in surgery.layers))
    rows = []
    for i, name in enumerate(names):
        row = [Td(f"{i + 1}. {clean(name)}")]
        for _, surgery in pruned:
            layer = next((x for x in surgery.layers if x.name == name), None)
            row.append(Td("no such layer", kind="absent") if layer is None else _cell(layer, _narrowed(surgery)))
        rows.append(tuple(row))
    heads = (
        Heading("Layer"),
        *(Heading(clean(g.label), "channels" if _narrowed(s) else "weights left") for g, s in pruned),
    )
    return FigurePart(
        "fig-widths",
        "What is left of each layer",
        "Tinted: before. Solid: after. Layers in network order; the tables below say why a layer was left alone.",
        panels,
        TablePart("Layers before and after", heads, tuple(rows), "wide sticky"),
    )


def _cell(layer: LayerRecord, narrowed: bool) -> Td:
    """A cell of the table: channels before and after, or the percentage of weights left if nothing was narrowed."""
    before, after = _pair(layer, narrowed)
    if not narrowed:
        return Td(f"{after:.0f} %")
    return Td(f"{before:.0f}" if before == after else f"{before:.0f} → {after:.0f}")
