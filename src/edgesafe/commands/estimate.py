"""What a study will take in time and disk: a short measurement here, multiplied by what the recipe asks for.

Rough by design: one training batch on the device and in the arithmetic that each section asks for, one batch of the
unpruned network on the CPU and a few corrupted images are timed. Pruned networks are counted like the unpruned one, a
compiled one like one that is not, and a sample that grows until a policy is decided like its first look.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgesafe import data, models
from edgesafe.commands import results
from edgesafe.errors import EdgesafeError, UsageError, one_line
from edgesafe.executors.crew import ALONE, Crew, Kind
from edgesafe.progress import Progress
from edgesafe.recipe.recipe import Recipe, VariantPlan, trainings, variants
from edgesafe.recipe.sections import CompressSection, Method, RecoverSection, RobustSection, TrainSection
from edgesafe.records import DataBundle, Estimate, Role
from edgesafe.stages import certify, sizing
from edgesafe.stages.observe import Bench
from edgesafe.stages.rates import REPEATED, TIMED, corrupting, least_seconds
from edgesafe.stages.train import fit_plan
from edgesafe.study.writer import StudyWriter
from edgesafe.train.augmentation import Normalisation, shared
from edgesafe.train.loop import Training
from edgesafe.train.mode import Mode, choose, placed

__all__ = ["announce", "estimate", "fitted"]

_PROVEN = 4  # times that an export's proofs run the validation images, at most 512: torch, dense, sparse, temperature
_FURTHER_CORE = 0.6  # of a core that each further core brings to small networks, one after the other
_EXPORT_S = 1.0  # exporting and checking a network, however small
_EXPORT_LAYER_S = 0.03  # and for each layer of it
_ROW_BYTES = 34  # of evidence.npz, for each image and cell
_RECORD_BYTES = 150_000  # measurements.json and variant.json
_FILES = 4  # weights, dense, sparse, calibrated: each about as large as the weights


_Kind = tuple[Mode, int, RobustSection]


@dataclass(frozen=True)
class _Speed:
    """Seconds per image of each kind of work, as timed on this machine.

    Attributes:
        train: learning from it, by what the speed depends on.
        infer: a forward pass on the CPU.
        corrupt: one corruption.
    """

    train: Mapping[_Kind, float]
    infer: float
    corrupt: float

    def training(self, section: TrainSection | RecoverSection) -> float:
        """Seconds of training per image, in the mode and the batch size of the section."""
        return self.train[_kind(section)]


def _kind(section: TrainSection | RecoverSection) -> _Kind:
    """What the speed of a training depends on: the mode, images of a batch, and what is added to the loss."""
    return choose(section), section.batch_size, section.robust


def estimate(
    recipe: Recipe, bundle: DataBundle, bench: Bench, plans: Sequence[VariantPlan], crew: Crew = ALONE
) -> Estimate | None:
    """Time and disk for the variants that are left to make.

    Args:
        recipe: what is asked for.
        bundle: its data.
        bench: what every file is measured on.
        plans: the variants that are not done yet.
        crew: who works on them; machines of a cluster are taken to be like this one, a worker for a core.

    Returns:
        None if the network cannot be run or trained on these images: the stage that needs it says why.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        model = models.build(recipe.model.arch, bundle.task.outputs, recipe.model.args)
        try:
            speed = _speed(
                model, bundle, bench, tuple(trainings(recipe, plans).values()), _together(crew, bench.host.cores)
            )
        except Exception:  # noqa: BLE001 - a user's network may raise anything; it is built and run again, and told then
            return None
    parameters = sum(p.numel() for p in model.parameters())
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    per_file = bench.inferences * speed.infer + sum(map(len, bench.cells.values())) * speed.corrupt
    per_export = _EXPORT_S + _EXPORT_LAYER_S * layers + _PROVEN * min(512, len(bundle.validation)) * speed.infer
    certified = certify.most_images(recipe.certify, bundle.test)
    if recipe.evaluate.latency:
        per_export += 2 * recipe.evaluate.latency_runs * speed.infer
    return Estimate(
        train_s=_training_s(recipe, plans, len(bundle.train), speed),
        recover_s=sum(_recovery_s(recipe, plan, bundle, speed) for plan in plans),
        export_s=len(plans) * per_export,
        measure_s=len(plans) * per_file,
        certify_s=len(plans) * certified * speed.infer,
        certify_images=certified,
        disk_bytes=len(plans) * (_FILES * 4 * parameters + _ROW_BYTES * bench.inferences + _RECORD_BYTES),
        images=bench.inferences,
        variants=len(plans),
    )


def fitted(recipe: Recipe, bundle: DataBundle, bench: Bench, study: StudyWriter, progress: Progress) -> Bench:
    """See `sizing.fitted`: the work is that of all files of the recipe, timed in torch before any is made.

    Raises:
        UsageError: the network cannot be timed, or not even a first look fits.
    """
    return sizing.fitted(recipe.evaluate.hours, bench, study, progress, lambda: _work(recipe, bundle, bench))


