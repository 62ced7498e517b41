"""Pruning as a recipe asks for it: by ratio, in steps with recovery between, or to a budget."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgesafe import data, prune
from edgesafe.deploy import export
from edgesafe.deploy.template import Templates
from edgesafe.prune import PruneContext, PruneOutcome
from edgesafe.prune.budget import Budget, Resource, prune_to_budget
from edgesafe.prune.schedule import prune_in_steps
from edgesafe.prune.weights import zeroed
from edgesafe.recipe.sections import CompressSection, ExportSection, TargetSection
from edgesafe.records import DataBundle
from edgesafe.stages import timing
from edgesafe.stages.timing import Timing
from edgesafe.train.augmentation import Normalisation, shared

__all__ = ["Between", "cut", "gradient_batches", "latency_ms"]

_GRADIENT_IMAGES = 512  # for criteria that look at gradients: enough for a ranking, seconds on a CPU
_TRIAL_RUNS = 256  # timed runs per trial of a latency budget; the variant itself is measured in full later


@dataclass(frozen=True)
class Between:
    """What pruning needs from the rest of the pipeline.

    Attributes:
        recover: trains a network between steps and returns it.
        latency_ms: measures a network.
    """

    recover: Callable[[nn.Module], nn.Module]
    latency_ms: Callable[[nn.Module], float]


def cut(
    baseline: nn.Module, section: CompressSection, ratio: float, context: PruneContext, between: Between
) -> PruneOutcome:
    """Prune and prove.

    Args:
        baseline: not modified.
        section: says how much: a ratio, a ratio in steps, or a budget.
        ratio: in (0, 1); not used with a budget.
        context: see `prune.PruneContext`.
        between: see `Between`.

    Raises:
        RefusedError: it cannot be done, or not be proven; the message names the layer and the fix.
    """
    if section.budget is None and section.steps == 1:
        return prune.prune(baseline, section, ratio, context)
    return zeroed(_in_trials(baseline, section, ratio, context, between), section, context)


def _in_trials(
    baseline: nn.Module, section: CompressSection, ratio: float, context: PruneContext, between: Between
) -> PruneOutcome:
    """Channels removed until a budget is met, or in steps with recovery between."""
    if section.budget is not None:
        asked = section.budget
        timed = asked.latency_ms is not None or asked.latency_ratio is not None
        resource = Resource.LATENCY_MS if timed else Resource(asked.resource)
        goal = Budget(resource, asked.value, asked.relative)
        return prune_to_budget(baseline, section, goal, context, between.latency_ms)
    return prune_in_steps(baseline, section, ratio, context, section.steps, between.recover)


def gradient_batches(bundle: DataBundle, normalise: Normalisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A few normalised training batches: images float32 (n, C, H, W), labels int64 (n,)."""
    train = data.first(bundle.train, _GRADIENT_IMAGES)
    images, labels = shared(train.images[:]), shared(train.labels)
    for start in range(0, len(train), 64):
        yield normalise(images[start : start + 64]), labels[start : start + 64]


def latency_ms(
    bundle: DataBundle, section: ExportSection, target: TargetSection, templates: Templates, model: nn.Module
) -> float:
    """Median batch-1 latency of a network in ms, measured on its exported file on the target's threads."""
    height, width, channels = bundle.test.images.shape[1:]
    onnx = export.export_onnx(
        model.eval(), input_shape=(height, width, channels), mean=bundle.mean, std=bundle.std, opset=section.opset,
        templates=templates,
    )  # fmt: skip
    protocol = Timing(target, _TRIAL_RUNS, bundle.task)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(onnx)
        file.flush()
        metrics = timing.timed(Path(file.name), None, bundle.test.images[: timing.PARITY_IMAGES], protocol).candidate
    return metrics["latency.p50_ms"].estimate
