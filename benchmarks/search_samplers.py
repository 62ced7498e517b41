"""Bisection against Optuna's samplers: how good the best that passed is after the same number of trials.

    python benchmarks/search_samplers.py [--worlds 200]        # needs optuna, which edgesafe does not

A world has 1 to 6 series of 46 ratios. Costs fall along each, by an amount of its own; what passes ends somewhere in it. The
truth is the grid in full. Bisection is the product's `explore`, in the order and with the first ratio that a screening as
noisy as a tenth of the range would give. Optuna sees a categorical and a number, and 1.0 (the unpruned network) for a trial
that fails; it is told neither costs beforehand nor that verdicts are monotone, which a sampler has no place for.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np
import optuna

from edgesafe.stages.search.strategy import Line, Net, explore

RATIOS = 46


@dataclass
class World:
    """Costs (series, ratios), and the position up to which each series passes (-1: none)."""

    costs: np.ndarray
    last: np.ndarray
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min([1.0, *(float(c[end]) for c, end in zip(self.costs, self.last, strict=True) if end >= 0)])

    def net(self, line: Line, position: int) -> Net:
        cost = float(self.costs[int(line.label), position])
        return Net(cost, f"{cost:.6f}")

    def passes(self, line: Line, position: int, why: str) -> bool:
        assert why
        self.asked.append((int(line.label), position))
        return position <= self.last[int(line.label)]

    def found(self, trials: int) -> float:
        """The least cost of what passed among the first so many."""
        tried = self.asked[:trials]
        return min([1.0, *(float(self.costs[s, k]) for s, k in tried if k <= self.last[s])])


def world(rng: np.random.Generator) -> World:
    series = int(rng.integers(1, 7))
    steps = rng.random((series, RATIOS)) * rng.uniform(0.3, 1.7, (series, 1))
    costs = 1.0 - 0.95 * np.cumsum(steps, 1) / max(1.0, float(steps.sum(1).max()))
    return World(costs, rng.integers(-1, RATIOS, series))


def bisected(one: World, rng: np.random.Generator) -> int:
    guesses = np.clip(one.last + rng.normal(0, RATIOS / 10, len(one.last)).round().astype(int), 0, RATIOS - 1)
    order = np.argsort([one.costs[s, guesses[s]] for s in range(len(one.last))])
    lines = [Line(str(s), tuple(map(float, range(RATIOS))), int(guesses[s])) for s in order]
    explore(lines, one, lambda _line, _found: None)
    return len(one.asked)


def sampled(one: World, sampler: optuna.samplers.BaseSampler, trials: int) -> float:
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        s = trial.suggest_categorical("series", list(range(len(one.last))))
        k = trial.suggest_int("ratio", 0, RATIOS - 1)
        return float(one.costs[s, k]) if k <= one.last[s] else 1.0

    study.optimize(objective, n_trials=trials)
    return min(1.0, study.best_value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=200)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(args.worlds):
        one = world(rng)
        trials = bisected(one, rng)
        if not trials:
            continue
        names = {"tpe": optuna.samplers.TPESampler(seed=number), "random": optuna.samplers.RandomSampler(seed=number)}
        values = {name: sampled(one, sampler, trials) for name, sampler in names.items()}
        twice = sampled(one, optuna.samplers.TPESampler(seed=number), 3 * trials)
        rows.append(
            (
                trials,
                one.found(trials) - one.best,
                values["tpe"] - one.best,
                values["random"] - one.best,
                twice - one.best,
            )
        )
    table = np.array(rows)
    print(f"{len(table)} worlds, {table[:, 0].mean():.1f} trials on average, at most {table[:, 0].max():.0f}")
    for name, column in zip(("bisection", "TPE", "random", "TPE, 3 times the trials"), table[:, 1:].T, strict=True):
        print(f"{name:24} excess cost mean {column.mean():.4f}, the grid's best found in {(column < 0.002).mean():.1%}")


if __name__ == "__main__":
    main()
