"""What can be said of a recipe's trainings before any of them begins, which may be hours before its turn comes."""

from __future__ import annotations

from collections.abc import Mapping

from edgesafe.recipe.sections import Optimiser, RecoverSection, TrainSection
from edgesafe.train.mode import choose

__all__ = ["require_machine", "unheeded"]

Asked = Mapping[str, TrainSection | RecoverSection]
"""Trainings by the key of the recipe that says how: "train", "recover", "compress.0.recover"."""


def require_machine(asked: Asked) -> None:
    """See that this machine has the devices and the arithmetic of all trainings.

    Raises:
        UsageError: it has not; names the key.
    """
    for key, section in asked.items():
        choose(section, key)


def unheeded(asked: Asked) -> tuple[str, ...]:
    """What a recipe says of its trainings that changes none of them, one line for each key."""
    return tuple(line for key, section in asked.items() for line in _unheeded(key, section) if section.epochs)


def _unheeded(key: str, section: TrainSection | RecoverSection) -> list[str]:
    falling = section if isinstance(section, RecoverSection) else RecoverSection()
    epochs = "1 epoch" if section.epochs == 1 else f"{section.epochs} epochs"
    said = []
    late = [milestone for milestone in section.milestones if milestone >= section.epochs]
    if falling.schedule == "cosine" and section.milestones:
        said.append(f'{key}.milestones are not used: {key}.schedule is "cosine"')
    elif late:
        which = ", ".join(map(str, late))
        said.append(f"{key}.milestones {which} are beyond the {epochs}: the rate does not fall there")
    if falling.warmup >= section.epochs:
        rate = f"{section.lr * section.epochs / (falling.warmup + 1):.3g}"
        said.append(
            f"{key}.warmup {falling.warmup} outlasts the {epochs}: the rate ends at {rate}, not at {section.lr:g}"
        )
    if section.optimiser is Optimiser.ADAMW and "momentum" in section.model_fields_set:
        said.append(f'{key}.momentum is not used: {key}.optimiser is "adamw"')
    return said
