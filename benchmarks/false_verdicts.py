"""How often a gate on 1,000 images decides otherwise than all test images would: paired intervals against point values.

    python benchmarks/false_verdicts.py BASELINE/evidence.npz CANDIDATE/evidence.npz... [--subsets 1000] [--images 1000]

Truth is the verdict on all clean images of the evidence. `point`: the candidate's value on the subset against the
baseline's on the same subset. `other`: against the baseline's on another subset, as when the two were measured in
different jobs. `edgesafe`: pass if the upper bound of the paired difference (one-sided, --confidence) is within the
limit, fail if the lower is above it, otherwise inconclusive, which is not a verdict. "flip": two subsets differ.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesafe.measure.bounds import Interval, paired_difference, z_value
from edgesafe.measure.calibration import ece_equal_mass
from edgesafe.measure.evidence import from_bytes
from edgesafe.measure.intervals import paired_bootstrap_ece
from edgesafe.measure.sampling import Decision, decide
from edgesafe.records import Cell

LIMITS = {"accuracy drop": (0.005, 0.01, 0.02), "ECE rise": (0.002, 0.005), "NLL rise": (0.01, 0.02)}


@dataclass(frozen=True)
class Net:
    cell: Cell

    @property
    def right(self) -> np.ndarray:
        return (self.cell.prediction == self.cell.label).astype(float)

    def column(self, metric: str) -> np.ndarray:
        return 1 - self.right if metric == "accuracy drop" else self.cell.nll

    def value(self, metric: str, rows: np.ndarray) -> float:
        if metric == "ECE rise":
            return ece_equal_mass(self.cell.confidence[rows], self.right[rows]).value
        return float(self.column(metric)[rows].mean())


def interval(candidate: Net, baseline: Net, metric: str, rows: np.ndarray, seed: int) -> Interval:
    if metric != "ECE rise":
        return paired_difference(candidate.column(metric)[rows], baseline.column(metric)[rows])
    pairs = [(net.cell.confidence[rows], net.right[rows]) for net in (candidate, baseline)]
    return paired_bootstrap_ece(pairs[0], pairs[1], replicates=200, seed=seed).interval


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--subsets", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.95, help="one-sided, of each bound")
    args = parser.parse_args()
    z = z_value(2 * args.confidence - 1)
    base = Net(from_bytes(args.baseline.read_bytes()).clean)
    n = len(base.cell.index)
    print(f"{args.subsets} subsets of {args.images} of {n} images, without replacement; bounds at {args.confidence}")
    for path in args.candidates:
        net = Net(from_bytes(path.read_bytes()).clean)
        assert (net.cell.index == base.cell.index).all(), "evidence of other images"
        rng = np.random.default_rng(0)
        subsets = [rng.choice(n, args.images, replace=False) for _ in range(args.subsets)]
        for metric, limits in LIMITS.items():
            true = net.value(metric, np.arange(n)) - base.value(metric, np.arange(n))
            found = [interval(net, base, metric, rows, j) for j, rows in enumerate(subsets)]
            mine = np.array([net.value(metric, rows) for rows in subsets])
            theirs = np.roll([base.value(metric, rows) for rows in subsets], 1)
            for limit in limits:
                bad = true > limit
                point = np.mean([(i.estimate > limit) != bad for i in found])
                other = np.mean((mine - theirs > limit) != bad)
                verdicts = [decide(i.estimate, i.se, limit, z) for i in found]
                share = {d: float(np.mean([v is d for v in verdicts])) for d in Decision}
                print(
                    f"{path.parent.name}/{path.stem} {metric} true {true:+.4f} limit {limit:.3f}"
                    f" ({'FAIL' if bad else 'PASS'}): other wrong {other:.3f} flip {2 * other * (1 - other):.3f}"
                    f" | point wrong {point:.3f} flip {2 * point * (1 - point):.3f}"
                    f" | edgesafe wrong {share[Decision.PASS if bad else Decision.FAIL]:.3f}"
                    f" pass {share[Decision.PASS]:.3f} fail {share[Decision.FAIL]:.3f}"
                    f" inconclusive {share[Decision.INCONCLUSIVE]:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
