"""`edgesafe policy init|check|pin`: policies proposed, checked and pinned from a study."""

from __future__ import annotations

from pathlib import Path

from edgesafe.commands.gate import _records
from edgesafe.errors import StoreError
from edgesafe.policy import lock as locks
from edgesafe.policy import policy as policies
from edgesafe.policy import proposal as proposals
from edgesafe.recipe import shipped
from edgesafe.recipe.shipped import Kind
from edgesafe.study.study import StudyReader

__all__ = ["check", "pin", "propose"]


def propose(path: Path) -> str:
    """The text of a policy for a study (`edgesafe policy init`).

    Raises:
        EdgesafeError: the study cannot be used, or holds no measured baseline.
    """
    study, _, measurements = _records(path)
    return proposals.init(study.record, measurements)


def check(policy: Path, study: Path) -> list[str]:
    """Which gates of a policy this study's n can decide (`edgesafe policy check`).

    Raises:
        EdgesafeError: policy or study cannot be used.
    """
    return proposals.check(policies.load(shipped.find(Kind.POLICY, policy)), _records(study)[2])


def pin(study_path: Path, baselines: tuple[str, ...]) -> str:
    """The text of an edgesafe.lock that pins baselines of a study (all of its baselines if none is named).

    Raises:
        EdgesafeError: the study cannot be used, or holds no such baseline.
    """
    study = StudyReader(study_path)
    done = study.done()
    chosen = baselines or tuple(name for name in done if study.variant(name).method == "baseline")
    missing = [name for name in chosen if name not in done]
    if missing:
        raise StoreError(f"no finished variant '{missing[0]}'", where=str(study_path), fix=f"it has: {', '.join(done)}")
    for name in chosen:
        study.verify(name)
    return locks.pin({name: study.measurements(name) for name in chosen})
