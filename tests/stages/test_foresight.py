"""What is said of a recipe's trainings before any begins: what this machine cannot do, and what nothing depends on."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import UsageError
from edgesafe.recipe import parsing, recipe
from edgesafe.recipe.sections import RecoverSection, TrainSection
from edgesafe.records import Task
from edgesafe.stages import foresight, train
from edgesafe.train import mode


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("train.device=cuda", "train.device"),
        ("recover.device=cuda", "recover.device"),
        ("compress.2.recover={device='cuda'}", "compress.2.recover.device"),
        ("compress.0.recover={precision='bf16'}", "compress.0.recover.precision"),
    ],
)
def test_what_the_machine_has_not_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch, said: str, key: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(mode, "bf16_on_cpu", lambda: False)
    asked = parsing.load(None, [said])
    with pytest.raises(UsageError) as told:
        foresight.require_machine(recipe.trainings(asked, recipe.variants(asked)))
    assert told.value.where == key


def test_what_is_not_trained_asks_nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline that is done or given, and a [recover] that every block replaces."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = parsing.load(None, ["train.device=cuda", "recover.device=cuda"])
    asked = asked.model_copy(update={"compress": tuple(
        block.model_copy(update={"recover": RecoverSection()}) for block in asked.compress
    )})  # fmt: skip
    left = [plan for plan in recipe.variants(asked) if plan.section is not None]
    foresight.require_machine(recipe.trainings(asked, left))
    given_ = parsing.load(None, ["train.device=cuda", "model.weights=x.safetensors"])
    foresight.require_machine(recipe.trainings(given_, recipe.variants(given_)))
    with pytest.raises(UsageError):
        foresight.require_machine(recipe.trainings(asked, recipe.variants(asked)))


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"epochs": 12, "milestones": (8, 11)}, []),
        ({"epochs": 11, "milestones": (8, 11)}, ["recover.milestones 11 are beyond"]),
        ({"epochs": 0, "milestones": (8, 11), "warmup": 3}, []),
        ({"epochs": 9, "milestones": (8,), "schedule": "cosine"}, ["recover.milestones are not used"]),
        ({"epochs": 3, "warmup": 3, "lr": 0.4}, ["recover.warmup 3 outlasts the 3 epochs: the rate ends at 0.3,"]),
        ({"epochs": 3, "optimiser": "adamw", "momentum": 0.5}, ["recover.momentum is not used"]),
        ({"epochs": 3, "optimiser": "adamw"}, []),
    ],
)
def test_what_changes_no_training_is_named(values: dict[str, Any], lines: list[str]) -> None:
    said = foresight.unheeded({"recover": RecoverSection(**values)})
    assert len(said) == len(lines)
    assert all(line.startswith(begin) for line, begin in zip(said, lines, strict=True))


@given(st.integers(1, 30), st.lists(st.integers(1, 40), max_size=4))
def test_a_milestone_is_named_if_and_only_if_no_rate_depends_on_it(epochs: int, milestones: list[int]) -> None:
    """Oracle: the rates of all epochs, with and without each milestone."""
    section = TrainSection(epochs=epochs, milestones=tuple(milestones))
    plan = train.fit_plan(section, 0, Task())
    idle = []
    for position, milestone in enumerate(milestones):
        others = TrainSection(epochs=epochs, milestones=tuple(milestones[:position] + milestones[position + 1 :]))
        without = train.fit_plan(others, 0, Task())
        if all(plan.rate(epoch) == without.rate(epoch) for epoch in range(epochs)):
            idle.append(milestone)
    said = foresight.unheeded({"train": section})
    named = said[0].removeprefix("train.milestones ").split(" are")[0].split(", ") if said else []
    assert named == [str(milestone) for milestone in idle]
