"""A study as tasks: what each costs, so that the share that is done can be told."""

import pytest

from edgesafe.commands.division import Parts, Work, costs, works
from edgesafe.commands.worker import Step
from edgesafe.progress import Lines
from edgesafe.recipe import parsing
from edgesafe.recipe.recipe import variants
from edgesafe.records import Estimate

AHEAD = Estimate(train_s=60, recover_s=300, export_s=40, measure_s=800, certify_s=0, disk_bytes=0, images=1, variants=4)


def tasks(*overrides: str) -> list[Work]:
    recipe = parsing.load(None, ["compress=[{method='filter', ratios=[0.3, 0.5, 0.7]}]", *overrides])
    return works(recipe, Parts(("fog", "contrast")), variants(recipe))


@pytest.mark.parametrize("mode", ["full", "quick"])
def test_tasks_cost_what_the_estimate_says_together(mode: str) -> None:
    work = tasks(f"evaluate.mode={mode}")
    took = costs(work, AHEAD)
    assert sum(took.values()) == pytest.approx(1000 * (AHEAD.seconds + 0.2 * len(work)), rel=1e-3)
    of = {step: [took[item.task.id] for item in work if item.step is step] for step in Step}
    baseline, *candidates = of[Step.SHIP]
    assert baseline == pytest.approx(1000 * (60 + 10 + 0.2), rel=1e-3)  # trained here, and a fourth of the exports
    assert candidates == pytest.approx([1000 * (100 + 10 + 0.2)] * 3, rel=1e-3)
    looks = of[Step.LOOK] if mode == "full" else of[Step.MEASURE]  # quick: not divided
    assert len(looks) == (12 if mode == "full" else 4)
    assert looks == pytest.approx([1000 * (800 / len(looks) + 0.2)] * len(looks), rel=1e-3)


def test_all_tasks_count_alike_where_nobody_knows() -> None:
    assert set(costs(tasks(), None).values()) == {1}


def test_a_log_gets_no_share_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(every_s=0.0).stage("tasks", 1000) as advance:
        for _ in range(1000):
            advance(1)
    shares = [line.split(" %")[0] for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert shares == [f"  tasks: {percent}" for percent in range(1, 100)]
