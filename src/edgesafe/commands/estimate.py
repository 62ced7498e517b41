"""What a study will take in time and disk: a short measurement here, multiplied by what the recipe asks for.

Rough by design: one training batch, one batch of the unpruned network and a few corrupted images are timed. Pruned
networks are counted like the unpruned one, and a sample that grows until a policy is decided like its first look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgesafe import data, models
from edgesafe.commands import results
from edgesafe.progress import Progress
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.sections import Method, RecoverSection
from edgesafe.records import DataBundle, Estimate
from edgesafe.stages.observe import Bench
from edgesafe.train.augmentation import Normalisation, shared

__all__ = ["announce", "estimate"]

_TIMED = 32  # images of the batch that is timed
_CORRUPTED = 4  # images of each corruption that are timed
_PROVEN = 4  # times that an export's proofs run the validation images, at most 512: torch, dense, sparse, temperature
_EXPORT_S = 1.0  # exporting and checking a network, however small
_EXPORT_LAYER_S = 0.03  # and for each layer of it
_ROW_BYTES = 34  # of evidence.npz, for each image and cell
_RECORD_BYTES = 150_000  # measurements.json and variant.json
_FILES = 4  # weights, dense, sparse or int8, calibrated: each about as large as the weights


@dataclass(frozen=True)
class _Speed:
    """Seconds for one image."""

    train: float
    infer: float
    corrupt: float


def estimate(recipe: Recipe, bundle: DataBundle, bench: Bench, plans: Sequence[VariantPlan]) -> Estimate | None:
    """Time and disk for the variants that are left to make.

    Args:
        recipe: what is asked for.
        bundle: its data.
        bench: what every file is measured on.
        plans: the variants that are not done yet.

    Returns:
        None if the network cannot be run or trained on these images: the stage that needs it says why.
    """
    torch.set_num_threads(bench.host.cores)
    with torch.random.fork_rng(devices=[]):
        model = models.build(recipe.model.arch, bundle.num_classes, recipe.model.args)
        try:
            speed = _speed(model, bundle, bench, recipe.train.batch_size)
        except Exception:  # noqa: BLE001 - a user's network may raise anything; it is built and run again, and told then
            return None
    parameters = sum(p.numel() for p in model.parameters())
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    per_file = bench.inferences * speed.infer + sum(map(len, bench.cells.values())) * speed.corrupt
    per_export = _EXPORT_S + _EXPORT_LAYER_S * layers + _PROVEN * min(512, len(bundle.validation)) * speed.infer
    if recipe.evaluate.latency:
        per_export += 2 * recipe.evaluate.latency_runs * speed.infer
    return Estimate(
        train_s=speed.train * _trained(recipe, len(bundle.train), plans),
        recover_s=sum(_recovery_s(recipe, plan, bundle, speed) for plan in plans),
        export_s=len(plans) * per_export,
        measure_s=len(plans) * per_file,
        disk_bytes=len(plans) * (_FILES * 4 * parameters + _ROW_BYTES * bench.inferences + _RECORD_BYTES),
        images=bench.inferences,
        variants=len(plans),
    )


def announce(
    recipe: Recipe, bundle: DataBundle, bench: Bench, plans: Sequence[VariantPlan], progress: Progress
) -> None:
    """Say what is ahead, if it can be measured; see `estimate`."""
    ahead = estimate(recipe, bundle, bench, plans)
    if ahead is not None:
        progress.note(results.in_words(ahead))


def _speed(model: nn.Module, bundle: DataBundle, bench: Bench, batch_size: int) -> _Speed:
    """On this machine, with all cores."""
    normalise = Normalisation(bundle.mean, bundle.std)
    model.eval()
    x = normalise(shared(bundle.validation.images[:_TIMED]))
    with torch.no_grad():
        infer = _seconds(lambda: model(x)) / len(x)
    batch = data.first(bundle.train, batch_size)
    images, labels = normalise(shared(batch.images)), shared(batch.labels)
    model.train()

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    return _Speed(_seconds(step) / len(batch), infer, _corrupting(bench))


def _corrupting(bench: Bench) -> float:
    """Mean over the corruptions, at severity 3 or the nearest that is asked for."""
    if bench.source is None or not bench.cells:
        return 0.0
    source, indices = bench.source, np.arange(min(_CORRUPTED, len(bench.test)), dtype=np.int64)
    severity = sorted({s for _, s in bench.cells}, key=lambda s: abs(s - 3))[0]
    names = dict.fromkeys(name for name, s in bench.cells if s == severity)
    times = [_seconds(partial(source.cell, name, severity, indices)) for name in names]
    return sum(times) / len(times) / len(indices)


def _seconds(run: Callable[[], object]) -> float:
    """Of the fastest of three runs after a first one: other work on the machine makes it slower, nothing faster."""
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _trained(recipe: Recipe, n: int, plans: Sequence[VariantPlan]) -> int:
    """Images that baselines and sparsity trainings go through."""
    images = 0
    for seed in {plan.seed for plan in plans}:
        mine = [plan for plan in plans if plan.seed == seed]
        if recipe.model.weights is None and any(plan.section is None for plan in mine):
            images += recipe.train.epochs * n
        blocks = [b for b in recipe.compress if b.method is Method.CHANNEL and any(p.section == b for p in mine)]
        images += sum(block.slim_epochs * _images(block.recover or recipe.recover, n) for block in blocks)
    return images


def _images(section: RecoverSection, n: int) -> int:
    return n if section.images is None else min(section.images, n)


def _recovery_s(recipe: Recipe, plan: VariantPlan, bundle: DataBundle, speed: _Speed) -> float:
    """BatchNorm statistics, fine-tuning, and judging on the validation images, after each step."""
    if plan.section is None:
        return 0.0
    section = plan.section.recover or recipe.recover
    trained = section.epochs * _images(section, len(bundle.train))
    seen = min(section.bn_images, len(bundle.train)) + 3 * len(bundle.validation)
    return plan.section.steps * (trained * speed.train + seen * speed.infer)
