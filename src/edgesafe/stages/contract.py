"""The network that a recipe brings, checked before it is trained: forward, scores, and whether it can be exported."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgesafe.deploy import export
from edgesafe.errors import RecipeError, RefusedError, SurgeryError, hint
from edgesafe.measure.inference.inputs import output_kind
from edgesafe.measure.tasks import rules_of
from edgesafe.models.contract import require_classifier
from edgesafe.models.external import is_external
from edgesafe.prune import PruneContext
from edgesafe.recipe.sections import CompressSection, ExportSection, ModelSection
from edgesafe.records import DataBundle
from edgesafe.surgery.units import channel_graph
from edgesafe.train.augmentation import Normalisation, shared

__all__ = ["check", "check_layers"]

_IMAGES = 4  # enough to tell an image from its neighbours


def check(model: nn.Module, origin: ModelSection, bundle: DataBundle, section: ExportSection | None) -> None:
    """Refuse what would fail, or be measured wrongly, after the training.

    Args:
        model: as built, before training; may get a hook that makes its input contiguous (`models.contract`).
        origin: names it.
        bundle: gives the first training images and the number of classes.
        section: for a trial export of a network of others (the built-in ones are known to export); None: no trial.

    Raises:
        EdgesafeError: what is wrong with it, where, and what a network must do.
    """
    normalise = Normalisation(bundle.mean, bundle.std)
    images = normalise(shared(bundle.train.images[:_IMAGES]))
    with torch.random.fork_rng(devices=[]):
        scores = require_classifier(model, images, bundle.task.outputs, origin.arch)
        if rules_of(bundle.task).ranked:
            _require_logits(model, images, scores, origin.arch)
        if section is not None and is_external(origin.arch):
            height, width, channels = bundle.train.images.shape[1:]
            shape = (height, width, channels)
            trial = copy.deepcopy(model).eval()
            export.export_onnx(trial, input_shape=shape, mean=bundle.mean, std=bundle.std, opset=section.opset)


def check_layers(model: nn.Module, shape: tuple[int, int, int], blocks: Sequence[CompressSection]) -> None:
    """Refuse a recipe that gives the share of a layer which the network does not have.

    A network whose structure cannot be told is left to pruning, which says why.

    Args:
        model: as built, before training.
        shape: of an image, (H, W, C).
        blocks: the recipe's [[compress]]; the keys of their `layers` are those of `surgery.units.ChannelGraph`.

    Raises:
        RecipeError: names the nearest layer.
    """
    asked = [name for block in blocks for name in block.layers]
    if not asked:
        return
    try:
        with torch.random.fork_rng(devices=[]):
            graph = channel_graph(model, PruneContext(shape).inputs())
    except SurgeryError:
        return
    known = [layer.name for layer in graph.layers]
    if odd := next((name for name in asked if name not in known), None):
        fix = hint(odd, known, f"its {len(known)} layers are called like '{known[0]}' and '{known[-1]}'")
        raise RecipeError(f"the network has no layer '{odd}'", where="compress.layers", fix=fix)


def _require_logits(model: nn.Module, images: torch.Tensor, scores: torch.Tensor, arch: str) -> None:
    """Training takes the scores for logits, so they must not have been squashed before.

    Initial logits may happen to lie in [0, 1]; those of enlarged images do not stay there.
    """
    with torch.no_grad():
        trial = copy.deepcopy(model).eval()
        both = torch.cat([scores, trial(images * 100)]).nan_to_num(nan=-1.0, posinf=2.0, neginf=-1.0)
    if bool((both == both[:1, :1]).all()):
        return  # a classifier that starts at zero
    if output_kind(both.numpy(), where=arch) == "probabilities":
        raise RefusedError(
            "its scores are probabilities (each row sums to 1), but training and calibration need logits",
            where=arch,
            fix="return the scores before the softmax",
        )
