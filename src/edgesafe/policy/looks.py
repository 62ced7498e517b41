"""Samples of the images: what bounds on them are about, and how sure each of several looks must be.

A look is a chance to be wrong. A sample that grows is looked at several times; the untouched images of a search may
judge several files, one after another. Each of these chances gets an equal share of what the policy allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgesafe.policy.policy import Policy
from edgesafe.policy.readings import Subject

__all__ = ["each", "notes"]


def each(policy: Policy, subject: Subject) -> Policy:
    """The policy for one of several looks: together they err as seldom as it asks (Bonferroni)."""
    count = _chances(subject)
    if count == 1:
        return policy
    return replace(policy, stats=policy.stats.model_copy(update={"confidence": _each_at(policy, count)}))


def _looks(subject: Subject) -> int:
    """How often the candidate's sample could have been judged while it grew; 1: it did not grow."""
    return subject.candidate.sample.looks if subject.candidate.sample is not None else 1


def _rivals(subject: Subject) -> int:
    """How many files could have been judged on the candidate's images; 1: it alone."""
    return subject.candidate.sample.rivals if subject.candidate.sample is not None else 1


def _chances(subject: Subject) -> int:
    return _looks(subject) * _rivals(subject)


def _each_at(policy: Policy, count: int) -> float:
    return 1.0 - (1.0 - policy.stats.confidence) / count


def notes(judged: Sequence[tuple[Subject, Policy]], policy: Policy) -> list[str]:
    """Says where bounds are about the fixed benchmark only, and where each of several looks had to be surer.

    Args:
        judged: each candidate, and the policy that it was judged by.
        policy: as written.
    """
    lines = []
    sampled = [
        subject.id
        for subject, _ in judged
        if subject.candidate.sample is not None and subject.candidate.sample.design is not None
    ]
    if sampled:
        lines.append(
            "measured on a sample of the corrupted images; bounds on them are about this fixed benchmark and not about "
            f'new images (what ships should also pass with mode = "full"): {", ".join(sampled)}'
        )
    chances: dict[tuple[int, int], list[str]] = {}
    for subject, own in judged:
        if own is not policy:
            chances.setdefault((_looks(subject), _rivals(subject)), []).append(subject.id)
    for (looks, rivals), ids in sorted(chances.items()):
        among = f", on images that could judge {rivals} files of a search" if rivals > 1 else ""
        lines.append(
            f"measured on a growing sample that could be judged {looks} times{among}; each bound holds at "
            f"{_each_at(policy, looks * rivals):.2%}, together {policy.stats.confidence:.2%}: {', '.join(ids)}"
        )
    return lines
