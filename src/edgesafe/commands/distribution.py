"""The variants of a study, made by this process one after the other, or by a crew of workers (tasks: `division`).

A worker has a copy of what its task needs of the study and sends back what it makes; this process alone writes into the
study. Latency is timed here, while no worker works. Looking and certifying only fill in parts that measuring would make
itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesafe.commands import variants
from edgesafe.commands.division import Parts, Work, costs, waited_for, works
from edgesafe.commands.variants import Run
from edgesafe.commands.worker import Order, Shared, Step
from edgesafe.errors import RefusedError, WorkerError
from edgesafe.executors import schedule
from edgesafe.executors.crew import Crew, Kind
from edgesafe.executors.processes import Processes
from edgesafe.executors.sequential import Sequential
from edgesafe.executors.tasks import Blob, Task, Workers
from edgesafe.recipe.recipe import VariantPlan
from edgesafe.records import Estimate, Role, StudyRecord, VariantStatus
from edgesafe.stages import certify, measure
from edgesafe.stages.timing import Timed
from edgesafe.study import naming
from edgesafe.study.host import cores
from edgesafe.study.outpost import adopt, stages_of, variant_files

__all__ = ["make"]

_JOB = "edgesafe.commands.worker:perform"
_MEASURED = ("model.onnx", "variant.json")  # of a variant: what running its file on images needs
_STARTED = (*_MEASURED, "model.safetensors", "measurements.json")  # of a baseline: what others begin with


def make(
    run: Run, plans: Sequence[VariantPlan], left: Sequence[VariantPlan], crew: Crew, ahead: Estimate | None
) -> None:
    """Make the variants that are left.

    Args:
        run: the open study and what its stages share.
        plans: all variants.
        left: those that are not done.
        crew: who works.
        ahead: what making them will take; None: nobody knows.

    Raises:
        EdgesafeError: a baseline is refused, or something can be mended only by the user.
        WorkerError: variants that could not be made for another reason; all others were made.
    """
    for number, plan in enumerate(plans, 1):
        if plan not in left:
            run.progress.note(f"[{number}/{len(plans)}] {plan.id}: done before")
    numbers = {plan.id: f"[{number}/{len(plans)}]" for number, plan in enumerate(plans, 1)}
    if crew.is_alone:
        work = [Work(Task(plan.id, waited_for(left, plan.baseline)), Step.ALL, plan) for plan in left]
        alone = _Driver(run, work, numbers)
        schedule.run([item.task for item in work], Sequential(alone.here), alone)
        return
    threads = run.recipe.threads or run.bench.host.cores
    in_full = run.recipe.evaluate.mode == "full"  # a sample that grows is certified as it grows
    shards = certify.shards(run.recipe.certify, run.bundle.test) if in_full else ()
    work = works(run.recipe, Parts(run.bench.corrupted, shards), left, threads)
    executor = _executor(crew)
    try:
        _Crew(run, work, numbers, executor).make(costs(work, ahead))
    finally:
        executor.close()


def _executor(crew: Crew) -> Workers:
    if crew.kind is Kind.LOCAL:
        return Processes(_JOB, crew.workers or 1)
    from edgesafe.executors.ray_cluster import RayCluster

    return RayCluster(_JOB, crew.workers, crew.address, cores())


@dataclass
class _Driver:
    """Makes variants in this process; see `schedule.Driver`."""

    run: Run
    work: Sequence[Work]
    numbers: dict[str, str]
    given_up: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_task = {item.task.id: item for item in self.work}

    def order(self, task: Task) -> Any:  # noqa: ARG002 - nothing is sent within a process
        """Nothing: see `here`."""
        return None

    def here(self, task: Task) -> None:
        """The whole variant: made, timed, measured."""
        run, plan = self.run, self.by_task[task.id].plan
        run.progress.note(f"{self.numbers[plan.id]} {plan.id}")
        variants.make(run, plan)

    def take(self, task: Task, message: Any) -> None:
        """Keep files that a worker made; say what it says."""

    def done(self, task: Task) -> None:
        """A task is done."""

    def lost(self, task: Task, reason: str) -> None:
        """Say that a task is tried again."""
        self.run.progress.note(f"{task.id}: its worker is gone ({reason}); trying it again")

    def failed(self, task: Task, error: Exception) -> None:
        """Refuse a variant or give it up; what no other variant survives either is raised."""
        plan, run = self.by_task[task.id].plan, self.run
        if plan.id in self.given_up:
            return
        if isinstance(error, RefusedError) and plan.role is Role.CANDIDATE:
            run.study.refuse(plan.id, str(error))
            run.progress.note(f"  refused: {error}" if task.id == plan.id else f"{plan.id}: refused: {error}")
        elif isinstance(error, WorkerError):
            run.progress.note(f"{plan.id}: given up: {error}")
        else:
            raise error
        self.given_up[plan.id] = "" if isinstance(error, RefusedError) else str(error)

    def tell(self) -> None:
        """Refuse the siblings of what was refused, and raise if variants were given up.

        Raises:
            WorkerError: they were; it names them.
        """
        for item in self.work:
            plan, record = item.plan, self.run.study.record
            if plan.sibling in self.given_up and item.step is Step.SHIP and not self.given_up[plan.sibling]:
                self.run.study.refuse(plan.id, str(variants.sibling_missing(plan, record.entry(plan.sibling))))
        failed = {name: why for name, why in self.given_up.items() if why}
        if failed:
            name, why = next(iter(failed.items()))
            entries = self.run.study.record.variants
            missing = sum(entry.status is VariantStatus.PENDING for entry in entries)  # what waited for them, too
            more = f" and {missing - 1} more" if missing > 1 else ""
            what = f"{name}{more} could not be made ({why})"
            others = "the others are done; " if missing < len(entries) else ""
            raise WorkerError(what, fix=f"{others}the same command tries these again")


class _Crew(_Driver):
    """Has variants made by workers, and keeps what they send."""

    def __init__(self, run: Run, work: Sequence[Work], numbers: dict[str, str], executor: Workers) -> None:
        super().__init__(run, work, numbers)
        self.executor = executor
        self._timed: dict[str, Timed] = {}
        self._count: Callable[[Task], None] = lambda _: None
        size = run.study.record.sample_size
        self._shared = executor.share(pickle.dumps(Shared(run.recipe, run.bundle, run.bench.host, size)))

    def make(self, took: Mapping[str, int]) -> None:
        """Have all tasks done.

        Args:
            took: how long each task may take, by id, in any unit: for the share that is done.

        Raises:
            EdgesafeError: see `make`.
        """
        with self.run.progress.stage(f"{len(self.work)} tasks", sum(took.values())) as advance:
            self._count = lambda task: advance(took[task.id])
            schedule.run([item.task for item in self.work], self.executor, self)
        self.tell()

    def order(self, task: Task) -> Order:
        """What a worker needs of the study for the task."""
        item, study = self.by_task[task.id], self.run.study
        plan = item.plan
        if item.step is Step.SHIP:
            self.run.progress.note(f"{self.numbers[plan.id]} {plan.id}")
        files, common = self._own(item), self._common(item)
        return Order(
            shared=self._shared,
            step=item.step,
            variant=plan.id,
            part=item.part,
            shard=item.shard,
            record=_unfinished(study.record, plan.id),
            files=files,
            common={name: self.executor.share(content) for name, content in common.items()},
            timed=self._timed.get(plan.id, Timed({})),
            threads=max(1, self.run.bench.host.cores // self.executor.slots),
            weights=self._weights(plan) if item.step in (Step.PREPARE, Step.SHIP) else None,
        )

    def _own(self, item: Work) -> dict[str, bytes]:
        """The variant's own files that the step needs, and what it or a worker before it has finished of it."""
        root, name = self.run.study.root, item.plan.id
        match item.step:
            case Step.LOOK:
                return variant_files(root, name, *_MEASURED) | stages_of(root, name, measure.kept_of(item.part))
            case Step.CERTIFY:
                return variant_files(root, name, *_MEASURED) | stages_of(root, name, certify.KEPT)
            case Step.MEASURE:
                return variant_files(root, name) | stages_of(root, name)
        return stages_of(root, name)

    def _common(self, item: Work) -> dict[str, bytes]:
        """The files that the step needs and other tasks need, too."""
        root, plan = self.run.study.root, item.plan
        common: dict[str, bytes] = {}
        if item.step in (Step.PREPARE, Step.SHIP):
            common |= stages_of(root, f"{naming.baseline(plan.seed).id}.train")
            if plan.sibling is not None:
                common |= variant_files(root, plan.sibling)
            if plan.role is Role.CANDIDATE:
                common |= stages_of(root, f"slim-s{plan.seed}") | stages_of(root, f"tune-s{plan.seed}")
                common |= variant_files(root, str(plan.baseline), *_STARTED)
        elif item.step in (Step.CERTIFY, Step.MEASURE):
            for name in {plan.baseline, plan.sibling} - {None}:
                common |= variant_files(root, str(name))
        return common

    def _weights(self, plan: VariantPlan) -> tuple[str, Blob] | None:
        """The weights that the recipe gives for the seed, and what of the file's name its reading depends on."""
        said = self.run.recipe.model.weights_of(plan.seed)
        if said is None:
            return None
        path, key = (said, "") if Path(said).is_file() else said.partition("#")[::2]
        return Path(path).name + (f"#{key}" if key else ""), self.executor.share(Path(path).read_bytes())

    def here(self, task: Task) -> None:
        """Time a file, or prune by latency: nothing else runs."""
        plan = self.by_task[task.id].plan
        if self.by_task[task.id].step is Step.SHIP:
            self.run.progress.note(f"{self.numbers[plan.id]} {plan.id}")
            variants.ship(self.run, plan)
        else:
            self.run.progress.note(f"{plan.id}: timing")
            self._timed[plan.id] = variants.timed_of(self.run, plan.id, plan.baseline, plan.sibling)

    def take(self, task: Task, message: Any) -> None:
        """Keep files that a worker made; say what it says."""
        if isinstance(message, str):
            self.run.progress.note(f"{task.id}: {message.strip()}")
        else:
            adopt(self.run.study, message)

    def done(self, task: Task) -> None:
        """A measured variant is done."""
        self._count(task)
        item = self.by_task[task.id]
        if item.step is Step.MEASURE:
            variants.rechecked(self.run, item.plan)
            self.run.study.finish(item.plan.id)
            self.run.progress.note(f"{self.numbers[item.plan.id]} {item.plan.id}: done")


def _unfinished(record: StudyRecord, variant: str) -> StudyRecord:
    """The index with that variant as not yet made: it may have been once, and its files may be gone."""
    fresh = {"status": VariantStatus.PENDING, "digest": "", "reason": "", "records": {}}
    entries = tuple(entry.model_copy(update=fresh) if entry.id == variant else entry for entry in record.variants)
    return record.model_copy(update={"variants": entries})
