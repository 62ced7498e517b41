"""A verdict as CI reads it: JSON, JUnit XML, Markdown, OpenMetrics, GitHub annotations.

Each is a pure function of the verdict: no clock, no host name, the order of the policy. Same verdict, same bytes.
"""

from xml.etree import ElementTree

from edgesafe.display import (
    STATUS,
    WORST_FIRST,
    markdown,
    markdown_code,
    openmetrics,
    terminal,
    workflow_data,
    workflow_property,
    xml,
)
from edgesafe.errors import ExitCode
from edgesafe.records import GateResult, GateStatus, Verdict

__all__ = [
    "MARKDOWN_BYTES",
    "MAX_ANNOTATIONS",
    "annotations",
    "to_json",
    "to_junit",
    "to_markdown",
    "to_openmetrics",
    "to_text",
]

MARKDOWN_BYTES = 60_000  #: GitHub cuts off a pull-request comment at 65,536 characters
MAX_ANNOTATIONS = 10  #: of each kind per step; GitHub drops the rest without a word

_GOOD = (GateStatus.PASS, GateStatus.WAIVED)


def to_json(verdict: Verdict) -> str:
    """The verdict as JSON (schema edgesafe.verdict/1), two blanks of indentation, keys in the order of the record."""
    return verdict.model_dump_json(by_alias=True, indent=2) + "\n"


def to_text(verdict: Verdict) -> str:
    """The lines that the command prints: one per gate and variant, worst last, where the eye is; notes; the verdict."""
    ordered = sorted(verdict.gates, key=lambda result: (result.blocking, -WORST_FIRST.index(result.status)))
    lines = [*(_line(result) for result in ordered), *(f"note: {note}" for note in verdict.notes), _headline(verdict)]
    return "".join(f"{terminal(line)}\n" for line in lines)


def _line(result: GateResult) -> str:
    """One result, with its variant and whether it only warns."""
    told = result.message if result.variant in result.message else f"{result.message} [{result.variant}]"
    only_warns = result.level == "warn" and result.status is not GateStatus.PASS
    return f"{told} (warning only)" if only_warns else told


def _headline(verdict: Verdict) -> str:
    """The verdict, and how many results of each status, worst first."""
    warnings = [result for result in verdict.gates if result.level == "warn" and result.status is not GateStatus.PASS]
    told = _counts([result for result in verdict.gates if result not in warnings])
    if warnings:
        told = f"{told}; as warnings only: {_counts(warnings)}"
    name = ExitCode(verdict.exit_code).name.lower().replace("_", " ")
    meaning = "gate passed" if verdict.exit_code == ExitCode.DONE else name
    return f"{meaning}: {verdict.study}: {told} (exit code {verdict.exit_code})"


def _counts(results: list[GateResult]) -> str:
    counts = [(status, sum(result.status is status for result in results)) for status in WORST_FIRST]
    return ", ".join(f"{count} {status.value}" for status, count in counts if count) or "nothing"


# ------------------------------------------------------------------------------------------------------------ JUnit


