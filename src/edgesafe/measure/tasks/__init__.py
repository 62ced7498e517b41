"""What a task makes of a network's outputs: answers, margins, evidence, metrics. One module per kind of task."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import DTypeLike

from edgesafe.measure.tasks.classification import ClassificationRules
from edgesafe.measure.tasks.keypoints import KeypointRules
from edgesafe.measure.tasks.rules import Rules
from edgesafe.records import Task, TaskKind

__all__ = ["Rules", "columns_of", "rules_of"]

_RULES: dict[TaskKind, type[Rules]] = {
    TaskKind.CLASSIFICATION: ClassificationRules,
    TaskKind.KEYPOINTS: KeypointRules,
}


def columns_of(kind: TaskKind) -> Mapping[str, tuple[DTypeLike, int]]:
    """The columns of a cell that are stored as evidence: type and number of dimensions by name."""
    return _RULES[kind].columns


def rules_of(task: Task) -> Rules:
    """The rules by which the answers of a network are judged that was given this task."""
    return _RULES[task.kind](task)
