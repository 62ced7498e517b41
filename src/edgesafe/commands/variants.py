"""How one variant of a study is made: what the recipe says to each stage, and the record of what they gave.

    baseline -> prune -> recover -> export    `ship`
    latency                                   `timed_of`
    measure -> store                          `measured`
    certificates on the device                `rechecked`

Stages take frozen records and never see the recipe as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from edgesafe import models
from edgesafe.deploy.template import Templates
from edgesafe.errors import RefusedError
from edgesafe.files import sha256_file
from edgesafe.models import count
from edgesafe.progress import Progress
from edgesafe.prune import PruneContext, PruneOutcome
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.sections import MEASURED, CompressSection, Method
from edgesafe.records import (
    AllocationRecord,
    DataBundle,
    DeviationRecord,
    Lineage,
    Recovery,
    Steps,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.stages import counts, export, lighting, measure, prune, recheck, timing
from edgesafe.stages.allocating import Probing, allocation_of
from edgesafe.stages.baseline import Baselines
from edgesafe.stages.certify import Shard
from edgesafe.stages.deviation import deviation_of
from edgesafe.stages.export import Exported, ExportOrder, Source
from edgesafe.stages.observe import Bench
from edgesafe.stages.recheck import RecheckOrder
from edgesafe.stages.steps import steps_of
from edgesafe.stages.timing import Timed, Timing
from edgesafe.stages.train import RecoveryPlan, Trainer, weights_hash
from edgesafe.study.study import MODEL
from edgesafe.study.writer import Files, StudyWriter
from edgesafe.train.augmentation import Normalisation
from edgesafe.train.tasks import lesson_of

__all__ = [
    "Run",
    "begin",
    "certified",
    "context_of",
    "curves_of",
    "make",
    "measured",
    "observed",
    "rechecked",
    "ship",
    "sibling_missing",
    "start_of",
    "timed_of",
]


@dataclass(frozen=True)
class Run:
    """What the stages of a study share: recipe, data, bench, the open study, and what trains."""

    recipe: Recipe
    bundle: DataBundle
    bench: Bench
    study: StudyWriter
    progress: Progress
    trainer: Trainer
    baselines: Baselines
    templates: Templates
    steps: Steps


def begin(
    recipe: Recipe, bundle: DataBundle, bench: Bench, study: StudyWriter, progress: Progress,
    weights: str | None = None, templates: Templates | None = None,
) -> Run:  # fmt: skip
    """What all variants share; trainings are kept by training images, normalisation and input files.

    Args:
        recipe: what to do.
        bundle: the data.
        bench: what every file is measured on.
        study: written to.
        progress: told what happens.
        weights: where the weights of the one seed lie that is asked for; None: where the recipe says.
        templates: what exporting has traced before; None: nothing.
    """
    basis = {"train": bundle.train.sha256, "mean": bundle.mean, "std": bundle.std, "inputs": study.record.inputs}
    familiar = recipe.model.weights is not None and recipe.data.validation_from == "train"
    trainer = Trainer(bundle, study, progress, basis, familiar)
    model = recipe.model if weights is None else recipe.model.model_copy(update={"weights": weights})
    baselines = Baselines(model, recipe.train, recipe.export, trainer, recipe.compress)
    steps = study.record.steps or steps_of(recipe.target, bench.host)
    return Run(recipe, bundle, bench, study, progress, trainer, baselines, templates or Templates(), steps)


def make(run: Run, plan: VariantPlan) -> None:
    """Make a variant's files, write its record, and measure its model.onnx."""
    ship(run, plan)
    measured(run, plan, timed_of(run, plan.id, plan.baseline, plan.sibling))
    rechecked(run, plan)
    run.study.finish(plan.id)


def ship(run: Run, plan: VariantPlan) -> None:
    """Make a variant's files and write its record."""
    if plan.sibling is None:
        _pruned_variant(run, plan)
    else:
        _converted_variant(run, plan, plan.sibling)


def _pruned_variant(run: Run, plan: VariantPlan) -> None:
    """An fp32 variant: prune and recover the baseline's network, and export it."""
    model = run.baselines.of(plan.seed)
    pruned, recovery = None, None
    if plan.section is not None:
        pruned = _pruned(run, plan, plan.section)
        model = pruned.model
        recovery = run.trainer.recover(model, pruned.masks, _recovery(run, plan, plan.section))
    exported = export.ship(model, _order(run, plan), Files(run.study, plan.id), plan.id)
    record = _record(run, plan, model, pruned, recovery, exported)
    run.study.put_variant(record.model_copy(update={"deviation": _deviation(run, plan, model)}))


