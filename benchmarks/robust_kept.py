"""What each criterion keeps of a keypoint network's channels, before any recovery: whether they are dead, strong, or alike.

    python benchmarks/robust_kept.py WEIGHTS.safetensors --arch cnn7 --args '{"width": 16, "size": 48}' --data data

Half of the channels of every layer that can be narrowed by itself, on 256 training images of `aircraft`, ReLU behind the
BatchNorm that is measured. Means over layers of the kept channels'
  overlap    share that L1 keeps, too
  dead       share that is above zero at less than 1 % of all positions
  variance   after ReLU, of that of all channels
  relative   deviation under lighting, over the mean of the layer
  lost       share of all channels' variance after ReLU that no linear map of the kept ones gives
  spread     (sum of eigenvalues)^2 / sum of squared eigenvalues of the kept channels' correlations, per channel: 1 if none is
             like another, 1 / channels if all are alike
Random channels of three seeds are the control.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgesafe import data, models
from edgesafe.prune.criteria import Material, gather, score_group
from edgesafe.prune.deviations import deviations, spots
from edgesafe.recipe.sections import CompressSection, Criterion, DataSection
from edgesafe.stages.lighting import lighting_of
from edgesafe.surgery.propagation import Slot
from edgesafe.surgery.units import ChannelGraph, ChannelGroup, channel_graph
from edgesafe.train.augmentation import Normalisation

SIZE, DEAD = 48, 0.01
ARMS = (Criterion.L1, Criterion.USN, Criterion.USN_ABSOLUTE, Criterion.USN_L1)


@dataclass(frozen=True)
class Kept:
    """Of one layer; see the module."""

    overlap: float
    dead: float
    variance: float
    relative: float
    lost: float
    spread: float


def seen(network: nn.Module, slots: list[Slot], images: Tensor) -> dict[Slot, Tensor]:
    """Pre-activations of each slot's layer, float64 (channels, m)."""
    found: dict[Slot, Tensor] = {}
    hooks = []
    for slot in slots:

        def hold(_module: nn.Module, _inputs: object, output: Tensor, slot: Slot = slot) -> None:
            found[slot] = output.detach().movedim(1, 0).flatten(1).double()

        hooks.append(network.get_submodule(slot.tensor.rpartition(".")[0]).register_forward_hook(hold))
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def chosen(graph: ChannelGraph, group: ChannelGroup, criterion: Criterion, material: Material) -> list[int]:
    """The half of the layer's channels that stays."""
    scores = score_group(graph, group, criterion, material)
    assert scores is not None
    stay = scores.argsort(descending=True)[: len(scores) - len(scores) // 2]
    return sorted(int(k) for k in stay)


def judged(z: Tensor, relative: Tensor, stay: list[int], by_l1: list[int]) -> Kept:
    """A layer's pre-activations (channels, m) and relative deviations (channels,), and what stays of it."""
    strong = z.clamp_min(0.0)
    centred = strong - strong.mean(1, keepdim=True)
    covariance = centred @ centred.T / centred.shape[1]
    total, own = covariance.trace(), covariance[stay][:, stay]
    left = covariance - covariance[:, stay] @ torch.linalg.pinv(own, hermitian=True) @ covariance[stay]
    scale = own.diag().clamp_min(1e-12).sqrt()
    spread = torch.linalg.eigvalsh(own / scale / scale[:, None])
    return Kept(
        overlap=len(set(stay) & set(by_l1)) / len(stay),
        dead=float(((z > 0).double().mean(1)[stay] < DEAD).double().mean()),
        variance=float(own.trace() / total),
        relative=float(relative[stay].mean() / relative.mean()),
        lost=float(left.trace() / total),
        spread=float(spread.sum().square() / spread.square().sum()) / len(stay),
    )


def table(rows: Mapping[str, list[Kept]]) -> str:
    """Means over layers, in Markdown."""
    names = [field.name for field in fields(Kept)]
    lines = ["| criterion | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for arm, layers in rows.items():
        means = np.mean([astuple(layer) for layer in layers], axis=0)
        lines.append(f"| {arm} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--arch", default="cnn7")
    parser.add_argument("--args", type=json.loads, default={"width": 16, "size": SIZE})
    parser.add_argument("--data", default="data")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bundle = data.load(DataSection(name="aircraft", root=asked.data, args={"size": SIZE, "train": 1000, "test": 50}))
    network = models.build(asked.arch, bundle.task.outputs, asked.args)
    models.load_weights(network, asked.weights)
    network.eval()
    graph = channel_graph(network, (torch.zeros(1, 3, SIZE, SIZE),))
    groups = [group for group in graph.groups if group.internal]
    where = [spots(network, graph, group)[0] for group in groups]
    lighting = lighting_of(bundle, CompressSection(method="usn", ratios=(0.5,)), 0)
    assert lighting is not None
    images = torch.from_numpy(np.ascontiguousarray(bundle.train.images[:256]))
    moved = deviations(network, where, lighting)
    active = seen(network, where, Normalisation(bundle.mean, bundle.std)(images))
    material = replace(gather(network, Criterion.L1, None, seed=0, comparable=False), deviations=moved)
    rows: dict[str, list[Kept]] = {}
    for group, slot in zip(groups, where, strict=True):
        by_l1 = chosen(graph, group, Criterion.L1, material)
        stays = {arm.value: chosen(graph, group, arm, material) for arm in ARMS}
        for seed in range(3):
            stays[f"random, seed {seed}"] = chosen(graph, group, Criterion.RANDOM, replace(material, seed=seed))
        for arm, stay in stays.items():
            rows.setdefault(arm, []).append(judged(active[slot], moved[slot].relative, stay, by_l1))
    print(table(rows))


if __name__ == "__main__":
    main()
