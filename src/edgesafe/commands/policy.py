"""`edgesafe policy init|check|pin`: policies proposed, checked and pinned from a study."""

from __future__ import annotations

from pathlib import Path

from edgesafe.errors import StoreError, hint
from edgesafe.policy import lock as locks
from edgesafe.policy import policy as policies
from edgesafe.policy import proposal as proposals
from edgesafe.policy import subjects
from edgesafe.recipe import shipped
from edgesafe.recipe.shipped import Kind
from edgesafe.study.study import Study

__all__ = ["check", "pin", "propose"]


def propose(study: Study) -> str:
    """The text of a policy for a study (`edgesafe policy init`).

    Raises:
        EdgesafeError: the study was changed, or holds no measured baseline.
    """
    study.verify()
    return proposals.init(study.record, study.measurements())


def check(policy: Path, study: Study) -> list[str]:
    """Which gates of a policy this study's n can decide (`edgesafe policy check`).

    Raises:
        EdgesafeError: the policy cannot be used, or the study was changed.
    """
    study.verify()
    loaded = policies.load(shipped.find(Kind.POLICY, policy))
    subjects.require_task(loaded, study.record.data.kind)
    return proposals.check(loaded, study.measurements())


def pin(study: Study, baselines: tuple[str, ...]) -> str:
    """The text of an edgesafe.lock that pins baselines of a study (all of its baselines if none is named).

    Raises:
        EdgesafeError: the study was changed, or holds no such baseline.
    """
    done = {variant.id: variant for variant in study.finished()}
    chosen = baselines or tuple(name for name, variant in done.items() if variant.entry.is_baseline)
    if missing := [name for name in chosen if name not in done]:
        fix = hint(missing[0], list(done), "name one of its variants")
        raise StoreError(f"no finished variant '{missing[0]}'", where=str(study.root), fix=fix)
    for name in chosen:
        done[name].verify()
    return locks.pin({name: done[name].measurements for name in chosen})