def _deviation(run: Run, plan: VariantPlan, model: nn.Module) -> DeviationRecord | None:
    """How far lighting moves the network's channels; None: no block of the recipe ranks by it."""
    section = run.recipe.ranks_by_lighting
    return None if section is None else deviation_of(model, run.bundle, section, plan.seed)


def _converted_variant(run: Run, plan: VariantPlan, sibling: str) -> None:
    """A variant of another precision: its fp32 sibling's file, converted. Nothing is pruned or trained again."""
    entry = run.study.record.entry(sibling)
    if entry is None or entry.status is not VariantStatus.DONE:
        raise sibling_missing(plan, entry)
    source = Source(sibling, run.study.file_bytes(sibling, MODEL), plan.precision)
    exported = export.convert(source, _order(run, plan), Files(run.study, plan.id))
    told = {
        "id": plan.id, "precision": plan.precision, "conversion": exported.conversion, "surgery": None,
        "artefacts": exported.artefacts, "parity": exported.parity, "temperature": exported.temperature,
        "training": None, "recovery": None, "deviation": None,
    }  # fmt: skip
    run.study.put_variant(run.study.variant(sibling).model_copy(update=told))


def sibling_missing(plan: VariantPlan, entry: VariantEntry | None) -> RefusedError:
    """Why a variant of another precision cannot be made: the entry of its sibling, if it has one, says it."""
    why = f"{entry.status.value}: {entry.reason}" if entry is not None else "not in the study"
    return RefusedError(f"its fp32 sibling '{plan.sibling}' is {why}", where=plan.id, fix="mend that one first")


def measured(run: Run, plan: VariantPlan, timed: Timed) -> None:
    """Measure the variant's file and write what was found; parts that were finished before are not measured again."""
    measure.measure(_measuring(run, plan, timed), run.bench.open(run.study.file_bytes(plan.id, MODEL)))


def rechecked(run: Run, plan: VariantPlan) -> None:
    """Run a part of the variant's certificates on the target's device, if it was timed on one."""
    recheck.recheck(RecheckOrder(run.study, plan.id, run.recipe.target, run.bundle.test, run.progress))


def observed(run: Run, plan: VariantPlan, part: str) -> None:
    """Run the variant's file on the images of one part of its evidence, and keep that; see `measure.observe_part`."""
    measure.observe_part(_measuring(run, plan, Timed({})), run.bench.open(run.study.file_bytes(plan.id, MODEL)), part)


def certified(run: Run, plan: VariantPlan, shard: Shard) -> None:
    """Certify the variant's file on a share of the images, and keep that; see `measure.certify_part`."""
    measure.certify_part(_measuring(run, plan, Timed({})), shard)


# ------------------------------------------------------------------------------- what the recipe says to each stage


def _pruned(run: Run, plan: VariantPlan, section: CompressSection) -> PruneOutcome:
    """The seed's network pruned as the block says, with the proof that the rest is what it was."""
    recipe, bundle, model = run.recipe, run.bundle, start_of(run, plan.seed, section)
    context = context_of(run, plan.seed, section)

    def recovered(step: nn.Module) -> nn.Module:
        """The network after a step that is not the last, trained on as [recover] says; in place."""
        name = f"recover-{weights_hash(step)[7:23]}"
        run.trainer.recover(step, None, _recovery(run, plan, section, name))
        return step

    latency_ms = partial(prune.latency_ms, bundle, recipe.export, recipe.target, run.templates)
    return prune.cut(model, section, plan.ratio, context, prune.Between(recovered, latency_ms))


def start_of(run: Run, seed: int, section: CompressSection) -> nn.Module:
    """The network that a block prunes: the seed's, trained on first where the block says so. Nothing may change it."""
    if section.method is Method.CHANNEL:
        return run.baselines.slimmed(section, run.recipe.recovery_of(section), seed)
    if section.tune_first:
        return run.baselines.tuned(run.recipe.recovery_of(section), seed)
    return run.baselines.of(seed)


def _recovery(run: Run, plan: VariantPlan, section: CompressSection, name: str = "recover") -> RecoveryPlan:
    """BatchNorm re-estimation and fine-tuning as the block says, or else the recipe."""
    key, how = run.recipe.recovery_key(section), run.recipe.recovery_of(section)
    teacher = run.baselines.of(plan.seed) if how.distill.weight else None
    return RecoveryPlan(how, key, plan.seed, plan.id, name, teacher)