def _work(recipe: Recipe, bundle: DataBundle, bench: Bench) -> sizing.Work:
    """All files of a study, each as slow as the unpruned network in torch."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        try:
            model = models.build(recipe.model.arch, bundle.task.outputs, recipe.model.args)
            speed = _speed(model, bundle, bench, (), _together(ALONE, bench.host.cores))
        except EdgesafeError:
            raise
        except Exception as error:
            what = f"the network cannot be timed ({one_line(error)})"
            raise UsageError(what, where="evaluate.hours", fix="give evaluate.images_per_cell instead") from error
    section, n = recipe.evaluate, len(bench.test)
    fixed = n * (2 if recipe.export.temperature else 1) + certify.most_images(recipe.certify, bundle.test)
    files = [sizing.FileCost(speed.infer, plan.role is Role.BASELINE, fixed) for plan in variants(recipe)]
    per_cell = min(n, section.images_per_cell or n)
    most = len(bench.cells) * per_cell
    return sizing.Work(
        files, speed.corrupt, n, len(bench.cells), per_cell, min(most, section.budget or most), bench.host.cpu
    )


def announce(
    recipe: Recipe, bundle: DataBundle, bench: Bench, plans: Sequence[VariantPlan], progress: Progress, crew: Crew
) -> Estimate | None:
    """Say what is ahead, if anything is and it can be measured; see `estimate`."""
    ahead = estimate(recipe, bundle, bench, plans, crew) if plans else None
    if ahead is not None:
        progress.note(results.in_words(ahead, None if crew.is_alone else crew.workers))
    return ahead


def _together(crew: Crew, cores: int) -> float:
    """How many times as fast as one core all that works at once is."""
    if crew.is_alone:
        return 1.0 + _FURTHER_CORE * (cores - 1)
    return float(min(crew.workers or 1, cores) if crew.kind is Kind.LOCAL else crew.workers or cores)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: threads that wait for one another make a busy machine look hopeless."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _speed(
    model: nn.Module,
    bundle: DataBundle,
    bench: Bench,
    trainings: Sequence[TrainSection | RecoverSection],
    together: float,
) -> _Speed:
    """Times the network and each kind of training on one thread, and divides by what works together."""
    normalise = Normalisation(bundle.mean, bundle.std)
    model.eval()
    x = normalise(shared(bundle.validation.images[:TIMED]))
    with torch.no_grad():
        infer = least_seconds(lambda: model(x)) / len(x) / together
    train = {
        kind: _learning(model, bundle, section) / (1.0 if kind[0].cuda else together)
        for kind, section in {_kind(section): section for section in trainings}.items()
    }
    return _Speed(train, infer, corrupting(bench))


def _learning(model: nn.Module, bundle: DataBundle, section: TrainSection | RecoverSection) -> float:
    """Seconds of training for one image: epochs of one batch, by the very loop that will train."""
    plan = fit_plan(section, 0, bundle.task)
    plan = replace(plan, epochs=1 + REPEATED, mode=replace(plan.mode, compiled=False))
    batch = data.first(bundle.train, plan.batch_size)
    with placed(copy.deepcopy(model), plan.mode) as network:
        training = Training(network, batch, Normalisation(bundle.mean, bundle.std), plan)

        def epoch() -> None:
            with training.epoch() as sizes:
                for _ in sizes:
                    training.step()

        return least_seconds(epoch) / len(batch)


def _training_s(recipe: Recipe, plans: Sequence[VariantPlan], n: int, speed: _Speed) -> float:
    """Seconds of training baselines and of sparsity training, on n training images."""
    seconds = 0.0
    for seed in {plan.seed for plan in plans}:
        mine = [plan for plan in plans if plan.seed == seed and plan.sibling is None]
        if recipe.model.weights is None and any(plan.role is Role.BASELINE for plan in mine):
            seconds += recipe.train.epochs * n * speed.training(recipe.train)
        for block in recipe.compress:
            if block.method is Method.CHANNEL and any(plan.section == block for plan in mine):
                section = recipe.recovery_of(block)
                seconds += block.slim_epochs * _images(section, n) * speed.training(section)
        asked = [plan.section for plan in mine if plan.section is not None and plan.section.tune_first]
        firsts = {recipe.recovery_of(section) for section in asked}
        seconds += sum(section.epochs * _images(section, n) * speed.training(section) for section in firsts)
    return seconds


def _images(section: RecoverSection, n: int) -> int:
    return n if section.images is None else min(section.images, n)


def _lit(block: CompressSection, n: int) -> int:
    """Images that are run to see how far lighting moves channels, of n that there are."""
    return min(block.calibration_images, n) * (1 + block.draws)


def _recovery_s(recipe: Recipe, plan: VariantPlan, bundle: DataBundle, speed: _Speed) -> float:
    """Seconds of BatchNorm statistics, fine-tuning, and judging on the validation images, after each step."""
    if plan.sibling is not None:
        return 0.0
    shown = recipe.ranks_by_lighting
    seconds = 0.0 if shown is None else _lit(shown, len(bundle.validation)) * speed.infer
    if plan.section is None:
        return seconds
    section = recipe.recovery_of(plan.section)
    trained = section.epochs * _images(section, len(bundle.train))
    seen = min(section.bn_images, len(bundle.train)) + 3 * len(bundle.validation)
    if plan.section.ranks_by_lighting:
        seen += _lit(plan.section, len(bundle.train))
    return seconds + plan.section.steps * (trained * speed.training(section) + seen * speed.infer)