def to_junit(verdict: Verdict) -> str:
    """JUnit XML: one suite per variant, one test case per gate (and rule, where a gate has several).

    A blocking FAIL or INCONCLUSIVE is a <failure> of that type, a blocking MISSING or REFUSED an <error>; WAIVED, and
    whatever does not pass but is only a warning, is <skipped>. So the test report is red exactly when the exit code is.
    """
    root = ElementTree.Element("testsuites", {"name": "edgesafe gate"})
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for variant in verdict.variants:
        suite = ElementTree.SubElement(root, "testsuite", {"name": xml(variant)})
        counts = dict.fromkeys(totals, 0)
        results = [one for one in verdict.gates if one.variant == variant]
        ids = [one.id for one in results]
        for one in results:
            name = one.id if ids.count(one.id) == 1 else f"{one.id} ({one.rule})"
            kind = _test_case(suite, one, name)
            counts["tests"] += 1
            if kind:
                counts[kind] += 1
        suite.attrib.update({key: str(value) for key, value in counts.items()})
        totals = {key: value + counts[key] for key, value in totals.items()}
    root.attrib.update({key: str(value) for key, value in totals.items()})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _test_case(suite: ElementTree.Element, one: GateResult, name: str) -> str:
    """Adds a test case; returns which count it belongs to, "" for a plain pass."""
    attributes = {"classname": xml(f"edgesafe.{one.variant}"), "name": xml(name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    properties = ElementTree.SubElement(case, "properties")
    for key in (
        "metric",
        "rule",
        "level",
        "status",
        "limit",
        "estimate",
        "low",
        "high",
        "unit",
        "n",
        "method",
        "baseline",
    ):
        value = getattr(one, key)
        if value is not None and value != "":
            text = repr(value) if isinstance(value, float) else str(value)
            ElementTree.SubElement(properties, "property", {"name": key, "value": xml(text)})
    if one.status is GateStatus.PASS:
        return ""
    tag, kind = "skipped", "skipped"
    if one.blocking:
        undecided = one.status in (GateStatus.MISSING, GateStatus.REFUSED)
        tag, kind = ("error", "errors") if undecided else ("failure", "failures")
    found = ElementTree.SubElement(case, tag, {"message": xml(one.message)})
    if one.blocking:
        found.set("type", one.status.value)
        found.text = xml(one.message)
    return kind


# --------------------------------------------------------------------------------------------------------- Markdown


def to_markdown(verdict: Verdict) -> str:
    """A summary for a pull request or a step summary, at most MARKDOWN_BYTES in UTF-8.

    Where the table would be longer, what passed is left out first and the number of rows left out is said.
    """
    mark = STATUS[verdict.overall].mark
    profile = f" · profile `{markdown_code(verdict.profile)}`" if verdict.profile else ""
    head = [
        f"## {mark} edgesafe gate: {verdict.overall.value}",
        "",
        f"{markdown(_headline(verdict))}  ",
        f"study `{markdown_code(verdict.study)}`{profile} · policy `{verdict.policy_sha256[:19]}`",
        "",
        "| | variant | gate | result |",
        "|---|---|---|---|",
    ]
    notes = ["", *(f"- {markdown(note)}" for note in verdict.notes[:50])] if verdict.notes else []
    if len(verdict.notes) > 50:
        notes.append(f"- {len(verdict.notes) - 50} more notes")
    ordered = [one for one in verdict.gates if one.status not in _GOOD] + [
        one for one in verdict.gates if one.status in _GOOD
    ]
    rows = [_row(one) for one in ordered]
    budget = MARKDOWN_BYTES - _size([*head, *(note[:1000] for note in notes)]) - 100
    kept = 0
    for row in rows:
        budget -= _size([row])
        if budget < 0:
            break
        kept += 1
    if kept < len(rows):
        notes = ["", f"{len(rows) - kept} more rows are in the JSON output.", *notes]
    return "\n".join([*head, *rows[:kept], *(note[:1000] for note in notes)]) + "\n"


def _row(one: GateResult) -> str:
    level = " (warn)" if one.level == "warn" else ""
    message = one.message if len(one.message) <= 2000 else one.message[:1999] + "…"
    variant, gate = markdown_code(one.variant), markdown_code(one.id)
    return f"| {STATUS[one.status].mark} | `{variant}` | `{gate}`{level} | {markdown(message)} |"


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


# ------------------------------------------------------------------------------------------------------ OpenMetrics


def to_openmetrics(verdict: Verdict) -> str:
    """OpenMetrics text (GitLab's metrics report, Prometheus): exit code, and status, estimate, bounds, limit per gate.

    Values are in the metric's own unit (rates as fractions), which is a label. Status: 0 pass, 1 waived,
    2 inconclusive, 3 fail, 4 missing, 5 refused.
    """
    study = f'study="{openmetrics(verdict.study)}"'
    lines = [
        "# TYPE edgesafe_gate_exit_code gauge",
        "# HELP edgesafe_gate_exit_code Exit code of the gate.",
        f"edgesafe_gate_exit_code{{{study}}} {verdict.exit_code}",
        "# TYPE edgesafe_gate_status gauge",
        "# HELP edgesafe_gate_status 0 pass, 1 waived, 2 inconclusive, 3 fail, 4 missing, 5 refused.",
    ]
    lines += [f"edgesafe_gate_status{{{study},{_labels(one)}}} {_badness(one.status)}" for one in verdict.gates]
    for key, told in (("estimate", "Estimate"), ("low", "Lower bound"), ("high", "Upper bound"), ("limit", "Limit")):
        rows = [(one, getattr(one, key)) for one in verdict.gates if getattr(one, key) is not None]
        if rows:
            lines.append(f"# TYPE edgesafe_gate_{key} gauge")
            lines.append(f"# HELP edgesafe_gate_{key} {told}, in the unit of the label.")
            lines += [f"edgesafe_gate_{key}{{{study},{_labels(one)},{_unit(one)}}} {value!r}" for one, value in rows]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _labels(one: GateResult) -> str:
    pairs = (("variant", one.variant), ("gate", one.id), ("metric", one.metric), ("rule", one.rule))
    return ",".join(f'{key}="{openmetrics(value)}"' for key, value in pairs)


def _unit(one: GateResult) -> str:
    return f'unit="{one.unit.value if one.unit is not None else ""}"'


def _badness(status: GateStatus) -> int:
    """0 for a pass, the more the worse."""
    return len(WORST_FIRST) - 1 - WORST_FIRST.index(status)


# ------------------------------------------------------------------------------------------------------ annotations


def annotations(verdict: Verdict) -> str:
    """GitHub workflow commands: what blocks as errors, the rest as warnings, at most MAX_ANNOTATIONS lines in all.

    Where there are more, the last line says how many. Empty where everything passed without a warning.
    """
    blocking = [("error", one) for one in verdict.gates if one.blocking]
    others = [("warning", one) for one in verdict.gates if not one.blocking and one.status is not GateStatus.PASS]
    lines = [
        f"::{kind} title={workflow_property(f'edgesafe {one.id} ({one.variant})')}::{workflow_data(one.message)}"
        for kind, one in [*blocking, *others]
    ]
    lines += [
        f"::warning title=edgesafe::{workflow_data(note)}" for note in verdict.notes if note.startswith("warning: ")
    ]
    if len(lines) > MAX_ANNOTATIONS:
        left = len(lines) - MAX_ANNOTATIONS + 1
        kind = "error" if len(blocking) >= MAX_ANNOTATIONS else "warning"
        lines = [
            *lines[: MAX_ANNOTATIONS - 1],
            f"::{kind} title=edgesafe::{left} more; see the summary or the JSON output",
        ]
    return "".join(line + "\n" for line in lines)
