"""What a loader of a data set gives, before it is checked, split and hashed."""

from __future__ import annotations

from dataclasses import dataclass

from edgesafe.records import Task

__all__ = ["RawData"]


@dataclass(frozen=True)
class RawData:
    """What a loader gives. `validation` None: held out of train by `load`."""

    train: tuple[object, object]
    test: tuple[object, object]
    task: Task
    validation: tuple[object, object] | None = None
    hold_out: int = 0  #: images held out if the recipe does not say
    mean: tuple[float, ...] | None = None  #: None: computed from train
    std: tuple[float, ...] | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()
