"""Samples of the corrupted images: what bounds on them are about, and how sure each of several looks must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesafe.errors import IntegrityError
from edgesafe.policy.policy import Policy
from edgesafe.policy.readings import Subject

__all__ = ["LOOKS", "each", "notes"]

LOOKS = "sample.looks"  #: in measurements.meta: how often the sample could have been judged while it grew
_DESIGN = "sample.design"  #: likewise: how the images of the corrupted cells were chosen


def each(policy: Policy, one: Subject) -> Policy:
    """The policy for one of several looks at a growing sample: together they err as seldom as it asks (Bonferroni).

    Raises:
        IntegrityError: a number of looks that is none.
    """
    count = one.candidate.meta.get(LOOKS, 1)
    if type(count) is not int or count < 1:
        raise IntegrityError(f"{LOOKS} is {count!r}", where=one.id, fix="measure again")
    if count == 1:
        return policy
    return replace(policy, stats=policy.stats.model_copy(update={"confidence": _each_at(policy, count)}))


def _each_at(policy: Policy, count: int) -> float:
    return 1.0 - (1.0 - policy.stats.confidence) / count


def notes(judged: Sequence[tuple[Subject, Policy]], policy: Policy) -> list[str]:
    """Says where bounds are about the fixed benchmark only, and where each of several looks had to be surer.

    Args:
        judged: each candidate, and the policy that it was judged by.
        policy: as written.
    """
    found = []
    sampled = [one.id for one, _ in judged if one.candidate.meta.get(_DESIGN) in ("cell", "margin")]
    if sampled:
        found.append(
            "measured on a sample of the corrupted images; bounds on them are about this fixed benchmark and not about "
            f'new images (what ships should also pass with mode = "full"): {", ".join(sampled)}'
        )
    looks: dict[int, list[str]] = {}
    for one, own in judged:
        if own is not policy:
            looks.setdefault(int(one.candidate.meta[LOOKS]), []).append(one.id)
    for count, ids in sorted(looks.items()):
        found.append(
            f"measured on a growing sample that could be judged {count} times; each bound holds at "
            f"{_each_at(policy, count):.2%}, together {policy.stats.confidence:.2%}: {', '.join(ids)}"
        )
    return found
