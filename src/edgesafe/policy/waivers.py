"""Waivers: a named person accepts, until a date, that one file misses one gate by no more than a limit of its own."""

from __future__ import annotations

from datetime import date

from edgesafe.policy.policy import Policy, Waiver
from edgesafe.policy.readings import Problem, Reading
from edgesafe.records import GateStatus

__all__ = ["EXPIRY_NOTICE_DAYS", "find", "notes", "settle"]

EXPIRY_NOTICE_DAYS = 14  #: a waiver with so many days left, or fewer, is announced


def find(policy: Policy, gate: str, candidate: str) -> Waiver | None:
    """The waiver of this gate for the file with this hash, expired or not."""
    return next((waiver for waiver in policy.waivers if waiver.gate == gate and waiver.candidate == candidate), None)


def settle(waiver: Waiver, readings: list[Reading | Problem], z: float, today: date) -> tuple[GateStatus | None, str]:
    """What a waiver makes of a gate that fails or is inconclusive.

    Args:
        waiver: for this gate and file.
        readings: the gate's members, read against the waiver's own limit.
        z: of the decision's confidence. The waiver's limit must be met as surely as the gate's would have to be.
        today: the waiver still holds on its last day.

    Returns:
        The new status (WAIVED; FAIL once expired; None: unchanged) and what to add to the message.
    """
    terms = f"{waiver.approver} until {waiver.until.isoformat()}: {' '.join(waiver.reason.split())}"
    if today > waiver.until:
        return GateStatus.FAIL, f"waiver by {waiver.approver} expired on {waiver.until.isoformat()}"
    if all(isinstance(reading, Reading) and reading.passes(z) for reading in readings):
        return GateStatus.WAIVED, f"waived up to {waiver.clause} by {terms}"
    return None, f"beyond the waiver's own limit {waiver.clause} as well"


def notes(policy: Policy, used: set[tuple[str, str]], today: date) -> list[str]:
    """Warnings about waivers: unused, expired, soon to expire.

    Args:
        policy: holds the waivers.
        used: (gate, candidate hash) of those that a gate needed.
        today: date of the decision.
    """
    lines = []
    for waiver in policy.waivers:
        name = f"waiver of '{waiver.gate}' for {waiver.candidate[:19]}…"
        left = (waiver.until - today).days
        if (waiver.gate, waiver.candidate) not in used:
            lines.append(f"warning: {name} was not needed; remove it")
        if left < 0:
            lines.append(f"warning: {name} expired on {waiver.until.isoformat()}")
        elif left <= EXPIRY_NOTICE_DAYS:
            lines.append(
                f"warning: {name} expires in {left} day{'' if left == 1 else 's'} ({waiver.until.isoformat()})"
            )
    return lines
