"""A pytest plugin for mutation.py: the tests that executed the mutated line run, the quickest of them first.

Of the run without a mutant (under coverage, with a context for each test) it keeps, in the file MUTANT_ORDER, each
test's seconds, the tests that executed each line, and the lines themselves. In later runs it finds the line that
differs, and leaves out the tests that did not execute it; where none is known to (a line of an import), all run. A fixture
of many tests is counted for the first of them: what only the others would notice counts as survived.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import coverage
import pytest

OUT_OF_TIME = "mutant_order: out of CPU time"
_ORDER = Path(os.environ.get("MUTANT_ORDER", "order.json"))
_seconds: dict[str, float] = {}


def _out_of_time(*_: object) -> None:
    os.write(2, OUT_OF_TIME.encode())
    os._exit(1)


def pytest_configure() -> None:
    """Limit CPU time to three times what all the tests took, and a minute more."""
    if _ORDER.exists():
        limit = int(60 + 3 * sum(json.loads(_ORDER.read_text())["seconds"].values()))
        signal.signal(signal.SIGXCPU, _out_of_time)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that executed the mutated line, file by file as their quickest test says; all if there are none."""
    if not _ORDER.exists():
        return
    kept = json.loads(_ORDER.read_text())
    seconds, known = kept["seconds"], set(executed(kept))
    chosen = [item for item in items if item.nodeid in known]
    print(f"mutant_order: {len(chosen)} of {len(items)} tests executed the line")
    quickest: dict[Path, float] = {}
    for item in chosen:
        quickest[item.path] = min(quickest.get(item.path, 1e9), seconds[item.nodeid])
    items[:] = sorted(chosen, key=lambda item: (quickest[item.path], seconds[item.nodeid])) or items


def executed(kept: dict[str, Any]) -> list[str]:
    """Tests that executed the statement in which a file's text differs from the one kept; none without a mutant."""
    for module, text in kept["texts"].items():
        now = Path(module).read_text(encoding="utf-8")
        if now != text:
            old, new = text.splitlines(), now.splitlines()
            line = next((i for i, (a, b) in enumerate(zip(old, new, strict=False), 1) if a != b), len(new))
            lines = kept["lines"].get(module, {})
            return [test for number in statement(text, line) for test in lines.get(str(number), ())]
    return []


def statement(text: str, line: int) -> range:
    """Lines of the innermost statement at a line, without the body that it may have."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if isinstance(body, list) and body[0].lineno > line else node.end_lineno
            spans.append((node.lineno, end or node.lineno))
    begin, end = max(spans, default=(line, line))
    return range(begin, end + 1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under coverage, lines are counted for the test that begins: its fixtures belong to it."""
    if not _ORDER.exists() and (running := coverage.Coverage.current()):
        running.switch_context(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what setup, call and teardown took."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(exitstatus: int) -> None:
    """After the run without a mutant, if all passed: keep durations, and the tests of every line."""
    running = coverage.Coverage.current()
    if _ORDER.exists() or running is None or exitstatus:
        return
    data = running.get_data()
    texts, lines = {}, {}
    for file in data.measured_files():
        module = str(Path(file).relative_to(Path.cwd()))
        texts[module] = Path(file).read_text(encoding="utf-8")
        lines[module] = {str(n): [c for c in tests if c] for n, tests in data.contexts_by_lineno(file).items()}
    made = _ORDER.with_suffix(".new")
    made.write_text(json.dumps({"seconds": _seconds, "texts": texts, "lines": lines}))
    made.rename(_ORDER)
