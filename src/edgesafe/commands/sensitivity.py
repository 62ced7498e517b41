"""`edgesafe models --sensitivity`: what narrowing each layer alone costs, on validation images, under onnxruntime."""

from __future__ import annotations

from torch import nn

from edgesafe import data, models
from edgesafe.deploy import export
from edgesafe.deploy.template import Templates
from edgesafe.errors import UsageError
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.progress import Progress
from edgesafe.prune import PruneContext
from edgesafe.prune.schedule import Sensitivity, sensitivity
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.sections import Method
from edgesafe.stages.lighting import lighting_of
from edgesafe.stages.steps import steps_of
from edgesafe.study.host import cores, host

__all__ = ["sense"]


def sense(recipe: Recipe, progress: Progress) -> tuple[Sensitivity, ...]:
    """Prune each group of layers alone, at each ratio of the first structured block, and score the exported network.

    Args:
        recipe: its model must have weights; no training happens here.
        progress: told what happens.

    Returns:
        In the order of the network; scores are accuracies on the validation images, never on test.

    Raises:
        UsageError: no weights, or no structured block with ratios.
        EdgesafeError: data, weights or network cannot be used.
    """
    block = next((b for b in recipe.compress if b.method is not Method.WEIGHT and b.ratios), None)
    if block is None:
        raise UsageError(
            "no structured block with ratios", where="compress", fix='add method = "filter", ratios = [0.5]'
        )
    weights = recipe.model.weights_of(recipe.seeds[0])
    if weights is None:
        fix = "give model.weights, for example the baseline's model.safetensors of a study"
        raise UsageError("the network has no weights", where="model.weights", fix=fix)
    bundle = data.load(recipe.data)
    model = models.build(recipe.model.arch, bundle.task.outputs, recipe.model.args)
    models.load_weights(model, models.find_weights(weights, recipe.model.arch))
    height, width, channels = bundle.validation.images.shape[1:]
    shape = (height, width, channels)
    threads, templates = cores(), Templates()

    def score(net: nn.Module) -> float:
        onnx = export.export_onnx(net.eval(), input_shape=shape, mean=bundle.mean, std=bundle.std, templates=templates)
        logits = OnnxClassifier(onnx, threads=threads, provider=recipe.target.provider).logits(bundle.validation.images)
        return float((logits.argmax(1) == bundle.validation.labels).mean())

    context = PruneContext(
        input_shape=shape,
        round_to=block.round_to or steps_of(recipe.target, host()).round_to,
        lighting=lighting_of(bundle, block, recipe.seeds[0]),
        paper_layers=models.paper_layers(recipe.model.arch, model) or (),
    )
    return sensitivity(
        model.eval(), block, context, score, lambda done, of, layer: progress.note(f"  [{done + 1}/{of}] {layer}")
    )
