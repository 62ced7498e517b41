"""How often a search ends with a variant that its policy forbids, with and without the confirmation: simulated.

    python benchmarks/search_false_pass.py BASELINE/evidence.npz CANDIDATE/evidence.npz… [--draws 2000]

The population is stored evidence: right or wrong of baseline and candidates on the clean test images. Every rival's limit
is its own true drop of accuracy, the worst case: each of them breaks its policy by next to nothing, and a search that ends
with any of them is wrong. A draw takes images with replacement, half of them to decide and half untouched; a rival beyond
the files that are given is one of them on permuted images, so that its luck is its own. Each look and each bound is what
the product uses: Bonett and Price's paired interval, `policy.looks` for the level, at most three confirmations.

    one file    a rival that is judged alone, as `evaluate --policy` does: may be wrong in 1 % of draws
    search      any rival passes on the images that decide
    confirmed   one of the first three that pass does so on the untouched images, too
    shippable   the control: a file whose drop is half the limit and which passed is confirmed
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.cells import in_order, rightness
from edgesafe.measure.evidence import from_bytes
from edgesafe.measure.intervals.bounds import paired_difference
from edgesafe.measure.sampling.draw import looks

CONFIDENCE, CONFIRMATIONS, FIRST = 0.99, 3, 1_200

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Rival:
    """Right (1) or wrong (0) of a file and its baseline, by image, and the drop that its policy allows."""

    candidate: Rows
    baseline: Rows
    limit: float


@dataclass(frozen=True)
class Rates:
    """Shares of draws: see the module's docstring."""

    one_file: float
    search: float
    confirmed: float


def rivals_of(baseline: Rows, candidates: Sequence[Rows], count: int, rng: np.random.Generator) -> list[Rival]:
    """So many rivals at their limits: the candidates, then the same on permuted images."""
    made = []
    for k in range(count):
        mine = candidates[k % len(candidates)]
        order = np.arange(len(mine)) if k < len(candidates) else rng.permutation(len(mine))
        made.append(Rival(mine[order], baseline[order], float((baseline - mine).mean())))
    return made


def passes(rival: Rival, images: NDArray[np.int64], chances: int) -> bool:
    """Whether the gate passes a growing sample of these images at one of its looks."""
    sizes = looks(min(FIRST, len(images)), len(images))
    z = NormalDist().inv_cdf(1.0 - (1.0 - CONFIDENCE) / (len(sizes) * chances))
    for n in sizes:
        i = paired_difference(rival.candidate[images[:n]], rival.baseline[images[:n]], kind="rate")
        below = (i.estimate - i.low) / NormalDist().inv_cdf(0.975)
        if i.estimate - z * below >= -rival.limit:
            return True
    return False


def simulate(rivals: Sequence[Rival], draws: int, n: int, rng: np.random.Generator) -> Rates:
    """Draw `n` images `draws` times, and search among the rivals each time."""
    alone = found = confirmed = 0
    for _ in range(draws):
        images = rng.integers(0, len(rivals[0].baseline), n)
        decision, untouched = images[: n // 2], images[n // 2 :]
        passed = [rival for rival in rivals if passes(rival, decision, 1)]
        alone += bool(passed) and passed[0] is rivals[0]
        found += bool(passed)
        confirmed += any(passes(rival, untouched, CONFIRMATIONS) for rival in passed[:CONFIRMATIONS])
    return Rates(alone / draws, found / draws, confirmed / draws)


def shippable(rival: Rival, draws: int, n: int, rng: np.random.Generator) -> float:
    """Of a file whose drop is half its limit: the share of those draws in which it passed that is confirmed."""
    good = Rival(rival.candidate, rival.baseline, 2 * rival.limit)
    passed = confirmed = 0
    for _ in range(draws):
        images = rng.integers(0, len(rival.baseline), n)
        if passes(good, images[: n // 2], 1):
            passed += 1
            confirmed += passes(good, images[n // 2 :], CONFIRMATIONS)
    return confirmed / max(1, passed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    baseline, *candidates = (
        rightness(in_order(from_bytes(path.read_bytes()).clean)) for path in (args.baseline, *args.candidates)
    )
    rng = np.random.default_rng(0)
    n = len(baseline)
    for path, rows in zip(args.candidates, candidates, strict=True):
        print(
            f"{path.parent.name}: drop {100 * (baseline - rows).mean():.2f} pp, changed {100 * (baseline != rows).mean():.2f} %"
        )
    for count in (1, 5, 10, 20, 50):
        rates = simulate(rivals_of(baseline, candidates, count, rng), args.draws, n, rng)
        print(
            f"{count:3} rivals: one file {rates.one_file:.4f}  search {rates.search:.4f}  confirmed {rates.confirmed:.4f}",
            flush=True,
        )
    print(
        f"shippable: {shippable(rivals_of(baseline, candidates, 1, rng)[0], args.draws, n, rng):.3f} of those that passed"
    )


if __name__ == "__main__":
    main()
