"""The certificates section: a table of the study, a curve per set with a range, a few witnesses, and what it covers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgesafe.certificates import summary
from edgesafe.display import clean, number
from edgesafe.measure.tasks import Rules, rules_of
from edgesafe.records import SetCertificates, Task
from edgesafe.report import svg
from edgesafe.report.parts import FigurePart, Heading, TablePart, Td
from edgesafe.report.strategies import any_certified, strategies_figure
from edgesafe.report.svg import Panel
from edgesafe.report.view import Group, Value, View
from edgesafe.report.words import estimate

__all__ = ["CertificatesPart", "Picture", "certificates_part", "set_ids"]

_SHOWN = 3  # witnesses of a set
_LARGEST = 64  # pixels: the page stays small
_LINES = svg.SERIES_COLOURS
_NONE = Td("", kind="absent")


@dataclass(frozen=True)
class Picture:
    """An image that is answered rightly, and beside it one of its set that is not."""

    clean: str  #: data: address of a PNG
    changed: str
    text: str


@dataclass(frozen=True)
class CertificatesPart:
    """What the page shows of certificates.

    Attributes:
        table: one row per variant and set.
        strategies: certified shares and CPU time by variant; None: there is one variant.
        curves: certified accuracy against range; None: no set has one.
        pictures: witnesses.
        covers: sentences on what a certificate is about, and on what it is not.
    """

    table: TablePart
    strategies: FigurePart | None
    curves: FigurePart | None
    pictures: tuple[Picture, ...]
    covers: tuple[str, ...]


def certificates_part(view: View, groups: Sequence[Group]) -> CertificatesPart | None:
    """The section, or None where nothing was certified."""
    ids = set_ids(view)
    if not ids:
        return None
    rules = rules_of(view.study.record.data.task or Task())
    by_group = {group.key: view.certificates.get(group.first.id) for group in groups}
    by_set: dict[str, list[tuple[Group, SetCertificates]]] = {name: [] for name in ids}
    for group in groups:
        certificates = by_group[group.key]
        for certificate in certificates.sets if certificates is not None else ():
            by_set.setdefault(certificate.id, []).append((group, certificate))
    pictures = tuple(picture for rows in by_set.values() for picture in _pictures(rows, rules))
    table, strategies = _table(view, groups, ids), strategies_figure(view, groups, ids)
    return CertificatesPart(table, strategies, _curves(by_set), pictures, _covers(view, ids))


def set_ids(view: View) -> list[str]:
    """Every set that a variant was certified for, in the order of the first that has it."""
    metrics = (metric for measured in view.measurements.values() for metric in measured.metrics)
    prefix = "certified_accuracy."
    return list(dict.fromkeys(metric.removeprefix(prefix) for metric in metrics if metric.startswith(prefix)))


# ----------------------------------------------------------------------------------------------------------- table


def _td(value: Value | None, *, signed: bool = False) -> Td:
    if value is None:
        return _NONE
    return Td(number(value.estimate, value.unit, signed=signed), estimate(value, signed=signed))


def _table(view: View, groups: Sequence[Group], ids: Sequence[str]) -> TablePart:
    points = any_certified(view, groups, ids, "certified_points")
    timed = any_certified(view, groups, ids, "certify.cpu_ms")
    columns = (
        Heading("Variant"),
        Heading("Set"),
        *((Heading("Certified keypoints", "% of keypoints"),) if points else ()),
        Heading("Certified", "% of images"),
        Heading("Against the baseline", "pp, paired"),
        Heading("Falsified", "% of images"),
        Heading("Same answers as the baseline", "% of images"),
        Heading("Run for an image", "images, or points of the line"),
        *((Heading("CPU time of an image", "ms"),) if timed else ()),
    )
    rows = tuple(
        (
            Td(clean(group.label)),
            Td(name),
            *((_td(group.value(view, f"certified_points.{name}")),) if points else ()),
            _td(group.value(view, f"certified_accuracy.{name}")),
            _td(group.difference(view, f"certified_accuracy.{name}"), signed=True),
            _td(group.value(view, f"falsified.{name}")),
            _td(group.difference(view, f"certified_agreement.{name}")),
            _ran(view, group, name),
            *((_td(group.value(view, f"certify.cpu_ms.{name}")),) if timed else ()),
        )
        for name in ids
        for group in groups
        if group.value(view, f"certified_accuracy.{name}") is not None
    )
    return TablePart("Certificates: every image of each set was run", columns, rows)


def _ran(view: View, group: Group, name: str) -> Td:
    """How many images were run for one test image, or how many points its line has: the mean of the first seed."""
    measured = view.measurements[group.first.id].metrics[f"certified_accuracy.{name}"]
    count = measured.details.get("images_run")
    return _NONE if count is None else Td(f"{count / measured.n:,.1f}")


# ---------------------------------------------------------------------------------------------------------- curves


def _curves(by_set: dict[str, list[tuple[Group, SetCertificates]]]) -> FigurePart | None:
    """One panel per set that has a range: a step line per variant."""
    drawn = {
        name: [(group, certificate) for group, certificate in rows if certificate.unit and certificate.outwards][
            :_LINES
        ]
        for name, rows in by_set.items()
    }
    drawn = {name: rows for name, rows in drawn.items() if rows}
    if not drawn:
        return None
    return FigurePart(
        "fig-radius",
        "Certified accuracy against range",
        "The share of all test images that stay right on every image of the set up to a range. It begins near the "
        "accuracy and ends at the certified accuracy of the whole set. A higher line is better.",
        tuple(_panel(f"radius-{k}", name, rows) for k, (name, rows) in enumerate(drawn.items())),
        _numbers(drawn),
        f"Each variant's first seed; at most {_LINES} variants.",
    )


def _panel(panel: str, name: str, rows: Sequence[tuple[Group, SetCertificates]]) -> Panel:
    width, height = 420, 264
    with svg.frame(width, height) as figure:
        ax = svg.axes(figure, (48, 40, 116, 40))
        ends = []
        colours = iter(svg.series(k) for k in range(len(rows)))
        for group, certificate in rows:
            places, share = summary.curve(certificate)
            colour = svg.INK if group.is_baseline else next(colours)
            ax.step(places, 100 * share, where="post", color=colour, linewidth=2.0)
            ends.append((clean(group.label), colour, float(100 * share[-1])))
        reach = max(certificate.reach for _, certificate in rows)
        ax.set_xlim(0, reach)
        ax.locator_params(axis="both", nbins=5)
        low, high = ax.get_ylim()
        gap = 15 / (height - 80) * (high - low)
        places_ = svg.spread_labels([end for _, _, end in ends], gap, low + gap / 2)
        for (label, colour, end), y in zip(ends, places_, strict=True):
            svg.end_label(ax, label, colour, (reach, end), (1.04 * reach, y))
        ax.set_xlabel(f"range, {rows[0][1].unit}", color=svg.MUTED, fontsize=12)
        svg.heading(ax, f"{name}: certified, %", 40 / 260, 1.08)
        said = " ".join(f"{label}: {end:.2f} % at the whole range." for label, _, end in ends)
        return svg.draw(figure, panel, f"Certified accuracy against range, {name}", said)


def _numbers(drawn: dict[str, list[tuple[Group, SetCertificates]]]) -> TablePart:
    """The curves at quarters of the range."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    columns = (Heading("Variant"), Heading("Set"), *(Heading(f"{100 * s:g} %", "of the range") for s in shares))
    rows = []
    for name, pairs in drawn.items():
        for group, certificate in pairs:
            places, share = summary.curve(certificate)
            at = [int(np.searchsorted(places, s * certificate.reach + 1e-9, side="right")) - 1 for s in shares]
            rows.append((Td(clean(group.label)), Td(name), *(Td(f"{100 * share[k]:.2f}") for k in at)))
    return TablePart("Certified accuracy, % of images, up to a share of the range", columns, tuple(rows))


