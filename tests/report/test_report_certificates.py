"""The certificates section says what the certificates say: numbers, curve, witnesses, and what they cover."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_reading import Page
from report_synthetic import changed

from edgesafe.certificates import summary
from edgesafe.certificates.certification import Work, certify_set
from edgesafe.certificates.enumeration import Images, SetPlan
from edgesafe.certificates.ids import parse
from edgesafe.records import (
    CertificateProvenance,
    Certificates,
    Population,
    PopulationKind,
    Standing,
)
from edgesafe.report import View, build
from edgesafe.report.certificates import certificates_part
from edgesafe.report.view import grouped

ORIGIN = CertificateProvenance(onnx_sha256="a", test_sha256="t", provider="CPU", runtime="onnxruntime 9.9.9")
PEOPLE = Population(kind=PopulationKind.IMAGES, description="synthetic")


class Threshold:
    """Bright images are of class 1; `shift` moves the threshold."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def logits(self, images, batch_size=32):  # noqa: ARG002
        light = images.reshape(len(images), -1).mean(axis=1) - 128.0 + self.shift
        return np.stack([-light, light], axis=1).astype(np.float32)


class Nothing:
    def get(self, name):  # noqa: ARG002
        return None

    def put(self, name, data):
        pass


@pytest.fixture(scope="module")
def certified(small: View) -> View:
    """The small study, every variant certified for two sets of 40 images."""
    levels = np.random.default_rng(0).integers(110, 146, 40)
    pixels = np.broadcast_to(levels[:, None, None, None], (40, 8, 8, 3)).astype(np.uint8)
    images = Images(np.ascontiguousarray(pixels), (levels > 128).astype(np.int64), np.arange(40))
    found: dict[str, Certificates] = {}
    measured = dict(small.measurements)
    base: Certificates | None = None
    for k, variant in enumerate(small.study):
        work = Work(Threshold(2.5 * k), images, ORIGIN, Nothing(), lambda _: None, 1)
        sets = []
        for name in ("brightness=6", "dead-line"):
            reference = base.of(name) if base is not None else None
            sets.append(certify_set(work, SetPlan(parse(name), complete=base is None, baseline=reference)))
        found[variant] = Certificates(tuple(sets), ORIGIN)
        differences = summary.compare(found[variant], base, PEOPLE) if base is not None else {}
        base = base or found[variant]
        old = measured[variant]
        measured[variant] = old.model_copy(
            update={
                "metrics": {**old.metrics, **summary.summarise(found[variant], PEOPLE)},
                "differences": {**old.differences, **differences},
            }
        )
    return replace(changed(small, measurements=measured), certificates=found)


def test_the_table_has_every_variant_and_set_with_the_numbers_of_the_certificates(certified: View) -> None:
    part = certificates_part(certified, grouped(certified)[0])
    assert part is not None
    assert [row[1].text for row in part.table.rows] == ["brightness=6"] * 3 + ["dead-line"] * 3
    for row, variant in zip(part.table.rows, certified.study, strict=False):
        one = certified.certificates[variant].sets[0]
        assert row[2].text == f"{100 * float((one.standing == Standing.CERTIFIED).mean()):.2f}"
        assert row[4].text == f"{100 * float((one.standing == Standing.FALSIFIED).mean()):.2f}"
        assert (row[5].text == "") == variant.startswith("baseline")


def test_the_curve_is_drawn_for_sets_with_a_range_only(certified: View) -> None:
    part = certificates_part(certified, grouped(certified)[0])
    assert part is not None
    assert part.curves is not None
    assert [panel.name for panel in part.curves.panels] == ["radius-0"]
    for row, variant in zip(part.curves.table.rows, certified.study, strict=True):
        places, share = summary.curve(certified.certificates[variant].sets[0])
        assert row[2].text == f"{100 * share[0]:.2f}"
        assert row[-1].text == f"{100 * share[-1]:.2f}"
        half = share[np.searchsorted(places, 3.0, side="right") - 1]
        assert row[4].text == f"{100 * half:.2f}"


def test_witnesses_are_the_stored_pixels(certified: View) -> None:
    part = certificates_part(certified, grouped(certified)[0])
    assert part is not None
    one = certified.certificates["baseline-s0"].sets[0]
    picture = part.pictures[0]
    for shown, stored in ((picture.clean, one.witnesses.clean[0]), (picture.changed, one.witnesses.changed[0])):
        content = base64.b64decode(shown.removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as image:
            assert (np.asarray(image) == stored).all()
    assert one.witnesses.text[0] in picture.text


def test_the_page_shows_it_and_says_what_is_covered_and_what_not(certified: View, small: View) -> None:
    page = Page(build(certified).html)
    section = next(n for n in page.root.walk() if n.attrs.get("id") == "certificates")
    words = section.words()
    for said in ("Not covered", "onnxruntime 9.9.9", "add up to 100 %", "Certified accuracy against range"):
        assert said in words
    assert len(section.all("img")) >= 2
    assert 'id="certificates"' not in build(small).html
    assert build(certified).html == build(certified).html


def test_the_markdown_has_the_certified_shares_of_every_variant(certified: View, small: View) -> None:
    lines = build(certified).markdown.splitlines()
    start = lines.index("| variant | certified images, brightness=6 | certified images, dead-line |")
    for line, variant in zip(lines[start + 2 :], certified.study, strict=False):
        cells = line.split(" | ")
        for cell, one in zip(cells[1:], certified.certificates[variant].sets, strict=True):
            assert cell.startswith(f"{100 * float((one.standing == Standing.CERTIFIED).mean()):.2f} % (")
    assert "certified images" not in build(small).markdown


def test_figures_of_the_page_can_stand_alone(certified: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import figures

    drawn = figures.figures(build(certified).html)
    assert {"strategy-0", "radius-0"} <= set(drawn)
    for text in drawn.values():
        root = ET.fromstring(text)  # noqa: S314 (our own)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert next(root.iter("{http://www.w3.org/2000/svg}title")).text
