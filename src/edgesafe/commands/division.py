"""What a study is divided into for a crew of workers: tasks, what each waits for, and how much of the study each is.

ship (baseline) ─> prepare (of a block) ─> ship ─> look (clean, each corruption) ─┐
                                             ├───> certify (shares of the images) ┤
                                             └───> time ──────────────────────────┴─> measure
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgesafe.commands.worker import Step
from edgesafe.executors.tasks import Need, Task
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.sections import CompressSection, Device, Method
from edgesafe.records import Estimate, Role
from edgesafe.stages.certify import Shard

__all__ = ["Parts", "Work", "costs", "waited_for", "works"]

_A_GPU = 0.25  # small networks leave most of a GPU idle: four of them share one
_LEAST_S = 0.2  # of a task: copying what it needs, and reading it


@dataclass(frozen=True)
class Parts:
    """What the measuring of every file is divided into.

    Attributes:
        corruptions: looked at by a task each.
        shards: of the certificates; sets that are not shared are certified with the measuring.
    """

    corruptions: Sequence[str]
    shards: Sequence[Shard] = ()


@dataclass(frozen=True)
class Work:
    """A task and what it is about.

    Attributes:
        task: for the executor.
        step: which stages.
        plan: of the variant; of the first of its block where the step is to prepare.
        part: of the evidence, where the step is looking.
        shard: of the certificates, where it is certifying.
    """

    task: Task
    step: Step
    plan: VariantPlan
    part: str = ""
    shard: Shard | None = None


def works(recipe: Recipe, parts: Parts, left: Sequence[VariantPlan], threads: int = 1) -> list[Work]:
    """The tasks for a crew: what others wait for first, timings when all networks are made, then the numbers.

    Args:
        recipe: what is asked for.
        parts: what the measuring of every file is divided into.
        left: the variants that have still to be made.
        threads: of a training.
    """
    looked = ("", *parts.corruptions) if recipe.evaluate.mode == "full" else ()
    on_gpu = Device.CUDA in (recipe.train.device, recipe.recover.device)
    trained = Need(cpus=threads, gpus=_A_GPU if on_gpu else 0.0)
    first: list[Work] = []
    timings: list[Work] = []
    last: list[Work] = []
    for plan in sorted(left, key=lambda plan: plan.role is Role.CANDIDATE):
        after = [f"ship {name}" for name in waited_for(left, plan.baseline)]
        after += [f"measure {name}" for name in waited_for(left, plan.sibling)]
        if plan.section is not None and plan.sibling is None and _is_prepared(plan.section):
            name = f"prepare {recipe.compress.index(plan.section)} s{plan.seed}"
            if all(work.task.id != name for work in first):
                first.append(Work(Task(name, tuple(after), need=trained), Step.PREPARE, plan))
            after.append(name)
        by_latency = plan.section is not None and plan.section.times
        shipping = Task(f"ship {plan.id}", tuple(after), alone=by_latency, need=trained)
        first.append(Work(shipping, Step.SHIP, plan))
        before = [Work(Task(f"look {plan.id} {part}", (shipping.id,)), Step.LOOK, plan, part) for part in looked]
        reference = [f"measure {name}" for name in waited_for(left, plan.baseline)]
        for shard in parts.shards:
            task = Task(f"certify {plan.id} {shard}", (shipping.id, *reference))
            before.append(Work(task, Step.CERTIFY, plan, shard=shard))
        first += before
        ends = [work.task.id for work in before] or [shipping.id]
        if recipe.evaluate.latency:
            timings.append(Work(Task(f"time {plan.id}", (shipping.id, *after), alone=True), Step.TIME, plan))
            ends.append(timings[-1].task.id)
        ends += [f"measure {name}" for name in waited_for(left, plan.baseline, plan.sibling)]
        last.append(Work(Task(f"measure {plan.id}", tuple(ends)), Step.MEASURE, plan))
    return [*first, *timings, *last]


def waited_for(left: Sequence[VariantPlan], *names: str | None) -> tuple[str, ...]:
    """Those of the named variants that have still to be made."""
    return tuple(plan.id for plan in left if plan.id in names)


def costs(work: Sequence[Work], ahead: Estimate | None) -> dict[str, int]:
    """How long each task may take, so that a share of a study's work can be told before its end.

    Args:
        work: the tasks.
        ahead: what they will take together; None: nobody knows, and all count alike.

    Returns:
        Milliseconds by id of the task, at least 1: what the estimate says of a kind of work, divided evenly among the
        tasks that do it.
    """
    if ahead is None:
        return {item.task.id: 1 for item in work}
    steps = {item.step for item in work}
    looking = Step.LOOK if Step.LOOK in steps else Step.MEASURE
    certifying = Step.CERTIFY if Step.CERTIFY in steps else Step.MEASURE
    spent = {item.task.id: _LEAST_S for item in work}
    shares: list[tuple[float, Callable[[Work], bool]]] = [
        (ahead.train_s, lambda item: item.step is Step.PREPARE or _ships(item, Role.BASELINE)),
        (ahead.recover_s, lambda item: _ships(item, Role.CANDIDATE)),
        (ahead.export_s, lambda item: item.step is Step.SHIP),
        (ahead.measure_s, lambda item: item.step is looking),
        (ahead.certify_s, lambda item: item.step is certifying),
    ]
    for seconds, does in shares:
        those = [item.task.id for item in work if does(item)]
        for name in those:
            spent[name] += seconds / len(those)
    return {name: round(1000 * seconds) for name, seconds in spent.items()}


def _ships(work: Work, role: Role) -> bool:
    """Whether it makes a network of that role, which no int8 sibling is."""
    return work.step is Step.SHIP and work.plan.role is role and work.plan.sibling is None


def _is_prepared(section: CompressSection) -> bool:
    """Whether the network is trained before it is cut."""
    return bool(section.slim_epochs) if section.method is Method.CHANNEL else section.tune_first
