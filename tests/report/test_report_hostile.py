"""Names, labels and messages come from users. None of them may become mark-up, a formula, a link or a crash."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest
from markdown_it import MarkdownIt
from report_reading import Page

from edgesafe.errors import (
    IntegrityError,
    NonFiniteError,
    NothingEvaluated,
    StoreError,
)
from edgesafe.records import VariantEntry
from edgesafe.report import StudyView, build
from edgesafe.report.words import clean

ATTACKS = (
    '<script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg><iframe src=//evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{0$",
    "--> ]]> &amp; &#60;b&#62;",
    "=HYPERLINK(0)",
    "zero\x00bell\x07rtl\u202eflip lone\ud800 \U0001f680 漢字",
    "https://evil.example/?q=[x](javascript:alert(1)) @everyone `code` | a | b",
    "x" * 5000,
)


def _with(view: StudyView, text: str) -> StudyView:
    """`text` wherever the records hold free text."""
    s = view.study
    data = s.data.model_copy(update={"name": text})
    host = s.host.model_copy(update={"cpu": text, "system": text, "versions": {text: text}})
    entries = (
        *s.variants,
        VariantEntry(id="filter-r0.90-s0", method="filter", ratio=0.9, seed=0, status="refused", reason=text),
    )
    record = s.model_copy(
        update={"name": text, "data": data, "host": host, "edgesafe": text, "recipe": {text: text}, "variants": entries}
    )
    variants = tuple(
        v.model_copy(
            update={
                "arch": text,
                "artefacts": tuple(
                    a.model_copy(update={"file": a.file if i == 0 else text}) for i, a in enumerate(v.artefacts)
                ),
                "surgery": v.surgery.model_copy(
                    update={
                        "notes": (text,),
                        "criterion": text,
                        "layers": tuple(
                            x.model_copy(
                                update={"name": f"{i}{text}", "note": text, "kind": text, "criterion": {text: 1.0}}
                            )
                            for i, x in enumerate(v.surgery.layers)
                        ),
                    }
                )
                if v.surgery
                else None,
            }
        )
        for v in view.variants
    )
    assert view.verdict is not None
    gates = tuple(
        g.model_copy(update={"id": text, "message": text, "rule": text, "method": text}) for g in view.verdict.gates
    )
    verdict = view.verdict.model_copy(update={"gates": gates, "notes": (text,), "profile": text})
    measured = {
        k: m.model_copy(update={"meta": {text: text, "provider": text, "threads": 1}})
        for k, m in view.measurements.items()
    }
    evidence = {
        k: dataclasses.replace(
            e, cells={(text, s): dataclasses.replace(c, corruption=text) for (_, s), c in e.cells.items()}
        )
        for k, e in view.evidence.items()
    }
    return dataclasses.replace(
        view, study=record, variants=variants, verdict=verdict, measurements=measured, evidence=evidence, path=text
    )


@pytest.fixture(scope="module")
def tags(small: StudyView) -> set[str]:
    return {n.tag for n in Page(build(_with(small, "plain")).html).root.walk()}


@pytest.mark.parametrize("text", ATTACKS, ids=range(len(ATTACKS)))
def test_free_text_stays_text(small: StudyView, tags: set[str], text: str) -> None:
    files = build(_with(small, text))
    root = Page(files.html).root
    assert {n.tag for n in root.walk()} == tags
    assert " ".join(clean(text)[:30].split()) in root.all("h1")[0].text, "the name is shown as it is"
    assert not [a for n in root.walk() for a in n.attrs if a.startswith("on")]
    assert not [
        n for n in root.walk() for a in ("src", "href") if not n.attrs.get(a, "#").startswith(("#", "data:image/png"))
    ]
    assert "\x00" not in files.html and "\u202e" not in files.html
    assert len(files.html.encode()) < 1_000_000
    assert json.loads(files.json)["study"]
    for row in csv.reader(io.StringIO(files.csv)):
        assert not [c for c in row if c[:1] in ("=", "+", "@") or (c[:1] == "-" and not _number(c))]
    for bad in ("https://", "@everyone"):  # what GitHub and GitLab turn into a link or a mention by themselves
        assert bad not in files.markdown
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(files.markdown)
    made = set(re.findall(r"<([a-z0-9]+)", rendered))
    assert made <= {"h2", "p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "sub"}


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_an_unknown_method_is_shown_under_its_own_name(small: StudyView) -> None:
    strange = small.variants[-1].model_copy(update={"id": "My<b>net", "method": "<b>", "ratio": 0.0})
    view = dataclasses.replace(
        small, variants=(*small.variants[:-1], strange), measurements={}, evidence={}, verdict=None
    )
    assert "My&lt;b&gt;net" in build(view).html


def test_nothing_finished_is_refused(small: StudyView) -> None:
    with pytest.raises(NothingEvaluated, match="edgesafe compress"):
        build(dataclasses.replace(small, variants=(), measurements={}))


def test_two_variants_of_one_id_are_refused(small: StudyView) -> None:
    with pytest.raises(StoreError, match="one id"):
        build(dataclasses.replace(small, variants=(*small.variants, small.variants[0])))


def test_measurements_of_nothing_are_refused(small: StudyView) -> None:
    measured = {**small.measurements, "ghost-s0": small.measurements["baseline-s0"]}
    with pytest.raises(StoreError, match="ghost-s0"):
        build(dataclasses.replace(small, measurements=measured))


def test_a_verdict_on_nothing_is_refused(small: StudyView) -> None:
    assert small.verdict is not None
    gate = small.verdict.gates[0].model_copy(update={"variant": "ghost-s0"})
    with pytest.raises(StoreError, match="ghost-s0"):
        build(dataclasses.replace(small, verdict=small.verdict.model_copy(update={"gates": (gate,)})))


def test_measurements_of_another_file_are_refused(small: StudyView) -> None:
    measured = dict(small.measurements)
    measured["baseline-s0"] = measured["baseline-s0"].model_copy(update={"onnx_sha256": "sha256:" + "0" * 64})
    with pytest.raises(IntegrityError, match="baseline-s0"):
        build(dataclasses.replace(small, measurements=measured))


@pytest.mark.parametrize("field", ["estimate", "low", "high"])
def test_a_number_that_is_none_is_refused(small: StudyView, field: str) -> None:
    measured = dict(small.measurements)
    one = measured["baseline-s0"]
    bad = one.metrics["accuracy"].model_copy(update={field: float("nan")})
    measured["baseline-s0"] = one.model_copy(update={"metrics": {**one.metrics, "accuracy": bad}})
    with pytest.raises(NonFiniteError, match="accuracy"):
        build(dataclasses.replace(small, measurements=measured))
