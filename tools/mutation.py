"""How many small faults the tests notice: a seeded sample of mutants of the code that decides and proves.

    python tools/mutation.py --cosmic-ray PATH/TO/cosmic-ray --work DIR [--mutants 300] [--seed 0] [--report FILE]

cosmic-ray (a tool of its own environment: pip install cosmic-ray) makes every mutant of each group's modules; a sample,
in proportion to how many a group has, is run against that group's tests in a copy of the checkout. Interrupted, the
same command goes on. The report names the survivors; whether each is equivalent is for a person to say.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
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
    Group("policy", ("policy",), ("tests/policy",), 90),
    Group("study", ("study",), ("tests/study", "tests/house/test_store.py"), 90),
    Group("metrics", ("metrics.py", "measure/metrics", "measure/intervals"), ("tests/measure", "tests/policy"), 150),
    Group("proofs", ("surgery/verify.py", "surgery/units.py", "surgery/remove.py"), ("tests/surgery",), 200),
)


def prepare(group: Group, arguments: argparse.Namespace) -> tuple[Path, Path, Path]:
    """A copy of the checkout, the configuration and the session of a group, made once."""
    copy, config = arguments.work / group.name, arguments.work / f"{group.name}.toml"
    session = arguments.work / f"{group.name}.sqlite"
    if session.exists():
        return copy, config, session
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    files = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=copy, input=files, check=True)
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


def sample(sessions: dict[str, Path], mutants: int, seed: int) -> dict[str, int]:
    """Keep a random sample of the mutants of all sessions, which depends on code and seed alone; gives the numbers kept."""
    found: list[tuple[str, ...]] = []
    query = "SELECT module_path, start_pos_row, start_pos_col, operator_name, occurrence, job_id FROM mutation_specs"
    for name, path in sessions.items():
        with sqlite3.connect(path) as db:
            found += [(name, *map(str, row)) for row in db.execute(query) if row[3] not in SKIPPED]
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
    query = """SELECT r.test_outcome, s.module_path, s.start_pos_row, s.operator_name, r.worker_outcome
               FROM mutation_specs s JOIN work_results r ON r.job_id = s.job_id ORDER BY 2, 3"""
    with sqlite3.connect(session) as db:
        return [(str(o), str(m), int(row), str(op)) for o, m, row, op, _ in db.execute(query)]


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
    ready = {group.name: prepare(group, arguments) for group in GROUPS}
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
        killed = sum("KILLED" in o.upper() or "INCOMPETENT" in o.upper() for o, *_ in rows)
        lines.append(f"{name}: {killed} of {len(rows)} killed ({killed / max(1, len(rows)):.1%})")
        lines += [f"  survived: {m}:{line} {op}" for o, m, line, op in rows if "SURVIVED" in o.upper()]
    print("\n".join(lines))
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
