"""What a worker does: one step of one variant, on a copy of what it needs; all that it makes is sent.

The data set arrives once per worker, as a blob. What is computed depends neither on the worker nor on what ran before.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import torch

from edgesafe.commands import variants
from edgesafe.deploy.template import Templates
from edgesafe.executors.tasks import Blob, Send
from edgesafe.files.scratch import scratch
from edgesafe.progress import Silent
from edgesafe.recipe import recipe as recipes
from edgesafe.recipe.recipe import Recipe
from edgesafe.records import DataBundle, Host, SampleSize, StudyRecord
from edgesafe.stages import observe, sizing
from edgesafe.stages.certify import Shard
from edgesafe.stages.observe import Bench
from edgesafe.stages.timing import Timed
from edgesafe.study.host import host
from edgesafe.study.outpost import Outpost

__all__ = ["Order", "Shared", "Step", "perform"]


class Step(StrEnum):
    """Which stages of a variant a task is."""

    ALL = "all"  #: from the network to the numbers, in the process that holds the study
    PREPARE = "prepare"  #: a training before the cut, which the variants of a block share
    SHIP = "ship"  #: prune, recover, export
    LOOK = "look"  #: run the file on one part of the images
    CERTIFY = "certify"  #: certify the file on a share of the images
    TIME = "time"  #: latency, in the process that holds the study
    MEASURE = "measure"  #: what is left to look at; certificates; every metric


@dataclass(frozen=True)
class Shared:
    """What all tasks of a study need.

    Attributes:
        recipe: the recipe.
        bundle: its data.
        host: the machine of the process that holds the study.
        size: how many images were chosen for evaluate.hours; None: the recipe says how many.
    """

    recipe: Recipe
    bundle: DataBundle
    host: Host
    size: SampleSize | None = None


@dataclass(frozen=True)
class Order:
    """One task, with what it needs of the study.

    Attributes:
        shared: a pickled `Shared`.
        step: what to do.
        variant: id.
        part: of the evidence, for `Step.LOOK`.
        shard: of the certificates, for `Step.CERTIFY`.
        record: the study's index.
        files: the variant's own, by path below the study.
        common: those that other tasks need, too.
        timed: what timing gave, for `Step.MEASURE`.
        weights: name and content of the file that the recipe gives for the seed; None: it gives none.
        threads: that measuring may occupy; training takes those of the recipe, or as many as the host has cores.
    """

    shared: Blob
    step: Step
    variant: str
    part: str
    record: StudyRecord
    files: Mapping[str, bytes]
    common: Mapping[str, Blob]
    timed: Timed
    threads: int
    weights: tuple[str, Blob] | None = None
    shard: Shard | None = None


class _Told(Silent):
    """Sends what is said to the process that holds the study."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def note(self, text: str) -> None:
        """Send one line of text."""
        self._send(text)


def perform(order: Order, send: Send) -> None:
    """Do one step.

    Args:
        order: what to do.
        send: given lines of text, and files by path below the study.

    Raises:
        EdgesafeError: as in one process.
    """
    shared, bench, templates = _opened(order.shared)
    torch.set_num_threads(shared.recipe.threads or shared.host.cores)
    if bench.host.cpu != shared.host.cpu:
        send(
            f"on {bench.host.cpu}, which may round otherwise than {shared.host.cpu}: digests need not be one machine's"
        )
    plan = next(plan for plan in recipes.variants(shared.recipe) if plan.id == order.variant)
    files = {**order.files, **{name: blob.read() for name, blob in order.common.items()}}
    with (
        scratch("edgesafe-task-") as folder,
        Outpost(folder / "study", order.record, files, send) as study,
    ):
        bench = replace(bench, threads=order.threads)
        weights = _placed(order.weights, folder)
        run = variants.begin(shared.recipe, shared.bundle, bench, study, _Told(send), weights, templates)
        match order.step:
            case Step.PREPARE if plan.section is not None:
                variants.start_of(run, plan.seed, plan.section)
            case Step.SHIP:
                variants.ship(run, plan)
            case Step.LOOK:
                variants.observed(run, plan, order.part)
            case Step.CERTIFY if order.shard is not None:
                variants.certified(run, plan, order.shard)
            case Step.MEASURE:
                variants.measured(run, plan, order.timed)
            case _:
                raise ValueError(f"step {order.step} is not for a worker")


def _placed(weights: tuple[str, Blob] | None, folder: Path) -> str | None:
    """Where the weights lie on this machine, as a recipe would say it."""
    if weights is None:
        return None
    name, blob = weights
    (folder / name.partition("#")[0]).write_bytes(blob.read())
    return str(folder / name)


@lru_cache(maxsize=1)  # a worker serves one study at a time, with many tasks
def _opened(blob: Blob) -> tuple[Shared, Bench, Templates]:
    """The data, and what every file is measured on; the worker's own machine is recorded with what it measures."""
    shared: Shared = pickle.loads(blob.read())  # noqa: S301 - made by the process that sent the order, checked by hash
    recipe = shared.recipe
    bench = observe.prepare(shared.bundle, recipe.evaluate, recipe.target, host())
    return shared, bench if shared.size is None else sizing.sized(bench, shared.size), Templates()
