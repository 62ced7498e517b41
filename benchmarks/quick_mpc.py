"""How few inferences give mPC and its paired difference within half a point, and how few decide: simulated.

    python benchmarks/quick_mpc.py BASELINE/evidence.npz CANDIDATE/evidence.npz [--draws 400]

Every draw is what `mode = "quick"` does: `sequential.collect` on the evidence of a full run instead of the file, the
estimates of `measure`, the verdicts of the gate. It asks whether the interval covers the full run's value. "+-" is the
mean half width of the 95 % interval in percentage points, "actual" 1.96 standard deviations of the estimates, both
about the benchmark of the evidence; `saving` is 750,000 (15 x 5 x 10,000) over the inferences.

    alone       the file by itself, alike in each cell
    cell        paired with the baseline, alike in each cell
    margin      paired, by the baseline's margin; the baseline saw every image of the benchmark
    margin/440  the same, but the baseline itself saw only 440 images of each cell (mode = "quick" for both)
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgesafe.measure.cells import rightness
from edgesafe.measure.evidence import from_bytes
from edgesafe.measure.inference.robustness import plan_cells
from edgesafe.measure.intervals.bounds import mean_over_cells, paired_mean_over_cells, z_value
from edgesafe.measure.intervals.clusters import design_of
from edgesafe.measure.intervals.stated import comparison
from edgesafe.measure.pooling import benchmark_of
from edgesafe.measure.sampling import margin
from edgesafe.policy.decision import Options, decide
from edgesafe.policy.policy import loads
from edgesafe.recipe.sections import EvaluateSection
from edgesafe.records import (
    Comparison,
    DataIdentity,
    Evidence,
    GateStatus,
    Host,
    ImageSet,
    IntervalMethod,
    Measurement,
    Measurements,
    Population,
    PopulationKind,
    Role,
    Sample,
    SampleDesign,
    StudyRecord,
    Target,
    Unit,
    VariantEntry,
)
from edgesafe.stages import sequential
from edgesafe.stages.observe import Bench

FULL = 750_000
TARGET = Target(name="none", threads=1, provider="none")
HOST = Host(cpu="", cores=1, system="", python="", versions={})
NONE = "sha256:" + "0" * 64


class Forget:
    """Keeps nothing."""

    def get(self, _: str) -> None:
        return None

    def put(self, _: str, __: bytes) -> None:
        return None


def bench(baseline: Evidence, **section: object) -> Bench:
    n = len(baseline.clean.index)
    images = ImageSet(np.zeros((n, 1, 1, 3), np.uint8), np.zeros(n, np.int64), "sha256:t")
    cells = {key: np.sort(cell.index) for key, cell in baseline.cells.items()}
    return Bench(images, None, cells, EvaluateSection(mode="quick", **section), "these images", TARGET, HOST)


def sampled(baseline: Evidence, per_cell: int, seed: int) -> Evidence:
    """The baseline as `mode = "quick"` measures it."""
    keys = sorted(baseline.cells)
    pool = {k: baseline.cells[k].index for k in keys}
    names, severities = sorted({k[0] for k in keys}), sorted({k[1] for k in keys})
    n = 1 + max(int(i.max()) for i in pool.values())
    wanted = plan_cells("quick", names, severities, n, per_cell, seed, within=pool)
    runner = sequential.StoredRunner(baseline)
    drawn = Sample(design=SampleDesign.CELL, seed=seed, benchmark=len(pool[keys[0]]))
    return Evidence(baseline.clean, baseline.logits, runner.provenance(drawn), runner.corrupted(wanted))


def difference(candidate: Evidence, baseline: Evidence) -> Comparison:
    """The paired difference of mPC alone, as `compare` computes it."""
    if margin.is_drawn(candidate):
        sample = margin.drawn(candidate, baseline)
        part = sample.part(set(sample.frame.keys))
        change = part.candidate.right - part.baseline.right
        i = part.interval(part.mean(change), part.rate_se(change), 0.95)
    else:
        keys, runner = sorted(candidate.cells), sequential.StoredRunner(baseline)
        same = runner.corrupted({k: candidate.cells[k].index for k in keys})
        design = design_of([candidate.cells[k].index for k in keys], benchmark_of(candidate))
        i = paired_mean_over_cells(
            [rightness(candidate.cells[k]) for k in keys], [rightness(same[k]) for k in keys], design, rate=True
        ).interval
    who = Population(kind=PopulationKind.BENCHMARK, description="the benchmark")
    return comparison("mpc", i, who, candidate=0.0, baseline=0.0)


def line(name: str, n: int, rows: list[tuple[float, float, float, float]], truth: float) -> None:
    """rows: (estimate, low, high, se) of each draw."""
    values = np.array(rows)
    covered = ((values[:, 1] <= truth) & (truth <= values[:, 2])).mean()
    half, actual = 100 * z_value(0.95) * values[:, 3].mean(), 196 * values[:, 0].std(ddof=1)
    print(
        f"{name:12} {n:7,} inferences  +-{half:.3f} pp (actual {actual:.3f})  coverage {covered:.3f}"
        f"  saving {FULL / n:4.0f}x",
        flush=True,
    )


def verdicts(baseline: Evidence, candidate: Evidence, limit: str, draws: int) -> Iterator[tuple[GateStatus, int]]:
    """How the gate decides a growing sample, and after how many corrupted images."""
    text = f'schema="edgesafe.policy/1"\n[stats]\nconfidence=0.99\n[[gate]]\nid="g"\nmetric="mpc"\nmax_drop="{limit}"\n'
    policy, today = loads(text), datetime.date(2026, 1, 1)
    entries = tuple(
        VariantEntry(id=role, role=role, label=role, group=role, method=role, ratio=0.0, seed=0, status="done")
        for role in Role
    )
    study = StudyRecord(
        name="simulation", edgesafe="0", recipe={}, recipe_sha256=NONE, inputs={}, variants=entries,
        data=DataIdentity(
            name="x", classes=("a", "b"), shape=(1, 1, 3), train_n=0, validation_n=0, test_n=0, mean=(0.0,), std=(1.0,),
            train_sha256=NONE, validation_sha256=NONE, test_sha256=NONE,
        ),
        host=HOST,
    )  # fmt: skip

    def measurements(name: str, found: Comparison | None, sample: Sample | None) -> Measurements:
        metrics = {
            "mpc": Measurement(
                metric="mpc",
                estimate=0.5,
                low=0.5,
                high=0.5,
                se=0.0,
                n=10**6,
                unit=Unit.FRACTION,
                method=IntervalMethod.NORMAL,
            )
        }
        return Measurements(
            variant=name, baseline=None if found is None else "baseline", onnx_sha256=NONE, evidence_sha256=NONE,
            test_sha256=NONE, metrics=metrics, differences={} if found is None else {"mpc": found}, sample=sample,
            target=TARGET, host=HOST,
        )  # fmt: skip

    for draw in range(draws):
        last: list[GateStatus] = []

        def decided(evidence: Evidence, last: list[GateStatus] = last) -> bool:
            one = measurements("candidate", difference(evidence, baseline), evidence.provenance.sample)
            both = {"candidate": one, "baseline": measurements("baseline", None, None)}
            verdict = decide(policy, study, both, {}, baseline=None, today=today, options=Options(("candidate",)))
            last.append(verdict.gates[0].status)
            return last[-1] is not GateStatus.INCONCLUSIVE

        found = sequential.collect(
            sequential.StoredRunner(candidate), bench(baseline, seed=draw), baseline, Forget(), decided
        )
        yield last[-1], sum(len(cell.index) for cell in found.cells.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--draws", type=int, default=400)
    args = parser.parse_args()
    baseline, candidate = (from_bytes(p.read_bytes()) for p in (args.baseline, args.candidate))
    keys = sorted(baseline.cells)
    size = len(baseline.cells[keys[0]].index)
    mpc = [float(np.mean([rightness(e.cells[k]).mean() for k in keys])) for e in (baseline, candidate)]
    truth = mpc[1] - mpc[0]
    changed = float(np.mean([(rightness(baseline.cells[k]) != rightness(candidate.cells[k])).mean() for k in keys]))
    print(
        f"population: {len(keys)} cells x {size} images; mPC baseline {100 * mpc[0]:.2f} %,"
        f" candidate {100 * mpc[1]:.2f} %, difference {100 * truth:+.2f} pp,"
        f" right or wrong changed on {100 * changed:.2f} %"
    )
    for per_cell in (130, 440):
        rows = []
        for draw in range(args.draws):
            drawn = sampled(candidate, per_cell, draw)
            i = mean_over_cells(
                [rightness(drawn.cells[k]) for k in keys], design_of([drawn.cells[k].index for k in keys], size)
            ).interval
            rows.append((i.estimate, i.low, i.high, i.se))
        line("alone", per_cell * len(keys), rows, mpc[1])
    for name, sampling, budgets in (
        ("cell", "cell", (9750,)),
        ("margin", "margin", (1500, 2500, 5000, 9750)),
        ("margin/440", "margin", (2500, 5000, 9750)),
    ):
        for budget in budgets:
            rows = []
            for draw in range(args.draws):
                base = sampled(baseline, 440, draw) if "/" in name else baseline
                here = bench(base, seed=draw, sampling=sampling, budget=budget)
                found = sequential.collect(sequential.StoredRunner(candidate), here, base, Forget())
                d = difference(found, base)
                rows.append((d.estimate, d.low, d.high, d.se))
            line(name, budget, rows, truth)
    for limit in (0.5, 1.0, 2.0):
        wanted = GateStatus.PASS if -truth <= limit / 100 else GateStatus.FAIL
        statuses, sizes = zip(*verdicts(baseline, candidate, f"{limit}pp", args.draws), strict=True)
        wrong = np.mean([s not in (wanted, GateStatus.INCONCLUSIVE) for s in statuses])
        undecided = np.mean([s is GateStatus.INCONCLUSIVE for s in statuses])
        print(
            f"looks at 99 %, limit {limit:.1f} pp (truth: {wanted}): wrong {wrong:.3f}, undecided {undecided:.3f},"
            f" corrupted images mean {np.mean(sizes):,.0f}, median {np.median(sizes):,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
