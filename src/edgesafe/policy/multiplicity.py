"""Holm's correction for a list of fail alarms.

A gate passes when an upper bound lies within its limit. For a *conjunction* of passes no correction is needed: if one
limit is truly broken, the chance that all gates pass is at most the chance that this one passes (intersection-union
test; Berger 1982). A *list of alarms* does need one: with twenty limits that are just met, one false FAIL is expected
at 95 %.

The family corrected together is all alarms of one variant at one level (error or warn), over all gates and all members
of families. So the chance that a variant which meets every limit gets any FAIL is at most 1 - confidence, and adding a
warning never weakens an error.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (Holm 1979, Scand. J. Statist. 6:65-70).

    Args:
        p_values: one per alarm, each in [0, 1], in any order.

    Returns:
        Adjusted p-values in the same order, in [0, 1]: an alarm stands at family-wise error rate alpha where its
        adjusted value is at most alpha. With i and j counted from 1, adjusted_(i) is the largest over j <= i of
        min(1, (m - j + 1) p_(j)).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return tuple(adjusted)