# -------------------------------------------------------------------------------------------------------- pictures


def _pictures(rows: Sequence[tuple[Group, SetCertificates]], rules: Rules) -> list[Picture]:
    """The witnesses nearest to the untouched image, of the first variant that has any."""
    for group, certificate in rows:
        shown = certificate.witnesses
        if not len(shown.row) or max(shown.clean.shape[1:3]) > _LARGEST:
            continue
        pictures = []
        for k in range(min(_SHOWN, len(shown.row))):
            row = int(shown.row[k])
            was, answered = rules.told(int(certificate.label[row]), int(shown.prediction[k]))
            what = " ".join(part for part in (f"test image {int(certificate.index[row])}", was) if part)
            text = f"{clean(group.label)}, {what}; {clean(shown.text[k])}: {clean(answered)}"
            pictures.append(Picture(_png(shown.clean[k]), _png(shown.changed[k]), text))
        return pictures
    return []


def _png(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# ----------------------------------------------------------------------------------------------------------- words


def _covers(view: View, ids: Sequence[str]) -> tuple[str, ...]:
    origin = next((c.provenance for c in view.certificates.values()), None)
    where = f"{origin.runtime}, {origin.provider}" if origin is not None else "onnxruntime"
    covers = (
        "Certified: for this image and this very file the answer is right on the untouched image and on every 8-bit "
        f"image that the set makes. All of them were run ({where}); nothing is sampled or bounded.",
        "Falsified: right on the untouched image, wrong on at least one image of the set, which was run again alone.",
        "Not covered: other files, runtimes and processors, other rounding of the same operation, a change of light "
        "together with noise or another fault, changes before the pixels are stored, and images that were not tested.",
        "All test images are the denominator: certified, falsified and wrong on the untouched image add up to 100 %.",
    )
    along = (
        "Sets that begin with line. follow the real-valued function of the file along the unquantised range, exact up "
        "to float rounding; they say nothing of 8-bit images, which may be wrong where the line is right."
    )
    return (*covers, along) if any(name.startswith("line.") for name in ids) else covers
