"""Names, labels and messages come from users. None of them may become mark-up, a formula, a link or a crash."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_reading import Page
from report_synthetic import changed

from edgesafe.display import clean
from edgesafe.errors import (
    NonFiniteError,
    NothingEvaluated,
    StoreError,
)
from edgesafe.records import Role, VariantEntry
from edgesafe.report import View, build

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


def _with(view: View, text: str) -> View:
    """`text` wherever the records hold free text."""
    s = view.study.record
    data = s.data.model_copy(update={"name": text})
    host = s.host.model_copy(update={"cpu": text, "system": text, "versions": {text: text}})
    entries = (
        *s.variants,
        VariantEntry(
            id="filter-r0.90-s0",
            role=Role.CANDIDATE,
            label="filter",
            group="filter-r0.90",
            method="filter",
            ratio=0.9,
            seed=0,
            status="refused",
            reason=text,
        ),
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
    return changed(
        view,
        record=record,
        variants=variants,
        verdict=verdict,
        measurements=measured,
        evidence=evidence,
        root=Path(text),
    )


@pytest.fixture(scope="module")
def tags(small: View) -> set[str]:
    return {n.tag for n in Page(build(_with(small, "plain")).html).root.walk()}


@pytest.mark.parametrize("text", ATTACKS, ids=range(len(ATTACKS)))
def test_free_text_stays_text(small: View, tags: set[str], text: str) -> None:
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


def test_a_label_is_shown_as_it_is(small: View) -> None:
    entries = tuple(
        e if e.is_baseline else e.model_copy(update={"label": "My<b>net"}) for e in small.study.record.variants
    )
    view = changed(small, record=small.study.record.model_copy(update={"variants": entries}))
    assert "My&lt;b&gt;net 50 %" in build(view).html


def test_nothing_finished_is_refused(small: View) -> None:
    with pytest.raises(NothingEvaluated, match="edgesafe compress"):
        build(changed(small, variants=(), measurements={}))


def test_a_verdict_on_nothing_is_refused(small: View) -> None:
    assert small.verdict is not None
    gate = small.verdict.gates[0].model_copy(update={"variant": "ghost-s0"})
    with pytest.raises(StoreError, match="ghost-s0"):
        build(changed(small, verdict=small.verdict.model_copy(update={"gates": (gate,)})))


@pytest.mark.parametrize("field", ["estimate", "low", "high"])
def test_a_number_that_is_none_is_refused(small: View, field: str) -> None:
    measured = dict(small.measurements)
    one = measured["baseline-s0"]
    bad = one.metrics["accuracy"].model_copy(update={field: float("nan")})
    measured["baseline-s0"] = one.model_copy(update={"metrics": {**one.metrics, "accuracy": bad}})
    with pytest.raises(NonFiniteError, match="accuracy"):
        build(changed(small, measurements=measured))
