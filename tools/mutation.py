"""How many small faults the tests notice: a seeded sample of mutants of the code that decides and proves.

    python tools/mutation.py --cosmic-ray PATH/TO/cosmic-ray --work DIR [--mutants 300] [--seed 0] [--report FILE]

cosmic-ray (a tool of its own environment: pip install cosmic-ray) makes every mutant of each group's modules; a sample,
in proportion to how many a group has, is run against that group's tests in a copy of the checkout. Interrupted, the
same command goes on. The report names the survivors; whether each is equivalent is for a person to say.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = ("core/NumberReplacer", "core/ReplaceBreakWithContinue")  # mostly constants of messages and layout


@dataclass(frozen=True)
class Group:
    """Modules (below src/edgesafe), and the tests that should notice a fault in them."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    timeout_s: float


GROUPS = (
    Group("policy", ("policy",), ("tests/policy",), 300),
    Group(
        "study", ("study",), ("tests/study", "tests/policy/test_gate_lock.py", "tests/policy/test_gate_subjects.py"), 90
    ),
    Group("metrics", ("metrics.py", "measure/metrics", "measure/intervals"), ("tests/measure", "tests/policy"), 450),
    Group("proofs", ("surgery/verify.py", "surgery/units.py", "surgery/remove.py"), ("tests/surgery",), 450),
)


def prepare(group: Group, arguments: argparse.Namespace, commit: str) -> tuple[Path, Path, Path]:
    """A copy of a commit's files, put right again; the configuration and the session of a group, made once."""
    copy, config = arguments.work / group.name, arguments.work / f"{group.name}.toml"
    session = arguments.work / f"{group.name}.sqlite"
    copy.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=copy, input=files, check=True)  # an interrupted run leaves a mutated file
    if session.exists():
        return copy, config, session
    tests = " ".join(t for t in group.tests if (ROOT / t).exists())
    modules = json.dumps([f"src/edgesafe/{m}" for m in group.modules])
    command = f"env PYTHONPATH=src OMP_NUM_THREADS=1 {sys.executable} -m pytest -q -x -p no:randomly -p no:cacheprovider {tests}"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = {modules}\ntimeout = {group.timeout_s}\nexcluded-modules = ["**/__init__.py"]\n'
        f'test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    made = session.with_suffix(".new")
    made.unlink(missing_ok=True)
    subprocess.run([arguments.cosmic_ray, "init", str(config), str(made)], cwd=copy, check=True)
    made.rename(session)
    return copy, config, session


@cache
def annotated(module: str) -> frozenset[tuple[int, int]]:
    """(line, column) of every name, constant and operator within a module's annotations: they are never evaluated."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    roots = [
        root
        for node in ast.walk(tree)
        for root in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(root, ast.expr)
    ]
    return frozenset(
        (line, column)
        for root in roots
        for line in range(root.lineno, (root.end_lineno or root.lineno) + 1)
        for column in range(
            root.col_offset if line == root.lineno else 0,
            root.end_col_offset if line == root.end_lineno and root.end_col_offset is not None else 500,
        )
    )


def sample(sessions: dict[str, Path], mutants: int, seed: int) -> dict[str, int]:
    """Keep a random sample of the mutants of all sessions, which depends on code and seed alone; gives the numbers kept."""
    found: list[tuple[str, ...]] = []
    query = "SELECT module_path, start_pos_row, start_pos_col, operator_name, occurrence, job_id FROM mutation_specs"
    for name, path in sessions.items():
        with sqlite3.connect(path) as db:
            found += [
                (name, *map(str, row))
                for row in db.execute(query)
                if row[3] not in SKIPPED and (int(row[1]), int(row[2])) not in annotated(row[0])
            ]
    found.sort()  # by place: the ids of jobs, which come last, are random
    kept = random.Random(seed).sample(found, min(mutants, len(found)))
    for name, path in sessions.items():
        jobs = [row[-1] for row in kept if row[0] == name]
        with sqlite3.connect(path) as db:
            marks = ",".join("?" * len(jobs))
            for table in ("work_results", "mutation_specs", "work_items"):
                db.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({marks})", jobs)  # noqa: S608 - our own table names
    return {name: sum(row[0] == name for row in kept) for name in sessions}


def outcome(session: Path) -> list[tuple[str, str, int, str]]:
    """(test outcome, module, line, operator) of every mutant that was run."""
    query = """SELECT CASE r.output WHEN 'timeout' THEN 'TIMEOUT' ELSE r.test_outcome END,
                      s.module_path, s.start_pos_row, s.start_pos_col, s.operator_name
               FROM mutation_specs s JOIN work_results r ON r.job_id = s.job_id ORDER BY 2, 3"""
    with sqlite3.connect(session) as db:
        rows = db.execute(query).fetchall()
    return [(str(o), str(m), int(row), str(op)) for o, m, row, col, op in rows if (row, col) not in annotated(m)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cosmic-ray", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--group", action="append", help="run only these groups; the sample is drawn over all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    at = arguments.work / "commit"
    if not at.exists():
        at.write_text(subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout)
    ready = {group.name: prepare(group, arguments, at.read_text().strip()) for group in GROUPS}
    marker = arguments.work / "sampled"
    if not marker.exists():
        marker.write_text(
            json.dumps(sample({n: s for n, (_, _, s) in ready.items()}, arguments.mutants, arguments.seed))
        )
    print("sampled:", marker.read_text(), flush=True)
    for name, (copy, config, session) in ready.items():
        if not arguments.group or name in arguments.group:
            subprocess.run([arguments.cosmic_ray, "baseline", str(config)], cwd=copy, check=True)  # all pass unmutated
            subprocess.run([arguments.cosmic_ray, "exec", str(config), str(session)], cwd=copy, check=True)
    lines = []
    for name, (_, _, session) in ready.items():
        rows = outcome(session)
        late = sum(o == "TIMEOUT" for o, *_ in rows)
        killed = late + sum("KILLED" in o.upper() or "INCOMPETENT" in o.upper() for o, *_ in rows)
        share = f"{killed / max(1, len(rows)):.1%}"
        lines.append(f"{name}: {killed} of {len(rows)} killed ({share}), {late} of them by the time limit")
        lines += [f"  survived: {m}:{line} {op}" for o, m, line, op in rows if "SURVIVED" in o.upper()]
    print("\n".join(lines))
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
