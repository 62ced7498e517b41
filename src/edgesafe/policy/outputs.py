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
        results = [result for result in verdict.gates if result.variant == variant]
        ids = [result.id for result in results]
        for result in results:
            name = result.id if ids.count(result.id) == 1 else f"{result.id} ({result.rule})"
            kind = _test_case(suite, result, name)
            counts["tests"] += 1
            if kind:
                counts[kind] += 1
        suite.attrib.update({key: str(value) for key, value in counts.items()})
        totals = {key: value + counts[key] for key, value in totals.items()}
    root.attrib.update({key: str(value) for key, value in totals.items()})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _test_case(suite: ElementTree.Element, result: GateResult, name: str) -> str:
    """Adds a test case; returns which count it belongs to, "" for a plain pass."""
    attributes = {"classname": xml(f"edgesafe.{result.variant}"), "name": xml(name), "time": "0"}
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
        value = getattr(result, key)
        if value is not None and value != "":
            text = repr(value) if isinstance(value, float) else str(value)
            ElementTree.SubElement(properties, "property", {"name": key, "value": xml(text)})
    if result.status is GateStatus.PASS:
        return ""
    tag, kind = "skipped", "skipped"
    if result.blocking:
        undecided = result.status in (GateStatus.MISSING, GateStatus.REFUSED)
        tag, kind = ("error", "errors") if undecided else ("failure", "failures")
    outcome = ElementTree.SubElement(case, tag, {"message": xml(result.message)})
    if result.blocking:
        outcome.set("type", result.status.value)
        outcome.text = xml(result.message)
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
    ordered = sorted(verdict.gates, key=lambda result: result.status.passes)  # stable: what did not pass comes first
    rows = [_row(result) for result in ordered]
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


def _row(result: GateResult) -> str:
    level = " (warn)" if result.level == "warn" else ""
    message = result.message if len(result.message) <= 2000 else result.message[:1999] + "…"
    variant, gate = markdown_code(result.variant), markdown_code(result.id)
    return f"| {STATUS[result.status].mark} | `{variant}` | `{gate}`{level} | {markdown(message)} |"


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
    lines += [
        f"edgesafe_gate_status{{{study},{_labels(result)}}} {_badness(result.status)}" for result in verdict.gates
    ]
    for key, told in (("estimate", "Estimate"), ("low", "Lower bound"), ("high", "Upper bound"), ("limit", "Limit")):
        rows = [(result, getattr(result, key)) for result in verdict.gates if getattr(result, key) is not None]
        if rows:
            lines.append(f"# TYPE edgesafe_gate_{key} gauge")
            lines.append(f"# HELP edgesafe_gate_{key} {told}, in the unit of the label.")
            lines += [
                f"edgesafe_gate_{key}{{{study},{_labels(result)},{_unit(result)}}} {value!r}" for result, value in rows
            ]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _labels(result: GateResult) -> str:
    pairs = (("variant", result.variant), ("gate", result.id), ("metric", result.metric), ("rule", result.rule))
    return ",".join(f'{key}="{openmetrics(value)}"' for key, value in pairs)


def _unit(result: GateResult) -> str:
    return f'unit="{result.unit.value if result.unit is not None else ""}"'


def _badness(status: GateStatus) -> int:
    """Rank of a status: 0 for a pass, up to 5 for a refusal; the higher, the worse."""
    return len(WORST_FIRST) - 1 - WORST_FIRST.index(status)


# ------------------------------------------------------------------------------------------------------ annotations


def annotations(verdict: Verdict) -> str:
    """GitHub workflow commands: what blocks as errors, the rest as warnings, at most MAX_ANNOTATIONS lines in all.

    Where there are more, the last line says how many. Empty where everything passed without a warning.
    """
    blocking = [("error", result) for result in verdict.gates if result.blocking]
    others = [
        ("warning", result) for result in verdict.gates if not result.blocking and result.status is not GateStatus.PASS
    ]
    lines = [
        f"::{kind} title={workflow_property(f'edgesafe {result.id} ({result.variant})')}"
        f"::{workflow_data(result.message)}"
        for kind, result in [*blocking, *others]
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
