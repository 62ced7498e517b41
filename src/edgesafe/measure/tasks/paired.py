"""The paired differences that every task has: accuracy, and the answers that changed."""

from __future__ import annotations

from edgesafe.measure.cells import rightness
from edgesafe.measure.intervals.bounds import Interval, paired_difference, wilson
from edgesafe.measure.intervals.stated import comparison
from edgesafe.measure.tasks.rules import Scope
from edgesafe.records import Cell, Comparison

__all__ = ["accuracy_and_flips", "changed"]


def changed(a: Cell, b: Cell, interval_level: float) -> Interval:
    """The share of rows whose answer is another, with Wilson's interval."""
    return wilson(int((a.prediction != b.prediction).sum()), len(a.index), interval_level)


def accuracy_and_flips(a: Cell, b: Cell, scope: Scope) -> dict[str, Comparison]:
    """`accuracy`, with how many images only one of the two answers rightly, and `flips`.

    Args:
        a: rows of the candidate.
        b: rows of the baseline, of the same images in the same order.
        scope: level and population.
    """
    right = rightness(a), rightness(b)
    interval = paired_difference(*right, scope.interval_level, kind="rate")
    gained, lost = float((right[0] > right[1]).sum()), float((right[1] > right[0]).sum())
    flips = changed(a, b, scope.interval_level)
    return {
        "accuracy": comparison(
            "accuracy", interval, scope.population,
            candidate=float(right[0].mean()), baseline=float(right[1].mean()),
            details={"candidate_only_right": gained, "baseline_only_right": lost},
        ),
        "flips": comparison("flips", flips, scope.population, candidate=flips.estimate, baseline=0.0),
    }  # fmt: skip
