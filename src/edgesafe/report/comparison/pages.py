"""The comparison as files: report.md, results.json, and index.html with everything in it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict

from edgesafe.display import ABSENT, clean
from edgesafe.report.comparison.drawings import TITLES, figures
from edgesafe.report.comparison.findings import MARGIN, Finding, findings
from edgesafe.report.comparison.points import Curve, Point, curves
from edgesafe.report.comparison.together import conditions, left_out, named
from edgesafe.study.study import Study

__all__ = ["SCHEMA", "compared"]

SCHEMA = "edgesafe.comparison/1"
_COLUMNS = (
    ("Accuracy, %", "accuracy"), ("ECE, %", "ece_em10_top1"), ("mPC, %", "mpc"), ("mPC at 1, %", "mpc.severity.1"),
    ("mPC at 5, %", "mpc.severity.5"), ("ECE at 5, %", "ece_em10_top1.severity.5"),
)  # fmt: skip
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}"
    "table{border-collapse:collapse;font-size:.9rem}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;"
    "text-align:left}img{max-width:100%}"
)


def compared(studies: Sequence[Study]) -> dict[str, str]:
    """The files of a comparison by name; the same studies give the same bytes.

    Raises:
        UsageError, NothingEvaluated: see `points.curves`; matplotlib is not installed.
    """
    found = curves(studies)
    answers, drawn = findings(found), figures(found)
    files = {f"figure-{number}.svg": figure for number, figure in enumerate(drawn, 1)}
    files["report.md"] = _markdown(studies, found, answers)
    files["results.json"] = _json(studies, found, answers)
    files["index.html"] = _page(studies, found, answers, drawn)
    return files


def _rows(found: Sequence[Curve]) -> list[list[str]]:
    return [
        [clean(c.study), clean(c.network), clean(c.method), f"{100 * p.ratio:.0f}", str(len(p.variants))]
        + [_cell(p, metric) for _, metric in _COLUMNS]
        for c in found
        for p in c.points
    ]


def _cell(point: Point, metric: str) -> str:
    """Mean, and standard deviation over seeds if there are several."""
    spread = point.spread(metric)
    if spread is None:
        return ABSENT
    mean = f"{100 * spread.mean:.2f}"
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.2f}"


def _answers(answers: Sequence[Finding]) -> list[list[str]]:
    return [
        [
            a.statement.text,
            a.answer.value,
            f"{a.confirming} of {a.tested}" if a.tested else ABSENT,
            clean(a.worst) or ABSENT,
        ]
        for a in answers
    ]


_HEADS = ["Study", "Network", "Method", "Removed, %", "Seeds", *(head for head, _ in _COLUMNS)]
_ANSWER_HEADS = ["Finding of arXiv 2405.20876", "Here", "Intervals that confirm", "What speaks most against it"]
_METHOD = (
    "A finding is tested on the paired differences of every variant and seed that it speaks of, at a margin of "
    f"{100 * MARGIN:.0f} percentage point: confirmed if all 95 % intervals lie within it, contradicted if one lies "
    "wholly beyond it (Bonferroni over all), undecided otherwise. The published study had VGG-16, VGG-19, ResNet-110, "
    "PreResNet-110 and PreResNet-164: findings on other networks are tests of whether it carries over."
)


def _notes(studies: Sequence[Study]) -> list[str]:
    """Which studies these are, what their mPC is of, and what of them is not shown."""
    notes = []
    for study, name in zip(studies, named(studies), strict=True):
        record, measured = study.record, conditions(study)
        notes.append(
            f"{clean(name)}: {record.digest or 'not finished'}; {clean(record.host.cpu)}, "
            f"edgesafe {clean(record.edgesafe)}; "
            + (f"mPC of {clean(str(measured))}; {_per_cell(study)}" if measured else "no corrupted images")
        )
        notes += [f"{clean(name)}, not shown: {clean(gap)}" for gap in left_out(study)]
    return notes


def _per_cell(study: Study) -> str:
    """On how many images of a corruption and severity a file is measured."""
    asked = study.record.recipe.get("evaluate", {})
    images = asked.get("images_per_cell")
    count = "all test images" if images is None else f"{images:,} images"
    return f"{count} a cell" + (", sampled (quick mode)" if asked.get("mode") == "quick" else "")


def _bands(found: Sequence[Curve]) -> str:
    """What the bands of the figures are."""
    several = any(len(point.variants) > 1 for curve in found for point in curve.points)
    return "Bands: one standard deviation over seeds." if several else "One seed each: no bands."


def _title(studies: Sequence[Study]) -> str:
    return f"{len(studies)} studies compared" if len(studies) > 1 else clean(studies[0].record.name)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _markdown(studies: Sequence[Study], found: Sequence[Curve], answers: Sequence[Finding]) -> str:
    drawn = [f"![{title}](figure-{number}.svg)\n\n{title}. {_bands(found)}"
             for number, title in enumerate(TITLES, 1)]  # fmt: skip
    parts = [
        f"# {_title(studies)}", "\n".join(f"* {note}" for note in _notes(studies)),
        "## Findings", _METHOD, _table(_ANSWER_HEADS, _answers(answers)), "## Figures", *drawn,
        "## Table", "Mean ± standard deviation over seeds.", _table(_HEADS, _rows(found)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _json(studies: Sequence[Study], drawn: Sequence[Curve], answers: Sequence[Finding]) -> str:
    value = {
        "schema": SCHEMA,
        "studies": [{"name": name, "digest": s.record.digest, "index_sha256": s.record.index_sha256,
                     "conditions": asdict(found) if (found := conditions(s)) else None, "left_out": left_out(s)}
                    for s, name in zip(studies, named(studies), strict=True)],
        "findings": [asdict(answer) for answer in answers],
        "curves": [
            {"study": c.study, "network": c.network, "method": c.method, "missing": list(c.missing),
             "points": [{"ratio": p.ratio, "variants": [v.id for v in p.variants],
                         "metrics": {m: asdict(s) for _, m in _COLUMNS if (s := p.spread(m)) is not None}}
                        for p in c.points]}
            for c in drawn
        ],
    }  # fmt: skip
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _page(studies: Sequence[Study], found: Sequence[Curve], answers: Sequence[Finding], drawn: Sequence[str]) -> str:
    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    shown = "".join(
        f'<figure><img alt="{html.escape(title)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(figure.encode()).decode()}"><figcaption>{html.escape(title)}. '
        f"{_bands(found)}</figcaption></figure>"
        for title, figure in zip(TITLES, drawn, strict=True)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(studies))
    title = _title(studies)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><ul>{notes}</ul><h2>Findings</h2>"
        f"<p>{html.escape(_METHOD)}</p>{table(_ANSWER_HEADS, _answers(answers))}<h2>Figures</h2>{shown}<h2>Table</h2>"
        f"<p>Mean ± standard deviation over seeds.</p>{table(_HEADS, _rows(found))}</html>\n"
    )
