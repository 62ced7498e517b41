"""Who works on a study: this process alone, processes beside it, or a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from edgesafe.errors import UsageError

__all__ = ["ALONE", "Crew", "Kind", "crew_of"]


_MOST_PER_CORE = 8  # beyond that nothing is faster, and memory runs out: a process has 0.8 GB (docs/cluster.md)


class Kind(StrEnum):
    """The kinds of places where the workers of a study run."""

    LOCAL = "local"  #: as processes of this machine
    RAY = "ray"  #: on a Ray cluster, or on one that is started for the purpose


@dataclass(frozen=True)
class Crew:
    """Who works on a study.

    Attributes:
        workers: how many tasks at once; None: one, in this process, or all that a Ray cluster has CPUs for.
        kind: where.
        address: of a Ray cluster ("auto", "ray://host:10001"); None: one is started here, and stopped.
    """

    workers: int | None = None
    kind: Kind = Kind.LOCAL
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: no workers, more than the machine can hold, an address without Ray, or Ray is not installed.
        """
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers", where="--workers", fix="give 1 or more")
        most = _MOST_PER_CORE * len(os.sched_getaffinity(0))
        if self.kind is Kind.LOCAL and (self.workers or 1) > most:
            what = f"{self.workers:,} workers on {most // _MOST_PER_CORE} cores: each takes about 0.8 GB of memory"
            raise UsageError(what, where="--workers", fix=f"give {most} at most; one a core is fastest")
        if self.address is not None and self.kind is not Kind.RAY:
            raise UsageError("an address goes with Ray", where="--address", fix="add --executor ray")
        if self.kind is Kind.RAY and find_spec("ray") is None:
            raise UsageError("ray is not installed", where="--executor ray", fix="pip install 'edgesafe[ray]'")

    @property
    def is_alone(self) -> bool:
        """Whether this process does all work itself."""
        return self.kind is Kind.LOCAL and self.workers in (None, 1)

    @property
    def is_here(self) -> bool:
        """Whether all of it works on this machine."""
        return self.address is None


ALONE = Crew()  #: this process


def crew_of(workers: int | Crew) -> Crew:
    """So many processes of this machine, or the crew itself."""
    return workers if isinstance(workers, Crew) else Crew(workers)