def context_of(run: Run, seed: int, section: CompressSection) -> PruneContext:
    """What pruning a seed's network as a block says needs besides the block."""
    recipe, bundle = run.recipe, run.bundle
    context = PruneContext(
        input_shape=run.study.record.data.shape,
        seed=seed,
        round_to=section.round_to or run.steps.round_to,
        mean=bundle.mean,
        std=bundle.std,
        paper_layers=models.paper_layers(recipe.model.arch, run.baselines.of(seed)) or (),
        lighting=lighting.lighting_of(bundle, section, seed),
        gradient_batches=partial(prune.gradient_batches, bundle, Normalisation(bundle.mean, bundle.std)),
        loss=lesson_of(bundle.task).total,
    )
    if section.allocates not in MEASURED:
        return context
    return replace(context, allocation=curves_of(run, seed, section, context))


def curves_of(run: Run, seed: int, section: CompressSection, context: PruneContext) -> AllocationRecord:
    """What narrowing each layer alone costs a seed's network, and what it saves by the section's allocation."""
    recipe = run.recipe
    how = recipe.recovery_of(section)
    probing = Probing(run.bundle, how, recipe.export, recipe.target, run.study, run.progress)
    return allocation_of(start_of(run, seed, section), section, context, probing)


def _order(run: Run, plan: VariantPlan) -> ExportOrder:
    """The files that are to be exported of the variant, by recipe and method."""
    unstructured = plan.section is not None and plan.section.zeroes
    provider, cores = run.recipe.target.provider, run.bench.cores
    return ExportOrder(
        run.recipe.export, run.bundle, unstructured, provider, cores, run.steps.int8_step, run.templates,
        calibrate=plan.section is not None and plan.section.calibrate,
    )  # fmt: skip


def _record(
    run: Run, plan: VariantPlan, model: nn.Module, pruned: PruneOutcome | None, recovery: Recovery | None,
    exported: Exported,
) -> VariantRecord:  # fmt: skip
    """variant.json. The baseline's files are written before it is described, so that it has a hash of its own, too."""
    recipe, data_ = run.recipe, run.study.record.data
    return VariantRecord(
        id=plan.id,
        method=plan.method,
        ratio=plan.ratio,
        seed=plan.seed,
        arch=recipe.model.arch,
        num_classes=run.bundle.task.outputs,
        input_shape=data_.shape,
        model_args=recipe.model.args,
        surgery=pruned.record if pruned is not None else None,
        artefacts=exported.artefacts,
        parity=exported.parity,
        temperature=exported.temperature,
        calibrated=exported.calibrated,
        opset=recipe.export.opset,
        params=count.params(model),
        macs=count.macs(model, data_.shape),
        sparsity=count.sparsity(model),
        training=run.baselines.training(plan.seed) if plan.section is None else None,
        recovery=recovery,
        lineage=Lineage(
            recipe_sha256=recipe.sha256,
            baseline_sha256=sha256_file(run.study.path(plan.baseline or plan.id, "model.safetensors")),
            data_sha256=data_.train_sha256,
            seed=plan.seed,
        ),
    )


def _measuring(run: Run, plan: VariantPlan, timed: Timed) -> measure.MeasureOrder:
    """What the shipped file is measured on, and what it is compared with."""
    certify = run.recipe.certify
    return measure.MeasureOrder(
        bench=run.bench,
        study=run.study,
        progress=run.progress,
        variant=plan.id,
        baseline=plan.baseline,
        sibling=plan.sibling,
        policy=run.recipe.policy_file if plan.baseline is not None else None,
        counted=counts.sizes(run.study.variant(plan.id)) | timed.candidate,
        device=timed.device,
        certify=certify.model_copy(update={"workers": certify.workers or run.bench.cores}),
        is_reference=plan.baseline is None,
    )


def timed_of(run: Run, variant: str, baseline: str | None, sibling: str | None = None) -> Timed:
    """Latency of a variant's file, in turns with its baseline's if any; nothing with evaluate.latency = false."""
    section, target, study = run.recipe.evaluate, run.recipe.target, run.study
    if not section.latency:
        return Timed({})
    against = study.path(baseline, MODEL) if baseline is not None else None
    beside_it = study.path(sibling, MODEL) if sibling is not None else None
    protocol = Timing(target, section.latency_runs, run.bundle.task)
    place = f" on {target.ssh.host}" if target.ssh is not None else ""
    beside = "the baseline" if sibling in (None, baseline) else "the baseline and the fp32 sibling"
    run.progress.note(f"  latency{place}: {protocol.runs} runs, {target.threads} thread(s), interleaved with {beside}")
    return timing.timed(
        study.path(variant, MODEL), against, run.bundle.test.images[: timing.PARITY_IMAGES], protocol, sibling=beside_it
    )
