"""The published study's three figures for our studies: methods by networks, bands of one deviation over seeds."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgesafe.display import ABSENT, clean
from edgesafe.errors import UsageError
from edgesafe.report.comparison.points import Curve, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TITLES", "figures"]

TITLES = (
    "Figure 1: calibration error and accuracy on clean images against the share removed",
    "Figure 2: accuracy under corruption (mPC) against the share removed, one line per severity",
    "Figure 3: calibration error under corruption against the share removed, one line per severity",
)
_SEVERITIES = ("#3b528b", "#2c728e", "#21918c", "#5ec962", "#b5a515")  # of viridis, dark enough for white paper
_TITLE = 34  # letters of a panel's title in a line
_RC: Any = {"svg.fonttype": "none", "svg.hashsalt": "edgesafe", "font.size": 9.0, "text.parse_math": False}


def figures(curves: Sequence[Curve]) -> tuple[str, ...]:
    """The figures of `TITLES` as SVG files; the same curves give the same bytes.

    Raises:
        UsageError: matplotlib is not installed.
    """
    by_severity = (_drawn(curves, _by_severity(metric), keyed=True) for metric in ("mpc", "ece_em10_top1"))
    return _drawn(curves, _clean, keyed=False), *by_severity


def _drawn(curves: Sequence[Curve], draw: Callable[[Axes, Curve], tuple[Axes, ...]], *, keyed: bool) -> str:
    """One panel for each curve, all on the same scales; what the lines of a panel are is said once, below, if keyed."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("matplotlib is not installed", fix="pip install 'edgesafe[report]'") from None
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with rc_context(_RC):
        figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        panels: list[tuple[Axes, ...]] = []
        for number, (curve, title) in enumerate(zip(curves, titles(curves), strict=True)):
            ax = figure.add_subplot(rows, columns, number + 1)
            ax.set_title(textwrap.fill(clean(title), _TITLE), fontsize=9.5)
            ax.set_xlabel("share removed, %")
            ax.grid(visible=True, color="#dddddd", linewidth=0.6)
            panels.append(draw(ax, curve))
        _share_scales(panels, max(100 * point.ratio for curve in curves for point in curve.points))
        lines = {str(line.get_label()): line for ax, *_ in panels for line in ax.lines}
        if keyed and lines:
            figure.legend(
                lines.values(), lines, loc="outside lower center", ncols=min(len(lines), 3 * columns), fontsize=8,
                frameon=False,
            )  # fmt: skip
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _share_scales(panels: Sequence[tuple[Axes, ...]], deepest: float) -> None:
    """One scale for each axis over all panels; a panel without lines says that nothing was measured.

    Args:
        panels: the axes of each: one, or a left and a right one.
        deepest: the largest share that is removed, in percent.
    """
    for alike in zip(*panels, strict=True):
        limits = [ax.get_ylim() for ax in alike if ax.lines] or [(0.0, 1.0)]
        for ax in alike:
            ax.set_xlim(-0.04 * deepest, 1.04 * deepest)
            ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for first, *others in panels:
        if not any(ax.lines for ax in (first, *others)):
            first.text(0.5, 0.5, ABSENT, transform=first.transAxes, ha="center", va="center", color="#555555")


def _clean(ax: Axes, curve: Curve) -> tuple[Axes, ...]:
    """ECE on the left axis, accuracy on the right; gives both."""
    _line(ax, curve, "ece_em10_top1", "#b2182b", "ECE")
    ax.set_ylabel("ECE, %", color="#b2182b")
    right = ax.twinx()
    _line(right, curve, "accuracy", "#2166ac", "accuracy", marker="s")
    right.set_ylabel("accuracy, %", color="#2166ac")
    return ax, right


def _by_severity(metric: str) -> Callable[[Axes, Curve], tuple[Axes, ...]]:
    def draw(ax: Axes, curve: Curve) -> tuple[Axes, ...]:
        for severity, colour in enumerate(_SEVERITIES, 1):
            _line(ax, curve, f"{metric}.severity.{severity}", colour, f"severity {severity}")
        ax.set_ylabel("mPC, %" if metric == "mpc" else "ECE, %")
        return (ax,)

    return draw


def _line(ax: Axes, curve: Curve, metric: str, colour: str, label: str, marker: str = "o") -> None:
    found = [(p.ratio, spread) for p in curve.points if (spread := p.spread(metric)) is not None]
    if not found:
        return
    x = [100 * ratio for ratio, _ in found]
    y = [100 * spread.mean for _, spread in found]
    ax.plot(x, y, color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=label)
    sd = [100 * (spread.sd or 0.0) for _, spread in found]
    low, high = ([a + sign * b for a, b in zip(y, sd, strict=True)] for sign in (-1, 1))
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
