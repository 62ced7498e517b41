"""The page as a whole: self-contained, deterministic, small, readable without sight, open about what is missing."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time

import pytest
from report_reading import Page
from report_synthetic import LARGE, Plan, changed, study

from edgesafe.records import GateStatus
from edgesafe.report import ReportFiles, View, build


def test_nothing_is_loaded_and_nothing_runs(files: ReportFiles) -> None:
    root = Page(files.html).root
    policy = next(
        m.attrs["content"] for m in root.all("meta") if m.attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "script" not in policy
    tags = {n.tag for n in root.walk()}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "audio", "video"}
    for n in root.walk():
        assert not [a for a in n.attrs if a.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert n.attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?:|url\((?!#)|@import", files.html)


def test_the_same_study_gives_the_same_bytes(view: View, files: ReportFiles) -> None:
    assert build(view) == files


def test_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib, report_synthetic as s; from edgesafe.report import build;"
        "f = build(s.study(s.Plan(variants=(('filter', 0.5),), n=300, per_cell=40)));"
        "print(hashlib.sha256((f.html + f.markdown + f.csv + f.json).encode()).hexdigest())"
    )
    here = str(__import__("pathlib").Path(__file__).parent)
    runs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=here,
            env={**os.environ, "PYTHONHASHSEED": s},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in ("1", "77")
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65


MANY = tuple((m, round(r / 100, 2)) for m in ("weight", "filter", "channel", "random") for r in range(10, 60))


def _left_out(files: ReportFiles, variants: int) -> None:
    assert len(files.html.encode()) < 1_000_000
    words = Page(files.html).root.words()
    shown = Page(files.html).root.all("table")[1].all("tr")
    hidden = variants + 1 - 24
    assert f"{hidden} of {variants + 1} variants" in words
    assert len(shown) < 40
    assert f"{hidden} of {variants + 1} variants" in files.markdown
    assert len(json.loads(files.json)["variants"]) == variants + 1, "all are in results.json"
    assert len({line.split(",")[1] for line in files.csv.splitlines()[1:]}) == variants + 1, "and in results.csv"
    assert "baseline" in words


def test_a_study_of_many_variants_shows_less_and_says_so() -> None:
    _left_out(build(study(Plan(variants=MANY[:40], n=60, corruptions=(), evidence=False, layers=2))), 40)


@pytest.mark.slow
def test_a_study_of_two_hundred_variants_has_a_page() -> None:
    _left_out(build(study(Plan(variants=MANY, n=300, per_cell=30))), 200)


def test_a_policy_of_many_gates_shows_the_worst() -> None:
    view = study(Plan(variants=(("filter", 0.5),), n=60, corruptions=(), evidence=False, layers=2))
    assert view.verdict is not None
    fine = next(g for g in view.verdict.gates if g.status is GateStatus.PASS)
    gates = [fine.model_copy(update={"id": f"g{k}"}) for k in range(60)]
    bad = fine.model_copy(update={"id": "the-bad-one", "status": GateStatus.FAIL, "blocking": True})
    verdict = view.verdict.model_copy(update={"gates": (*gates, bad)})
    page = Page(build(changed(view, verdict=verdict)).html).root.words()
    assert "37 gates" in page
    assert "the-bad-one" in page


def test_landmarks_headings_and_names(files: ReportFiles) -> None:
    root = Page(files.html).root
    for tag in ("header", "nav", "main", "footer", "h1", "title"):
        assert len([n for n in root.all(tag) if tag != "title" or "id" not in n.attrs]) == 1, tag
    assert root.all("html")[0].attrs["lang"] == "en"
    ids = [n.attrs["id"] for n in root.walk() if "id" in n.attrs]
    assert len(ids) == len(set(ids)), "an id twice"
    for link in root.all("a"):
        assert link.attrs["href"][1:] in ids
    levels = [int(n.tag[1]) for n in root.walk() if re.fullmatch(r"h[1-6]", n.tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), "a heading level is skipped"


def test_every_figure_has_a_name_a_text_and_a_table(files: ReportFiles) -> None:
    root = Page(files.html).root
    texts = {n.attrs["id"]: n.text for n in root.walk() if "id" in n.attrs}
    plots = root.all("svg")
    assert len(plots) > 20
    for plot in plots:
        assert plot.attrs["role"] == "img"
        name, description = (texts[i] for i in plot.attrs["aria-labelledby"].split())
        assert len(name) > 5 and len(description) > 20
    figures = [f for f in root.all("figure") if f.all("svg")]
    assert sum(len(f.all("svg")) for f in figures) == len(plots), "a plot outside a figure"
    for figure in figures:
        table = figure.all("details")[0].all("table")[0]
        assert len(table.all("tr")) > 1
    for use in root.all("use"):
        assert use.attrs["href"][1:] in texts


def test_every_table_has_a_caption_and_scoped_headers(files: ReportFiles) -> None:
    tables = Page(files.html).root.all("table")
    assert len(tables) > 10
    for table in tables:
        assert table.all("caption")[0].words()
        assert {th.attrs.get("scope") for th in table.all("thead")[0].all("th")} == {"col"}
        wide = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            cells = [c for c in row.children if c.tag in ("th", "td")]
            assert cells[0].tag == "th" and cells[0].attrs["scope"] == "row"
            assert len(cells) == wide
            assert all(c.words() for c in cells), "a blank cell"


def test_figures_take_their_colours_from_the_page(files: ReportFiles) -> None:
    plots = re.findall(r"<svg.*?</svg>", files.html, flags=re.S)
    used = set()
    for plot in plots:
        assert not re.search(r"#[0-9a-f]{3,6}[;\" ]", plot.replace('href="#', "")), "a fixed colour"
        used |= set(re.findall(r"var\(--(\w+)\)", plot))
    css = files.html[: files.html.index("</style>")]
    for mode in (
        css.split("@media screen and (prefers-color-scheme: dark)")[0],
        css.split("@media screen and (prefers-color-scheme: dark)")[1],
    ):
        assert all(f"--{name}:" in mode for name in used)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(variants=(), gated=False, n=300, per_cell=40),
        Plan(variants=(), gated=False, n=300, corruptions=(), latency=False, temperature=False, evidence=False),
        Plan(variants=(("weight", 0.5),), n=300, corruptions=(), latency=False),
        Plan(variants=(("filter", 0.5),), n=300, per_cell=40, temperature=False, gated=False),
        Plan(variants=(("channel", 0.3), ("random", 0.3)), n=300, corruptions=("fog",), per_cell=40, evidence=False),
    ],
    ids=["baseline", "bare", "no-corruptions", "no-temperature", "no-evidence"],
)
def test_what_is_missing_is_said(plan: Plan) -> None:
    html = build(study(plan)).html
    root = Page(html).root
    assert "not measured" in root.words()
    for cell in root.all("td"):
        assert cell.words() not in ("", "nan", "None", "0.0")
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", html.lower())


def test_without_measurements_there_is_still_a_page(small: View) -> None:
    bare = changed(small, measurements={}, evidence={}, verdict=None)
    page = build(bare)
    assert page.html.count("not measured") > 10 and "not measured" in page.markdown
    assert page.csv.count("\n") == 1


def test_without_a_verdict_the_page_says_how_to_get_one(small: View) -> None:
    html = build(changed(small, verdict=None)).html
    assert "No verdict yet" in html and "edgesafe gate export/resnet20-cifar10 --policy" in html
    assert 'id="fig-gates"' not in html


def test_wording(files: ReportFiles) -> None:
    text = Page(files.html).root.words().lower()
    assert "evidence for" in text and "compliant" not in text and "certified" not in text
    assert "no speed-up" in text, "weight variants are not faster"
    assert "unstructured" in text
    assert "iso" not in re.findall(r"[a-z]+", text)


def test_samples_are_embedded_and_checked(small: View) -> None:
    from edgesafe.errors import DataError

    png = b"\x89PNG\r\n\x1a\n" + bytes(50)
    image = Page(build(changed(small, samples=png)).html).root.all("img")[0]
    assert image.attrs["src"].startswith("data:image/png;base64,") and len(image.attrs["alt"]) > 20
    with pytest.raises(DataError):
        build(changed(small, samples=b"GIF89a"))


def test_too_large_a_page_leaves_details_out_and_says_so(small: View) -> None:
    samples = b"\x89PNG\r\n\x1a\n" + bytes(715_000)
    html = build(changed(small, samples=samples)).html
    assert len(html.encode()) < 1_000_000
    assert "Left out to keep this page under 1 MB" in html and "sample images" in html


def test_an_audit_of_foreign_files(small: View) -> None:
    """`edgesafe evaluate`: no ratio, no surgery, MACs unknown."""
    audited = {"baseline-s0": "baseline", "filter-r0.50-s0": "candidate"}
    variants = tuple(
        v.model_copy(update={"method": audited[v.id], "ratio": 0.0, "surgery": None, "macs": None, "temperature": None})
        for v in small.variants
        if v.id in audited
    )
    measured = {
        i: small.measurements[i].model_copy(
            update={"metrics": {k: m for k, m in small.measurements[i].metrics.items() if k != "macs"}}
        )
        for i in audited
    }
    view = changed(small, variants=variants, measurements=measured, verdict=None)
    html = build(view).html
    assert 'id="fig-profile"' in html and "Audited files" in html and 'id="fig-ratio"' not in html
    assert "not measured" in html


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["24", "24x3"])
def test_a_study_of_24_variants_is_fast_and_small(seeds: tuple[int, ...]) -> None:
    large = study(Plan(variants=LARGE, seeds=seeds, per_cell=100))
    start = time.process_time()
    first = build(large)
    assert time.process_time() - start < 20
    assert len(first.html.encode()) < 1_000_000
    assert build(large) == first
    if len(seeds) > 1:
        assert "standard deviation over seeds" in first.html


def test_importing_the_package_is_cheap() -> None:
    heavy = "('matplotlib', 'jinja2', 'torch', 'onnxruntime')"
    code = f"import sys, edgesafe.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
