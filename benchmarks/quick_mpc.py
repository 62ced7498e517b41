"""How few inferences give mPC, and its paired difference, within half a point: simulated from a full evaluation.

    python benchmarks/quick_mpc.py BASELINE/evidence.npz CANDIDATE/evidence.npz [--draws 400]

Every draw takes the sample that `mode = "quick"` would take, from the evidence of a full run, and asks whether the
interval covers the full run's value. "+-" is the mean half width of the 95 % interval in percentage points, restated
for a benchmark of 10,000 images per cell (the finite-population correction of the smaller one taken out); "actual" is
1.96 standard deviations of the estimates. `saving` is 750,000 (15 x 5 x 10,000) over the inferences.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from edgesafe.measure.bounds import mean_over_cells, paired_mean_over_cells, z_value
from edgesafe.measure.clusters import design_of
from edgesafe.measure.evidence import from_bytes
from edgesafe.measure.robustness import plan_cells
from edgesafe.measure.sampling import Decision, escalate, frame_of, margin_strata, two_stage
from edgesafe.records import Evidence

FULL = 750_000
BENCHMARK = 10_000


def line(name: str, n: int, rows: list[tuple[float, float, float, float]], truth: float, factor: float) -> None:
    """rows: (estimate, low, high, se) of each draw."""
    values = np.array(rows)
    covered = ((values[:, 1] <= truth) & (truth <= values[:, 2])).mean()
    half = 100 * z_value(0.95) * values[:, 3].mean() * factor
    actual = 196 * values[:, 0].std(ddof=1) * factor
    need = math.ceil(n * (half / 0.5) ** 2)
    rest = (
        "" if "two-stage" in name else f"  for +-0.5 pp: {need:7,} ({FULL / need:4.0f}x)"
    )  # its precision is not n^-1/2
    print(
        f"{name:34} {n:7,} inferences  +-{half:.3f} pp (actual {actual:.3f})  coverage {covered:.3f}"
        f"  saving {FULL / n:4.0f}x{rest}",
        flush=True,
    )


def right(evidence: Evidence) -> dict[tuple[str, int], np.ndarray]:
    size = 1 + max(int(c.index.max()) for c in evidence.cells.values())
    out = {}
    for key, cell in evidence.cells.items():
        out[key] = np.full(size, np.nan)
        out[key][cell.index] = cell.prediction == cell.label
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--draws", type=int, default=400)
    args = parser.parse_args()
    baseline, candidate = (from_bytes(p.read_bytes()) for p in (args.baseline, args.candidate))
    keys = sorted(baseline.cells)
    pool = {k: baseline.cells[k].index for k in keys}
    size = len(pool[keys[0]])
    b, c = right(baseline), right(candidate)
    mpc = [float(np.mean([r[k][pool[k]].mean() for k in keys])) for r in (b, c)]
    units = size * len(keys)
    changed = float(np.mean([(b[k][pool[k]] != c[k][pool[k]]).mean() for k in keys]))
    print(
        f"population: {len(keys)} cells x {size} images; mPC baseline {100 * mpc[0]:.2f} %,"
        f" candidate {100 * mpc[1]:.2f} %,"
        f" difference {100 * (mpc[1] - mpc[0]):+.2f} pp, right or wrong changed on {100 * changed:.2f} %"
    )

    def sample(per_cell: int, seed: int):
        names, severities = sorted({k[0] for k in keys}), sorted({k[1] for k in keys})
        return plan_cells("quick", names, severities, 1 + int(pool[keys[0]].max()), per_cell, seed, within=pool)

    for per_cell in (130, 440):
        rows, paired = [], []
        for draw in range(args.draws):
            plan = sample(per_cell, draw)
            design = design_of([plan[k] for k in keys], size)
            first, second = [c[k][plan[k]] for k in keys], [b[k][plan[k]] for k in keys]
            i = mean_over_cells(first, design).interval
            rows.append((i.estimate, i.low, i.high, i.se))
            i = paired_mean_over_cells(first, second, design, rate=True).interval
            paired.append((i.estimate, i.low, i.high, i.se))
        factor = math.sqrt((1 - per_cell / BENCHMARK) / (1 - per_cell / size))
        line(f"alone, stratified, {per_cell} per cell", per_cell * len(keys), rows, mpc[1], factor)
        line(f"paired, stratified, {per_cell} per cell", per_cell * len(keys), paired, mpc[1] - mpc[0], factor)

    frame = frame_of(baseline)
    after = np.concatenate([c[k][pool[k]] for k in keys])
    strata = margin_strata(frame.margin)
    for total in (1500, 2500, 3500):
        rows = []
        for draw in range(args.draws):
            i = two_stage(strata, lambda u: after[u] - frame.right[u], total=total, seed=draw).interval
            rows.append((i.estimate, i.low, i.high, i.se))
        line("paired, two-stage by margin", total, rows, mpc[1] - mpc[0], 1.0)

    for limit in (0.005, 0.01, 0.02):
        truth = Decision.PASS if mpc[0] - mpc[1] <= limit else Decision.FAIL
        verdicts, sizes = [], []
        for draw in range(args.draws):

            def worsening(n: int, draw: int = draw):
                plan = sample(n, draw)
                design = design_of([plan[k] for k in keys], size)
                return paired_mean_over_cells(
                    [b[k][plan[k]] for k in keys], [c[k][plan[k]] for k in keys], design, rate=True
                ).interval

            verdict, n, _ = escalate(worsening, (8, 16, 32, 64, 128, 256), limit)
            verdicts.append(verdict)
            sizes.append(n * len(keys))
        wrong = np.mean([v not in (truth, Decision.INCONCLUSIVE) for v in verdicts])
        open_ = np.mean([v is Decision.INCONCLUSIVE for v in verdicts])
        print(
            f"escalation, limit {100 * limit:.1f} pp (truth: {truth}): wrong {wrong:.3f}, undecided {open_:.3f},"
            f" inferences mean {np.mean(sizes):,.0f}, median {np.median(sizes):,.0f} of {units:,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
