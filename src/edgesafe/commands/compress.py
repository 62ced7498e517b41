"""The story of a study, from recipe to evidence: each stage one call, each result kept.

    recipe -> data -> model -> prune -> recover -> export -> measure -> store

Stages take frozen records and never see the recipe as a whole. A stage whose inputs hash the same as a finished one is
not run again; kill the process anywhere, and the next run continues and ends with the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from edgesafe import data, models
from edgesafe.commands import estimate
from edgesafe.errors import RefusedError
from edgesafe.files import sha256_file
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.models import count
from edgesafe.progress import Progress, Silent
from edgesafe.prune import PruneContext, PruneOutcome
from edgesafe.recipe.recipe import Recipe, VariantPlan, variants
from edgesafe.recipe.sections import CompressSection, Method
from edgesafe.records import (
    DataBundle,
    DataIdentity,
    Evidence,
    Lineage,
    Measurement,
    Recovery,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.stages import (
    contract,
    counts,
    export,
    measure,
    metrics,
    observe,
    prune,
    stopping,
    timing,
)
from edgesafe.stages.export import Exported, Order
from edgesafe.stages.observe import Bench
from edgesafe.stages.timing import Timing
from edgesafe.stages.train import RecoveryPlan, Trainer, weights_hash
from edgesafe.study.host import host
from edgesafe.study.inputs import input_hashes
from edgesafe.study.study import MODEL, Study, read
from edgesafe.study.writer import Files, StudyWriter
from edgesafe.train.augmentation import Normalisation

__all__ = ["compress"]

_CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Run:
    """What every stage of a study shares."""

    recipe: Recipe
    bundle: DataBundle
    identity: DataIdentity
    bench: Bench
    study: StudyWriter
    progress: Progress
    inputs: dict[str, str]

    @property
    def normalise(self) -> Normalisation:
        """Of the data set."""
        return Normalisation(self.bundle.mean, self.bundle.std)

    @property
    def trainer(self) -> Trainer:
        """Every training depends on the training images, their normalisation and the files the study starts from."""
        bundle = self.bundle
        basis = {"train": bundle.train.sha256, "mean": bundle.mean, "std": bundle.std, "inputs": self.inputs}
        familiar = self.recipe.model.weights is not None and self.recipe.data.validation_from == "train"
        return Trainer(bundle, self.study, self.progress, basis, familiar)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return self.identity.shape


def compress(recipe: Recipe, out: Path, progress: Progress | None = None) -> Study:
    """Run a study, or go on with it.

    Args:
        recipe: what to do.
        out: the study directory.
        progress: told what happens; None: nothing is printed.

    Returns:
        The study, read back and checked. Variants that were refused say why in their entry.

    Raises:
        EdgesafeError: the recipe, data, weights or directory cannot be used, or the baseline is refused.
    """
    progress = progress or Silent()
    torch.set_num_threads(_CORES)
    stopping.check(recipe.policy_file)
    bundle = data.load(recipe.data)
    identity = data.identity(bundle)
    bench = observe.prepare(bundle.test, identity, recipe.evaluate, recipe.target)
    inputs = input_hashes(weights=recipe.model.weights, arch=recipe.model.arch, policy=recipe.policy_file)
    plans = variants(recipe)
    record = StudyRecord(
        name=recipe.name, edgesafe=metadata.version("edgesafe"), recipe=recipe.resolved(), recipe_sha256=recipe.sha256,
        inputs=inputs, data=identity, host=host(),
        variants=tuple(_entry(plan) for plan in plans),
    )  # fmt: skip
    with StudyWriter(out, record) as study:
        run = Run(recipe, bundle, identity, bench, study, progress, inputs)
        study.put_samples(observe.samples(bench))
        if left := [plan for plan in plans if not study.is_done(plan.id)]:
            estimate.announce(recipe, bundle, bench, left, progress)
        for number, plan in enumerate(plans, 1):
            if study.is_done(plan.id):
                progress.note(f"[{number}/{len(plans)}] {plan.id}: done before")
                continue
            progress.note(f"[{number}/{len(plans)}] {plan.id}")
            try:
                _make(run, plan)
            except RefusedError as refusal:
                if plan.section is None:
                    raise
                study.refuse(plan.id, str(refusal))
                progress.note(f"  refused: {refusal}")
        study.close_study()
    return read(out)


def _entry(plan: VariantPlan) -> VariantEntry:
    """The line of the index that a variant begins with."""
    return VariantEntry(
        id=plan.id, role=plan.role, label=plan.name.label, group=plan.name.group, method=plan.method,
        ratio=plan.ratio, seed=plan.seed, baseline=plan.baseline, status=VariantStatus.PENDING,
    )  # fmt: skip


def _make(run: Run, plan: VariantPlan) -> None:
    """One variant from start to finish."""
    baseline = _baseline(run, plan)
    outcome = _pruned(run, plan, baseline)
    model, recovery = baseline, None
    if outcome is not None:
        model, recovery = outcome.model, _recovered(run, plan, outcome.model, outcome.masks)
    exported = _exported(run, plan, model)
    _described(run, plan, model, outcome, exported, recovery)
    _measured(run, plan, exported)
    run.study.finish(plan.id)


# ---------------------------------------------------------------------------------------------------------- model


def _baseline(run: Run, plan: VariantPlan) -> nn.Module:
    """The net before compression: the given weights, or trained here (kept for all variants of the seed)."""
    section, seed = run.recipe.model, plan.seed
    torch.manual_seed(seed)  # initial weights
    model = models.build(section.arch, run.bundle.num_classes, section.args)
    contract.check(model, section, run.bundle, run.recipe.export if plan.section is None else None)
    if section.weights is not None:
        models.load_weights(model, Path(section.weights))
        return model.eval()
    return run.trainer.baseline(model, section, run.recipe.train, seed)


def _slimmed(run: Run, section: CompressSection, seed: int, baseline: nn.Module) -> nn.Module:
    """Network slimming's sparsity training, which prepares the baseline for method channel."""
    if section.slim_epochs == 0:
        return baseline
    if not any(isinstance(module, nn.BatchNorm2d) for module in baseline.modules()):
        return baseline  # prune.prune refuses it and says why
    return run.trainer.slim(baseline, section, section.recover or run.recipe.recover, seed)


