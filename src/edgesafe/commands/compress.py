"""`edgesafe compress`: runs the stages of a study from recipe to evidence, and keeps the result of each.

    recipe -> data -> model -> prune -> recover -> export -> measure -> store

Stages take frozen records and never see the recipe as a whole. A stage whose inputs hash the same as a finished one is
not run again; kill the process anywhere, and the next run continues and ends with the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgesafe import data, models
from edgesafe.commands import distribution, estimate, variants
from edgesafe.executors.crew import ALONE, Crew
from edgesafe.progress import Progress, Silent
from edgesafe.recipe import recipe as recipes
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.records import DataBundle, Host, StudyRecord, VariantEntry, VariantStatus
from edgesafe.stages import certify, foresight, lighting, observe, train
from edgesafe.stages.sequential import judge
from edgesafe.stages.steps import steps_of
from edgesafe.study.host import host, version
from edgesafe.study.inputs import input_hashes
from edgesafe.study.study import Study, read
from edgesafe.study.writer import StudyWriter

__all__ = ["begun", "compress", "entry_of"]


def compress(recipe: Recipe, out: Path, progress: Progress | None = None, crew: Crew = ALONE) -> Study:
    """Run a study, or go on with it.

    Args:
        recipe: what to do.
        out: the study directory.
        progress: told what happens; None: nothing is printed.
        crew: who works on it; by default this process alone. The study's digest does not depend on it.

    Returns:
        The study, read back and checked. Variants that were refused say why in their entry.

    Raises:
        EdgesafeError: the recipe, data, weights or directory cannot be used, or the baseline is refused.
        WorkerError: a variant could not be made for another reason; the others were.
    """
    progress, here, plans = progress or Silent(), host(), recipes.variants(recipe)
    torch.set_num_threads(recipe.threads or here.cores)
    judge.check(recipe.policy_file)
    lighting.check(recipe.lightings)
    bundle = data.load(recipe.data, progress)
    certify.check(recipe.certify, bundle.test)
    train.check(recipe.recoveries, bundle.task)
    judge.require_task(recipe.policy_file, bundle.task.kind)
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, here)
    with StudyWriter(out, begun(recipe, bundle, here)) as study:
        for note in study.record.data.notes:
            progress.note(f"data: {note}")
        study.put_samples(observe.samples(bench))
        if (steps := study.record.steps) is not None and steps.host:
            progress.note(f"channels in steps of {steps.round_to}, int8 in {steps.int8_step}: timed on {steps.host}")
        left = [plan for plan in plans if not study.is_done(plan.id)]
        coming = recipes.trainings(recipe, left)
        if crew.is_here:
            foresight.require_machine(coming)
        for line in foresight.unheeded(coming):
            progress.note(f"recipe: {line}")
        bench = estimate.fitted(recipe, bundle, bench, study, progress)
        ahead = estimate.announce(recipe, bundle, bench, left, progress, crew)
        distribution.make(variants.begin(recipe, bundle, bench, study, progress), plans, left, crew, ahead)
        study.close_study()
    return read(out)


def begun(recipe: Recipe, bundle: DataBundle, here: Host, policy: Path | None = None) -> StudyRecord:
    """The content of study.json before the first variant: recipe, hashes of inputs, data, machine, variants to make.

    Args:
        recipe: what to do.
        bundle: the data.
        here: this machine.
        policy: a file that the study depends on; None: that of evaluate.policy, if there is one.
    """
    policy = policy or recipe.policy_file
    return StudyRecord(
        name=recipe.name,
        edgesafe=version(),
        recipe=recipe.recorded(),
        recipe_sha256=recipe.sha256,
        inputs=input_hashes(weights=_weights(recipe), arch=recipe.model.arch, policy=policy),
        data=observe.identity(bundle, recipe.evaluate),
        host=here,
        steps=steps_of(recipe.target, here),
        variants=tuple(entry_of(plan) for plan in recipes.variants(recipe)),
    )


def _weights(recipe: Recipe) -> dict[str, str]:
    """Weights files by what the record calls them: one for all seeds, or one for each."""
    said = {seed: recipe.model.weights_of(seed) for seed in recipe.seeds}
    files = {
        seed: None if file is None else str(models.find_weights(file, recipe.model.arch)) for seed, file in said.items()
    }
    shared = len(set(files.values())) == 1
    return {"weights" if shared else f"weights s{seed}": file for seed, file in files.items() if file is not None}


def entry_of(plan: VariantPlan) -> VariantEntry:
    """The line of the index that a variant begins with."""
    return VariantEntry(
        id=plan.id, role=plan.role, label=plan.name.label, group=plan.name.group, method=plan.method,
        ratio=plan.ratio, seed=plan.seed, baseline=plan.baseline, precision=plan.precision, sibling=plan.sibling,
        status=VariantStatus.PENDING,
    )  # fmt: skip
