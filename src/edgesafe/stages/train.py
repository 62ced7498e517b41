"""The trainings of a study: the baseline, slimming, recovery. Each keeps its state after every epoch.

They train on training images; validation images only judge what became of it; no test image is ever seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from edgesafe import data
from edgesafe.errors import NonFiniteError, UsageError
from edgesafe.files import sha256_bytes, stage_key
from edgesafe.progress import Progress
from edgesafe.recipe.sections import (
    CompressSection,
    ModelSection,
    RecoverSection,
    RobustSection,
    TrainSection,
)
from edgesafe.records import BaselineTraining, DataBundle, FineTuning, ImageSet, Recovery, Task, VariantStatus
from edgesafe.stages import lighting
from edgesafe.study import naming
from edgesafe.study.checkpoints import Kept
from edgesafe.study.writer import StudyWriter
from edgesafe.surgery import rebuild
from edgesafe.train import batchnorm, loop
from edgesafe.train.augmentation import FitPlan, Normalisation, shared
from edgesafe.train.checkpoints import Best
from edgesafe.train.distillation import distilled
from edgesafe.train.loop import History
from edgesafe.train.mode import Mode, choose
from edgesafe.train.objective import Objective
from edgesafe.train.robust import robust_terms
from edgesafe.train.tasks import lesson_of

__all__ = ["RecoveryPlan", "Trainer", "check", "fit_plan", "is_loss", "objective", "weights_hash"]

Masks = Mapping[str, torch.Tensor]

_TELLING = 32  # steps of an epoch, below which its mean loss says more of where it began than of what it learned


def check(asked: Mapping[str, RecoverSection], task: Task) -> None:
    """The recoveries of a recipe, before anything is computed.

    Args:
        asked: by the key of the recipe that says so.
        task: what is asked of the network.

    Raises:
        UsageError: a recovery learns from answers that the task's networks do not give.
    """
    for key, section in asked.items():
        if section.distill.weight and not lesson_of(task).distils:
            what = f"distillation compares shares of classes, and a network for {task.noun} gives none"
            raise UsageError(what, where=f"{key}.distill", fix="leave it out")


@dataclass(frozen=True)
class RecoveryPlan:
    """How one network recovers.

    Attributes:
        section: the recipe's [recover], or the block's own.
        key: where the recipe says so ("compress.0.recover"), for messages.
        seed: of order and augmentation.
        owner: the variant that keeps the state.
        name: of the state.
        teacher: the unpruned network, for a section that distils; it is not changed.
    """

    section: RecoverSection
    key: str
    seed: int
    owner: str
    name: str = "recover"
    teacher: nn.Module | None = None


@dataclass(frozen=True)
class Trainer:
    """Trains the networks of one study.

    Attributes:
        bundle: the data.
        study: where states are kept.
        progress: told what happens.
        basis: what every training depends on besides its own section; part of every state's key.
        familiar: whether the network may have been trained on the validation images elsewhere.
    """

    bundle: DataBundle
    study: StudyWriter
    progress: Progress
    basis: Mapping[str, Any]
    familiar: bool

    @property
    def normalise(self) -> Normalisation:
        """Mean and standard deviation of the data set's channels, applied as the exported file does it."""
        return Normalisation(self.bundle.mean, self.bundle.std)

    def baseline(self, model: nn.Module, origin: ModelSection, section: TrainSection, seed: int) -> BaselineTraining:
        """Train from initial weights, in place; the state is kept for all variants of the seed.

        A baseline that the study holds is taken from there: what is left to make after it needs no second training.
        """
        if (done := self._finished(model, seed)) is not None:
            return done
        plan = fit_plan(section, seed, self.bundle.task)
        asked = {"model": origin.model_dump(), "section": section.model_dump(), "mode": plan.mode.name}
        key = stage_key(what="train", seed=seed, **asked, **self.basis)
        kept = Kept(self.study, f"{naming.baseline(seed).id}.train", "fit", key)
        fitted = self._fit(model, plan, _Training("training the baseline", self.bundle.train, kept, "train.lr"))
        return BaselineTraining(
            images=len(self.bundle.train), losses=fitted.losses, terms=dict(fitted.terms), slim_l1=plan.bn_l1,
            mode=plan.mode.record(),
        )  # fmt: skip

    def _finished(self, model: nn.Module, seed: int) -> BaselineTraining | None:
        """How the baseline was trained that the study holds, its weights now in the network; None: it holds none."""
        name = naming.baseline(seed).id
        entry = self.study.record.entry(name)
        held = entry is not None and entry.status is VariantStatus.DONE
        if not held or not self.study.path(name, rebuild.WEIGHTS_FILE).is_file():
            return None
        weights = self.study.file_bytes(name, rebuild.WEIGHTS_FILE)
        model.load_state_dict(rebuild.load_bytes(model, weights).state_dict())
        model.eval()
        return self.study.variant(name).training

    def slim(self, baseline: nn.Module, block: CompressSection, section: RecoverSection, seed: int) -> nn.Module:
        """Network slimming's sparsity training: the baseline trained on with an L1 penalty on its BatchNorm scales.

        Epochs, rate and penalty are the block's slim_*; images, batches and augmentation are those of its recovery.
        """
        plain = section.model_copy(update={"robust": RobustSection()})
        plan = replace(
            fit_plan(plain, seed, self.bundle.task),
            epochs=block.slim_epochs,
            lr=block.slim_lr,
            milestones=(),
            cosine=False,
            warmup=0,
            average=0.0,
            bn_l1=block.slim_l1,
        )
        start = weights_hash(baseline)
        asked = {"plan": vars(plan) | {"mode": plan.mode.name, "objective": None}, "images": section.images}
        key = stage_key(what="slim", baseline=start, **asked, **self.basis)
        kept = Kept(self.study, f"slim-s{seed}", f"fit-{key[:16]}", key)
        self._fit(baseline, plan, _Training("slimming (L1 on BN scales)", self._images(section), kept, "slim_lr"))
        return baseline.eval()

    def tune(self, baseline: nn.Module, section: RecoverSection, seed: int) -> nn.Module:
        """The fine-tuning of a recovery, of a network from which nothing was cut yet, in place; its last epoch is kept.

        Variants of the seed that recover alike share it.
        """
        plan = fit_plan(section, seed, self.bundle.task)
        asked = {"section": section.model_dump(), "mode": plan.mode.name}
        key = stage_key(what="tune", baseline=weights_hash(baseline), seed=seed, **asked, **self.basis)
        kept = Kept(self.study, f"tune-s{seed}", f"fit-{key[:16]}", key)
        self._fit(
            baseline, plan, _Training("fine-tuning before the first cut", self._images(section), kept, "recover.lr")
        )
        return baseline.eval()

    def recover(self, model: nn.Module, masks: Masks | None, how: RecoveryPlan) -> Recovery | None:
        """BatchNorm re-estimation, then fine-tuning; each is judged on the validation images.

        Args:
            model: changed in place; in eval mode afterwards.
            masks: which weights stay zero; None: none.
            how: see `RecoveryPlan`.

        Returns:
            What was done; None: nothing was asked for.
        """
        section, plan = how.section, fit_plan(how.section, how.seed, self.bundle.task)
        pruned = self._right(model, plan.mode) if section.bn_images or section.epochs else None
        layers = batchnorm.reestimate_batchnorm(
            model, self.bundle.train, self.normalise, images=section.bn_images, view=plan
        )
        if pruned is None:
            model.eval()
            return None
        before = after = self._right(model, plan.mode) if layers else pruned
        tuned = None
        if section.epochs:
            tuned = self._tune(model, masks, how, _share(before))
            after = self._right(model, plan.mode)
        if is_loss(before, after):
            fix = f'lower {how.key}.lr, or set {how.key}.epochs = 0 or {how.key}.keep = "best"'
            self._warn("fine-tuning", before, after, fix)
        if is_loss(pruned, before) and _share(after) < _share(pruned):
            self._warn("BatchNorm re-estimation", pruned, before, f"set {how.key}.bn_images = 0")
        if tuned is not None and tuned.kept_epoch == 0:
            self.progress.note(f"  no epoch was better than none on the validation images: set {how.key}.epochs = 0")
        model.eval()
        return Recovery(
            bn_images=min(section.bn_images, len(self.bundle.train)) if layers else 0,
            validation_images=len(self.bundle.validation),
            accuracy_pruned=_share(pruned),
            accuracy_after=_share(after),
            fine_tuning=tuned,
        )

    def _tune(self, model: nn.Module, masks: Masks | None, how: RecoveryPlan, before: float) -> FineTuning:
        """Fine-tuning of a network whose accuracy on the validation images is `before`; the one to keep stays in it."""
        section, images, plan = (
            how.section,
            self._images(how.section),
            fit_plan(how.section, how.seed, self.bundle.task),
        )
        asked = {"section": section.model_dump(), "mode": plan.mode.name}
        if how.teacher is not None and section.distill.weight:
            asked["teacher"] = weights_hash(how.teacher)
            weight, temperature = section.distill.weight, section.distill.temperature
            learnt = distilled(plan.objective, how.teacher, weight, temperature, plan.mode)
            plan = replace(plan, objective=learnt)
        key = stage_key(what="recover", start=weights_hash(model), seed=how.seed, **asked, **self.basis)
        kept = Kept(self.study, how.owner, how.name, key)
        score = partial(self._score, mode=plan.mode)
        best = Best(model, score, kept, before) if section.keep == "best" else None
        done = self._fit(model, plan, _Training("fine-tuning", images, best or kept, f"{how.key}.lr"), masks)
        self._doubt(done, plan, images, how.key)
        return FineTuning(
            epochs=section.epochs,
            images=len(images),
            lr=section.lr,
            milestones=section.milestones,
            loss=done.losses[-1],
            terms={name: values[-1] for name, values in done.terms.items()},
            accuracy_before=before,
            kept_epoch=best.restore() if best is not None else None,
            mode=plan.mode.record(),
        )

    def _doubt(self, done: History, plan: FitPlan, images: ImageSet, key: str) -> None:
        """Say if the first epoch taught it no more than a constant answer, as a rate too high does (decision 186)."""
        if done.terms or len(plan.batches(len(images))) < _TELLING:
            return
        constant = lesson_of(images.task).constant_loss(shared(images.labels))
        if done.losses[0] > constant:
            self.progress.note(
                f"  warning: in the first epoch of fine-tuning the loss is {done.losses[0]:.3g}, no better than a "
                f"constant answer's, {constant:.3g}: lower {key}.lr (now {plan.lr:g}), or remove less"
            )

    def _warn(self, what: str, before: torch.Tensor, after: torch.Tensor, fix: str) -> None:
        """Say how many validation images a step lost, and what to change."""
        doubt = (
            ' (the given weights may have been trained on these images; data.validation_from = "test" takes others)'
            if self.familiar
            else ""
        )
        lost = (
            f"by {int(before.sum()) - int(after.sum()):,} of {len(before):,} validation images, "
            f"from {_share(before):.2%} to {_share(after):.2%}"
        )
        self.progress.note(f"  warning: {what} lowered the accuracy {lost}{doubt}: {fix}")

    def _right(self, model: nn.Module, mode: Mode) -> torch.Tensor:
        """Which validation images it classifies right: bool (n,)."""
        return loop.right(model, self.bundle.validation, self.normalise, mode)

    def _score(self, model: nn.Module, mode: Mode) -> float:
        """Its accuracy on the validation images, as a fraction."""
        return _share(self._right(model, mode))

    def _images(self, section: RecoverSection) -> ImageSet:
        """The training images of fine-tuning and slimming: all, or the first `section.images`."""
        return self.bundle.train if section.images is None else data.first(self.bundle.train, section.images)

    def _fit(self, model: nn.Module, plan: FitPlan, training: _Training, masks: Masks | None = None) -> History:
        images, kept = training.images, training.kept
        with self.progress.stage(training.title, plan.epochs * len(images)) as advance:
            try:
                return loop.fit(model, images, self.normalise, plan, masks=masks, checkpoints=kept, progress=advance)
            except NonFiniteError as error:
                raise NonFiniteError(error.what, where=training.title, fix=f"lower {training.rate}") from error