def _pruned(run: Run, plan: VariantPlan, baseline: nn.Module) -> PruneOutcome | None:
    """Prune and prove; None for the baseline."""
    section = plan.section
    if section is None:
        return None
    if section.method is Method.CHANNEL:
        baseline = _slimmed(run, section, plan.seed, baseline)
    context = PruneContext(
        input_shape=run.shape,
        seed=plan.seed,
        round_to=section.round_to or run.recipe.target.round_to,
        mean=run.bundle.mean,
        std=run.bundle.std,
        paper_layers=models.paper_layers(run.recipe.model.arch, baseline) or (),
        gradient_batches=partial(prune.gradient_batches, run.bundle, run.normalise),
    )
    between = prune.Between(
        recover=partial(_between_steps, run, plan),
        latency_ms=partial(prune.latency_ms, run.bundle, run.recipe.export, run.recipe.target),
    )
    return prune.cut(baseline, section, plan.ratio, context, between)


def _between_steps(run: Run, plan: VariantPlan, model: nn.Module) -> nn.Module:
    """Recovery after a step that is not the last."""
    _recovered(run, plan, model, None, f"recover-{weights_hash(model)[7:23]}")
    return model


def _recovered(
    run: Run, plan: VariantPlan, model: nn.Module, masks: Mapping[str, torch.Tensor] | None, name: str = "recover"
) -> Recovery | None:
    """BatchNorm re-estimation, then fine-tuning, as the block or the recipe says."""
    shared, block = run.recipe.recover, plan.section
    own = None if block is None else block.recover
    key = "recover" if block is None else f"compress.{run.recipe.compress.index(block)}.recover"
    return run.trainer.recover(model, masks, RecoveryPlan(own or shared, key, plan.seed, plan.id, name))


# --------------------------------------------------------------------------------------------------------- export


