"""`edgesafe init`: a recipe from a model and a data set, tried before it is written.

What is tried: the data loads; the network builds, takes the weights and runs on the images; the method really removes
something from it, with proof. So a recipe that `init` writes does not fail after an hour for one of these reasons.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgesafe import data, files, models, prune
from edgesafe.commands import estimate, results
from edgesafe.errors import UsageError
from edgesafe.models import count
from edgesafe.prune import PruneContext
from edgesafe.recipe import parsing, toml
from edgesafe.recipe.recipe import Recipe, variants
from edgesafe.recipe.sections import Method
from edgesafe.records import DataBundle, InitResult
from edgesafe.stages import observe
from edgesafe.stages.lighting import lighting_of
from edgesafe.stages.steps import steps_of
from edgesafe.study.host import host

__all__ = ["init", "text"]

_METHODS = {
    Method.WEIGHT: "single weights set to zero: smaller to store, not faster",
    Method.FILTER: "whole filters with the lowest L1 norm: smaller and faster",
    Method.CHANNEL: "channels with the smallest BatchNorm scales, after sparsity training: smaller and faster",
    Method.RANDOM: "filters at random: the control that a claim should beat",
    Method.USN: "filters that changes of lighting move most for their weight: smaller and faster",
}
_PER_CELL = 500  # images per corruption and severity: +-1 pp on mPC, and an hour less than 10,000
_MEASURED_AS_IT_IS = "the baseline is what the weights give; it is not trained"


def init(flags: Mapping[str, Any], out: Path) -> InitResult:
    """Try a recipe and write it.

    Args:
        flags: any of model, weights, data, root, method, ratios, as `parsing.from_flags` takes them.
        out: the new file.

    Raises:
        UsageError: the file is there already.
        EdgesafeError: data, network or weights cannot be used, or the method removes nothing: what compress would say.
    """
    if out.exists():
        raise UsageError("is there already", where=str(out), fix="choose another file with --out, or remove it")
    recipe = parsing.from_flags(flags)
    bundle = data.load(recipe.data)
    per_cell = min(_PER_CELL, len(bundle.test))
    recipe = parsing.from_flags(flags, [f"evaluate.images_per_cell={per_cell}"])
    model = _model(recipe, bundle)
    height, width, channels = bundle.test.images.shape[1:]
    narrowed = _narrowed(recipe, model, bundle)
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, host())
    ahead = estimate.estimate(recipe, bundle, bench, variants(recipe))
    result = InitResult(
        command="init",
        file=str(out),
        params=count.params(model),
        macs=count.macs(model, (height, width, channels)),
        classes=len(bundle.task.names),
        noun=bundle.task.noun,
        shape=(height, width, channels),
        train_images=len(bundle.train),
        validation_images=len(bundle.validation),
        test_images=len(bundle.test),
        narrowed=narrowed,
        estimate=ahead,
    )
    written = text(recipe, result)
    parsing.parse(tomllib.loads(written), where=str(out))  # what is written can be read
    files.atomic_write(out, written.encode("utf-8"))
    return result


def _model(recipe: Recipe, bundle: DataBundle) -> nn.Module:
    torch.manual_seed(recipe.seeds[0])
    model = models.build(recipe.model.arch, bundle.task.outputs, recipe.model.args)
    weights = recipe.model.weights_of(recipe.seeds[0])
    if weights is not None:
        models.load_weights(model, models.find_weights(weights, recipe.model.arch, bundle.task.class_names))
    return model.eval()


def _narrowed(recipe: Recipe, model: nn.Module, bundle: DataBundle) -> int:
    """Prune at the highest ratio, proven; how many layers that narrows, or for method weight thins out."""
    block = recipe.compress[0]
    height, width, channels = bundle.test.images.shape[1:]
    context = PruneContext(
        input_shape=(height, width, channels),
        round_to=block.round_to or steps_of(recipe.target, host()).round_to,
        lighting=lighting_of(bundle, block, recipe.seeds[0]),
        paper_layers=models.paper_layers(recipe.model.arch, model) or (),
    )
    record = prune.prune(model, block, max(block.ratios), context).record
    return sum(layer.out_after < layer.out_before or layer.sparsity > 0.0 for layer in record.layers)


def text(recipe: Recipe, tried: InitResult) -> str:
    """The recipe as TOML, with what an engineer wants to know beside each key."""
    block, height, width, channels = recipe.compress[0], *tried.shape
    lines = [
        f"# Run it:  edgesafe compress {tried.file}     Every key: edgesafe compress {tried.file} --show-recipe",
        *([f"# {results.in_words(tried.estimate)}."] if tried.estimate is not None else []),
        'schema = "edgesafe.recipe/1"',
        f"name   = {toml.toml_value(recipe.name)}",
        "seeds  = [0]                # one study per seed; [0, 1, 2] also shows how much is luck",
        "",
        "[model]",
        f"arch = {toml.toml_value(recipe.model.arch)}",
        f"# {tried.params:,} parameters, {tried.macs:,} MACs for an image",
    ]
    if recipe.model.weights is not None:
        lines.append(f"weights = {toml.toml_value(recipe.model.weights)}    # {_MEASURED_AS_IT_IS}")
    else:
        lines.append('# weights = "FILE"          # none: the baseline is trained first, as [train] says')
    lines += [
        "",
        "[data]",
        f"name = {toml.toml_value(recipe.data.name)}",
        f"root = {toml.toml_value(recipe.data.root)}",
        f"# {tried.train_images:,} images to train on, {tried.validation_images:,} held out to judge recovery, "
        f"{tried.test_images:,} to measure on;",
        f"# {tried.classes} {tried.noun}, {height}x{width}x{channels}",
    ]
    if recipe.model.weights is not None:
        lines += [
            "# Were the weights trained on all of train? Then hold out some of the test images instead:",
            '# validation_from = "test"',
        ]
    lines += [
        "",
        "[[compress]]                # one block per method; each ratio is a variant",
        f"method = {toml.toml_value(block.method.value)}",
        f"# {_METHODS[block.method]}",
        f"ratios = {toml.toml_value(list(block.ratios))}",
        f"# tried: at {max(block.ratios)} it changes {tried.narrowed} layers, and what is left is proven equal",
    ]
    return "\n".join([*lines, *_tail(recipe)]) + "\n"


def _tail(recipe: Recipe) -> list[str]:
    """The sections of the recipe below the blocks: [train], [recover], [evaluate], [target]."""
    train, recover = recipe.train, recipe.recover
    trained = [
        "",
        "[train]                     # SGD; the rate falls to a tenth after each milestone",
        f"epochs = {train.epochs}",
        f"lr = {train.lr}",
        f"milestones = {list(train.milestones)}",
        f"flip = {toml.toml_value(train.flip)}                 # false where a mirrored image is of another class",
    ]
    return [
        *(trained if recipe.model.weights is None else []),
        "",
        "[recover]                   # after pruning: BatchNorm statistics, then fine-tuning",
        f"bn_images = {recover.bn_images}",
        f"epochs = {recover.epochs}                  # more for high ratios; see what it brought in variant.json",
        f"lr = {recover.lr}",
        f"flip = {toml.toml_value(recover.flip)}",
        "",
        "[evaluate]                  # 15 corruptions x 5 severities",
        f"images_per_cell = {recipe.evaluate.images_per_cell}       # leave it out: all test images, for a release",
        "",
        "[target]",
        f"name = {toml.toml_value(recipe.target.name)}           # latency is measured here, on this many threads",
    ]