@dataclass(frozen=True)
class _Training:
    """One training: what it is called, on which images, where its state is kept, and which key gives its rate."""

    title: str
    images: ImageSet
    kept: Kept | Best
    rate: str


def fit_plan(section: TrainSection | RecoverSection, seed: int, task: Task) -> FitPlan:
    """The training that a section asks for, on this machine.

    Raises:
        UsageError: this machine has not what the section asks for, see `train.mode.choose`.
    """
    falling = section if isinstance(section, RecoverSection) else RecoverSection()
    return FitPlan(
        warmup=falling.warmup, cosine=falling.schedule == "cosine", average=falling.average,
        epochs=section.epochs, lr=section.lr, milestones=section.milestones, gamma=section.gamma,
        momentum=section.momentum, optimiser=section.optimiser, weight_decay=section.weight_decay,
        batch_size=section.batch_size, augment=section.augment, flip=section.flip, seed=seed, mode=choose(section),
        bn_l1=section.slim_l1 if isinstance(section, TrainSection) else 0.0, objective=objective(section.robust, task),
    )  # fmt: skip


def objective(robust: RobustSection, task: Task) -> Objective:
    """The loss of a batch: that of the task, and the terms of `robust` that have a weight.

    Raises:
        UsageError: its lighting is no range of point operations.
    """
    loss = lesson_of(task).loss
    terms = robust_terms(robust, loss)
    return Objective(loss, terms, lighting.tables(robust.light) if terms else None)


def is_loss(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether accuracy fell by more than two standard errors of the difference on the same images (McNemar).

    With b images lost and c gained, b - c has the standard error sqrt(b + c) if nothing changed but chance: losing 1 of
    197 images, or 9 while 5 are gained, says nothing.

    Args:
        before: bool (n,), which images were classified right.
        after: bool (n,), likewise, of the same images.
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    return lost > gained and (lost - gained) ** 2 > 4 * (lost + gained)


def _share(right: torch.Tensor) -> float:
    return int(right.sum()) / len(right)


def weights_hash(model: nn.Module) -> str:
    """The SHA-256 of a network's weights as `surgery.rebuild` stores them."""
    return sha256_bytes(rebuild.save_bytes(model, sparse=False, metadata={}))
