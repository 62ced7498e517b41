"""The sentence that a gate's result is told in.

    FAIL mpc-drop: mpc drop 2.31 pp [1.82, 2.80] > 1.0 pp (n=5,800, paired-normal)

The brackets hold the two one-sided bounds that the decision used.
"""

from __future__ import annotations

import math

from edgesafe.display import RULE_NOUNS, show, show_limit
from edgesafe.metrics import Basis, Rule
from edgesafe.policy.policy import Against, Clause
from edgesafe.policy.readings import Problem, Reading
from edgesafe.records import GateStatus

__all__ = ["of_problem", "of_reading"]


def of_reading(gate: str, reading: Reading, clause: Clause, status: GateStatus, context: tuple[float, str]) -> str:
    """One line for a decided gate: status, number with bounds, limit, and what the number rests on.

    Args:
        gate: its id.
        reading: the member that decided it.
        clause: rule and limit as written.
        status: what became of it.
        context: z of the bounds, and what to add at the end ("worst of 15", …); "" for nothing.
    """
    z, extra = context
    low, high = reading.bounds(z)
    relation = _relation(reading, status, z)
    (estimate, low_text, high_text), unit = show(
        (reading.estimate, low, high), reading.unit, difference=_differs(reading), apart=reading.limit
    )
    interval = "" if reading.exact else f" [{low_text}, {high_text}]"
    rests = _rests_on(reading)
    tail = ", ".join(part for part in (rests, extra) if part)
    to = f" to the {reading.against.noun}" if reading.against is Against.SIBLING else ""
    what = f"{reading.metric}{RULE_NOUNS[reading.rule]}{to} {estimate}{unit}{interval}"
    text = f"{status.name} {gate}: {what} {relation} {_limit(reading, clause)}"
    text += f" ({tail})" if tail else ""
    if status is GateStatus.INCONCLUSIVE and (hint := _more_images(reading, z)):
        text += f"; {hint}"
    return text


def of_problem(gate: str, problem: Problem) -> str:
    """One line for a gate that could not be decided: status, gate id and reason."""
    return f"{problem.status.name} {gate}: {problem.reason}"


def _differs(reading: Reading) -> bool:
    return reading.rule in (Rule.MAX_DROP, Rule.MAX_INCREASE)


def _limit(reading: Reading, clause: Clause) -> str:
    if not clause.limit.of_baseline or reading.of is None:
        return show_limit(clause.limit.text)
    (applied,), unit = show((reading.limit,), reading.unit, difference=True)
    (base,), base_unit = show((reading.of,), reading.unit)
    return f"{applied}{unit} ({show_limit(clause.limit.text)} of the {reading.against.noun}'s {base}{base_unit})"


def _relation(reading: Reading, status: GateStatus, z: float) -> str:
    """Where the number stands to the limit, from the numbers and not from the status (which a waiver may change)."""
    below_is_good = reading.rule is not Rule.MIN
    if reading.passes(z):
        return "<=" if below_is_good else ">="
    low, high = reading.bounds(z)
    beyond = low > reading.limit if below_is_good else high < reading.limit
    if beyond and status is not GateStatus.INCONCLUSIVE:
        return ">" if below_is_good else "<"
    return "is not surely within" if beyond else "straddles"


def _rests_on(reading: Reading) -> str:
    if reading.exact:
        return ""
    what = "runs" if reading.info.basis is Basis.RUNS else "n"
    return f"{what}={reading.n:,}, {reading.method}"


def _more_images(reading: Reading, z: float) -> str:
    """How many images would decide, were the estimate the truth: spreads shrink with the square root of n."""
    if reading.info.basis is not Basis.IMAGES:
        return "measure more runs on a quieter machine"
    excess = reading.excess()
    if excess > 0:
        spread = reading.above if reading.rule is Rule.MIN else reading.below
    else:
        spread = reading.below if reading.rule is Rule.MIN else reading.above
    if excess == 0.0 or spread == 0.0:
        return ""
    needed = math.ceil(reading.n * (z * spread / excess) ** 2)
    if needed <= reading.n:
        return ""
    return (
        f"about n={_two_digits(needed):,} would decide if the estimate holds"
        if needed < 10**9
        else "the estimate is at the limit"
    )


def _two_digits(n: int) -> int:
    """Rounds a positive `n` up to two significant digits: 1,234 gives 1,300."""
    step: int = 10 ** max(len(str(n)) - 2, 0)
    return -(-n // step) * step