def _exported(run: Run, plan: VariantPlan, model: nn.Module) -> Exported:
    """Every file of the variant, each proven equal to what it came from before it is written."""
    unstructured = plan.section is not None and plan.section.method is Method.WEIGHT
    order = Order(run.recipe.export, run.bundle, unstructured, run.recipe.target.provider, _CORES)
    return export.ship(model, order, Files(run.study, plan.id), plan.id)


def _described(
    run: Run,
    plan: VariantPlan,
    model: nn.Module,
    outcome: PruneOutcome | None,
    exported: Exported,
    recovery: Recovery | None,
) -> None:
    """variant.json."""
    convolutions = [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d)]
    total = sum(w.numel() for w in convolutions)
    baseline = _baseline_hash(run, plan)
    run.study.put_variant(
        VariantRecord(
            id=plan.id,
            method=plan.method,
            ratio=plan.ratio,
            seed=plan.seed,
            arch=run.recipe.model.arch,
            num_classes=run.bundle.num_classes,
            input_shape=run.shape,
            model_args=run.recipe.model.args,
            surgery=outcome.record if outcome is not None else None,
            artefacts=exported.artefacts,
            parity=exported.parity,
            temperature=exported.temperature,
            opset=run.recipe.export.opset,
            params=count.params(model),
            macs=count.macs(model, run.shape),
            sparsity=sum(int((w == 0).sum()) for w in convolutions) / total if total else 0.0,
            recovery=recovery,
            lineage=Lineage(
                recipe_sha256=run.recipe.sha256,
                baseline_sha256=baseline,
                data_sha256=run.identity.train_sha256,
                seed=plan.seed,
            ),
        )
    )


# -------------------------------------------------------------------------------------------------------- measure


def _open(run: Run, onnx: bytes) -> OnnxClassifier:
    """On all cores: the logits do not depend on the number of threads, latency is measured elsewhere."""
    return OnnxClassifier(onnx, threads=_CORES, provider=run.recipe.target.provider)


def _measured(run: Run, plan: VariantPlan, exported: Exported) -> None:
    """evidence.npz and measurements.json: what the shipped file does on clean and corrupted images."""
    task = measure.Task(
        bench=run.bench, study=run.study, progress=run.progress,
        variant=plan.id, baseline=plan.baseline,
        policy=run.recipe.policy_file if plan.baseline is not None else None,
        counted=counts.sizes(run.study.variant(plan.id)) | _latency(run, plan),
        other_files=partial(_other_files, run, plan),
    )  # fmt: skip
    measure.measure(task, _open(run, exported.onnx))


def _other_files(run: Run, plan: VariantPlan, evidence: Evidence) -> dict[str, Measurement]:
    """The clean metrics of the files beside model.onnx, each measured on that file."""
    found: dict[str, Measurement] = {}
    record = run.study.variant(plan.id)
    for file, suffix in (("model.calibrated.onnx", "calibrated"), ("model.int8.onnx", "int8")):
        if record.artefact(file) is None:
            continue
        classifier = _open(run, run.study.file_bytes(plan.id, file))
        found |= metrics.other_file(classifier, run.bench, suffix, evidence)
    return found


def _latency(run: Run, plan: VariantPlan) -> dict[str, Measurement]:
    if not run.recipe.evaluate.latency:
        return {}
    target, study = run.recipe.target, run.study
    against = study.path(plan.baseline, MODEL) if plan.baseline is not None else None
    protocol = Timing(target.threads, target.provider, run.recipe.evaluate.latency_runs)
    run.progress.note(f"  latency: {protocol.runs} runs, {target.threads} thread(s), interleaved with the baseline")
    return timing.latency(study.path(plan.id, MODEL), against, run.bundle.test.images[0], protocol)


# --------------------------------------------------------------------------------------------------------- hashes


def _baseline_hash(run: Run, plan: VariantPlan) -> str:
    """Of the baseline's model.safetensors; the baseline itself is written before it is described."""
    return sha256_file(run.study.path(plan.baseline or plan.id, "model.safetensors"))
