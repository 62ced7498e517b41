"""How many small faults the tests notice: a seeded sample of mutants of the code that decides and proves.

    python tools/mutation.py --cosmic-ray PATH/TO/cosmic-ray --work DIR [--mutants 300] [--seed 0] [--report FILE]

cosmic-ray (a tool of its own environment: pip install cosmic-ray) makes every mutant of each group's modules; a sample,
in proportion to how many a group has, is run against that group's tests in a copy of the checkout. The group's tests
run once, unmutated, under coverage; after that only the tests that executed a mutated line run (mutant_order.py).
Interrupted, the same command goes on. The report names the survivors; whether each is equivalent is for a person to say.
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

from mutant_order import OUT_OF_TIME

ROOT = Path(__file__).parents[1]
SKIPPED = ("core/NumberReplacer", "core/ReplaceBreakWithContinue")  # mostly constants of messages and layout


HANGS_S = 1800  # wall clock, for a child process that hangs; all else ends by the limit on CPU time


@dataclass(frozen=True)
class Group:
    """Modules (below src/edgesafe), and the tests that should notice a fault in them."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = (
    Group("policy", ("policy",), ("tests/policy",)),
    Group("study", ("study",), ("tests/study", "tests/policy/test_gate_lock.py", "tests/policy/test_gate_subjects.py")),
    Group("metrics", ("metrics.py", "measure/metrics", "measure/intervals"), ("tests/measure", "tests/policy")),
    Group("proofs", ("surgery/verify.py", "surgery/units.py", "surgery/remove.py"), ("tests/surgery",)),
)


@dataclass(frozen=True)
class Place:
    """Where a group's mutants are made and run, all below the directory of work."""

    copy: Path
    config: Path
    session: Path
    order: Path


def command(place: Place, tests: list[str], *under: str) -> list[str]:
    """pytest within a copy, with the plugin that puts tests in order; durations and lines stand in `place.order`."""
    settings = ["PYTHONPATH=src:tools", "OMP_NUM_THREADS=1", f"MUTANT_ORDER={place.order}"]
    options = [
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=1200",
        "-p",
        "mutant_order",
    ]
    return ["env", *settings, sys.executable, *under, "-m", "pytest", *options, *tests]


def prepare(group: Group, arguments: argparse.Namespace, commit: str) -> Place:
    """A copy of a commit's files, put right again; the order of tests and the session of a group, made once."""
    work = arguments.work.resolve()
    place = Place(*(work / f"{group.name}{end}" for end in ("", ".toml", ".sqlite", ".order.json")))
    if place.session.exists() and arguments.group and group.name not in arguments.group:
        return place  # another process may be at work there
    place.copy.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=place.copy, input=files, check=True)  # an interrupted run leaves a mutated file
    tests = [test for test in group.tests if (ROOT / test).exists()]
    if not place.order.exists():  # also shows that all tests pass without a mutant
        under = ("-m", "coverage", "run", "--source=src/edgesafe")
        subprocess.run(command(place, tests, *under), cwd=place.copy, check=True)
    if place.session.exists():
        return place
    modules = json.dumps([f"src/edgesafe/{m}" for m in group.modules])
    place.config.write_text(
        f'[cosmic-ray]\nmodule-path = {modules}\ntimeout = {HANGS_S}\nexcluded-modules = ["**/__init__.py"]\n'
        f'test-command = "{" ".join(command(place, tests))}"\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    made = place.session.with_suffix(".new")
    made.unlink(missing_ok=True)
    subprocess.run([arguments.cosmic_ray, "init", str(place.config), str(made)], cwd=place.copy, check=True)
    made.rename(place.session)
    return place


@cache
def annotated(module: str, commit: str) -> frozenset[tuple[int, int]]:
    """(line, column) of every name, constant and operator within a module's annotations: they are never evaluated."""
    shown = subprocess.run(["git", "show", f"{commit}:{module}"], cwd=ROOT, capture_output=True, text=True, check=True)
    tree = ast.parse(shown.stdout)
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


def sample(sessions: dict[str, Path], commit: str, mutants: int, seed: int) -> dict[str, int]:
    """Keep a random sample of the mutants of all sessions, which depends on code and seed alone; gives the numbers kept."""
    found: list[tuple[str, ...]] = []
    query = "SELECT module_path, start_pos_row, start_pos_col, operator_name, occurrence, job_id FROM mutation_specs"
    for name, path in sessions.items():
        with sqlite3.connect(path) as db:
            found += [
                (name, *map(str, row))
                for row in db.execute(query)
                if row[3] not in SKIPPED and (int(row[1]), int(row[2])) not in annotated(row[0], commit)
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


def outcome(session: Path, commit: str) -> list[tuple[str, str, int, str]]:
    """(test outcome, module, line, operator) of every mutant that was run."""
    query = f"""SELECT CASE WHEN r.output = 'timeout' OR r.output LIKE '%{OUT_OF_TIME}%' THEN 'TIMEOUT'
                      ELSE r.test_outcome END, s.module_path, s.start_pos_row, s.start_pos_col, s.operator_name
               FROM mutation_specs s JOIN work_results r ON r.job_id = s.job_id ORDER BY 2, 3"""  # noqa: S608 - our own words
    with sqlite3.connect(session) as db:
        rows = db.execute(query).fetchall()
    return [
        (str(o), str(m), int(row), str(op)) for o, m, row, col, op in rows if (row, col) not in annotated(m, commit)
    ]


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
    commit = at.read_text().strip()
    ready = {group.name: prepare(group, arguments, commit) for group in GROUPS}
    marker = arguments.work / "sampled"
    if not marker.exists():
        sessions = {name: place.session for name, place in ready.items()}
        marker.write_text(json.dumps(sample(sessions, commit, arguments.mutants, arguments.seed)))
    print("sampled:", marker.read_text(), flush=True)
    for name, place in ready.items():
        if not arguments.group or name in arguments.group:
            subprocess.run(
                [arguments.cosmic_ray, "exec", str(place.config), str(place.session)], cwd=place.copy, check=True
            )
    lines = []
    for name, place in ready.items():
        rows = outcome(place.session, commit)
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
