"""Which channels to remove, if lighting will change: accuracy and lighting-robust accuracy by criterion, with controls.

    python benchmarks/robust_criteria.py WEIGHTS.th --data data --out FILE.jsonl [--epochs 1 --lit 1 …]

The third-party CIFAR-10 ResNet-20 with its own normalisation, scope internal, every criterion at the same ratios, pruned,
BatchNorm re-estimated on 2,000 training images and, with --epochs, fine-tuned alike (--images, --lr, and the weights
--lit, --deviation, --wasserstein). Measured on the exported file under onnxruntime, on the first --test test images.
Robust: right on the image itself, at brightness -25, -12, +12, +25 levels and at contrast -20 and +20 %. A seed chooses
calibration images, draws and random scores, and the crops of BatchNorm and fine-tuning. `reversed` is usn with its sign
turned round: a control. Lines are appended one by one; those that are there are not made again. Without WEIGHTS nothing is
run: the table of FILE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgesafe import data, models
from edgesafe.certificates import ids
from edgesafe.certificates.sets import PointSet
from edgesafe.deploy.export import export_onnx
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.prune import PruneContext, criteria, plan, prune
from edgesafe.prune.deviations import Deviation, deviations, spots
from edgesafe.recipe.sections import CompressSection, DataSection, Device, RecoverSection, RobustSection
from edgesafe.records import DataBundle
from edgesafe.stages.lighting import lighting_of
from edgesafe.stages.train import fit_plan
from edgesafe.surgery.propagation import Slot
from edgesafe.surgery.units import channel_graph
from edgesafe.train import loop
from edgesafe.train.augmentation import Normalisation
from edgesafe.train.batchnorm import reestimate_batchnorm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TERMS = ("lit", "deviation", "wasserstein")
ARMS = ("l1", "random", "usn", "usn_absolute", "usn_l1", "reversed")


@dataclass(frozen=True)
class Row:
    """One pruned network; accuracies are fractions of the test images."""

    arm: str
    ratio: float
    seed: int
    tuning: str
    params: int
    clean: float
    steady: float
    n: int

    @property
    def key(self) -> tuple[object, ...]:
        return self.arm, self.ratio, self.seed, self.tuning, self.n


def grid() -> Iterator[NDArray[np.uint8]]:
    """The look-up tables of the grid: no change, brightness -25, -12, 12, 25, contrast -20 % and +20 %."""
    for name, wanted in (("brightness=25", (0, -25, -12, 12, 25)), ("contrast=20%", (-20.0, 20.0))):
        finite = ids.parse(name)
        assert isinstance(finite, PointSet)
        ends = finite.tables.parameter[:, 0]
        for value in wanted:  # the outermost tables of a range are those at its ends
            number = int(np.abs(ends - value).argmin()) if name.startswith("b") else (0 if value < 0 else len(ends) - 1)
            yield finite.tables.luts[number]


def judged(network: nn.Module, bundle: DataBundle, n: int) -> tuple[float, float]:
    """Clean accuracy, and the share right on the whole grid, of the exported file."""
    images, labels = bundle.test.images[:n], bundle.test.labels[:n]
    height, width, channels = images.shape[1:]
    onnx = export_onnx(network.eval(), input_shape=(height, width, channels), mean=MEAN, std=STD)
    file = OnnxClassifier(onnx, threads=1, provider="CPUExecutionProvider")
    left, clean = np.arange(n), 0.0  # an image that was wrong once need not be looked at again
    for number, lut in enumerate(grid()):
        left = left[file.logits(lut[images[left]]).argmax(1) == labels[left]]
        clean = len(left) / n if number == 0 else clean
    return clean, len(left) / n


KNOWN: dict[int, dict[Slot, Deviation]] = {}


def moved(base: nn.Module, bundle: DataBundle, seed: int) -> dict[Slot, Deviation]:
    """The deviations of the unpruned network's layers, once for each seed."""
    if seed not in KNOWN:
        graph = channel_graph(base, (torch.zeros(1, 3, 32, 32),))
        where = [slot for group in graph.groups for slot in spots(base, graph, group)]
        section = CompressSection(method="usn", ratios=(0.5,))
        light = lighting_of(bundle, section, seed)
        assert light is not None
        KNOWN[seed] = deviations(base, where, light)
    return KNOWN[seed]


def pruned(base: nn.Module, bundle: DataBundle, arm: str, ratio: float, seed: int) -> nn.Module:
    """The network with the channels of an arm removed."""
    method = "random" if arm == "random" else "usn" if arm in ("reversed", *criteria.NEED_LIGHTING) else "filter"
    section = CompressSection(
        method=method, ratios=(ratio,), scope="internal", criterion="usn" if arm == "reversed" else arm
    )
    context = PruneContext(
        (32, 32, 3), seed=seed, round_to=1, engine=False, lighting=lighting_of(bundle, section, seed)
    )
    plan.deviations = lambda *_: moved(base, bundle, seed)
    original = criteria.score_group

    def turned(*given: object) -> Tensor | None:
        score = original(*given)  # type: ignore[arg-type]
        return None if score is None else -score

    plan.score_group = turned if arm == "reversed" else original
    try:
        return prune(base, section, ratio, context).model
    finally:
        plan.score_group = original


def tuning(asked: argparse.Namespace) -> str:
    """In words, how networks are fine-tuned."""
    if not asked.epochs:
        return "BatchNorm re-estimated only"
    terms = "".join(f" + {getattr(asked, name):g} {name}" for name in TERMS if getattr(asked, name))
    return f"{asked.epochs} epochs of {asked.images:,} images at {asked.lr:g}, cross entropy{terms}"


def rows(asked: argparse.Namespace, done: set[tuple[object, ...]]) -> Iterator[Row]:
    """All networks that are not done yet."""
    torch.set_num_threads(1)
    bundle = data.load(DataSection(name="cifar10", root=asked.data, mean=MEAN, std=STD))
    base = models.build("resnet20", 10, {})
    models.load_weights(base, Path(asked.weights))
    base.eval()
    normalise, how = Normalisation(MEAN, STD), tuning(asked)
    robust = RobustSection(**{name: getattr(asked, name) for name in TERMS})
    section = RecoverSection(epochs=asked.epochs, images=asked.images, lr=asked.lr, robust=robust, device=Device.CPU)
    todo = [] if asked.epochs else [("none", 0.0, 0)]
    todo += [(arm, ratio, seed) for ratio in asked.ratios for seed in range(asked.seeds) for arm in asked.arms]
    for arm, ratio, seed in todo:
        if (arm, ratio, seed, how, asked.test) in done:
            continue
        network = base
        if arm != "none":
            network, view = pruned(base, bundle, arm, ratio, seed), fit_plan(section, seed, bundle.task)
            reestimate_batchnorm(network, bundle.train, normalise, images=2000, view=view)
            if asked.epochs:
                loop.fit(network, data.first(bundle.train, asked.images), normalise, view)
        clean, steady = judged(network, bundle, asked.test)
        yield Row(arm, ratio, seed, how, sum(p.numel() for p in network.parameters()), clean, steady, asked.test)


def table(found: list[Row]) -> str:
    """Clean / robust accuracy in percent, one cell for each seed."""
    lines = []
    for how in dict.fromkeys(row.tuning for row in found):
        mine = sorted((row for row in found if row.tuning == how), key=lambda row: row.seed)
        ratios = sorted({row.ratio for row in mine if row.ratio})
        lines += ["", how, "", "| criterion | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |"]
        lines += ["|---" * (1 + len(ratios)) + "|"]
        for arm in ("none", *ARMS):
            cells = [[row for row in mine if row.arm == arm and row.ratio in (ratio, 0.0)] for ratio in ratios]
            text = [", ".join(f"{100 * row.clean:.1f} / {100 * row.steady:.1f}" for row in cell) for cell in cells]
            if any(text):
                lines.append(f"| {arm} | " + " | ".join(text) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--ratios", nargs="+", type=float, default=(0.3, 0.5))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--lr", type=float, default=0.01)
    for name in TERMS:
        parser.add_argument(f"--{name}", type=float, default=0.0)
    arguments = parser.parse_args()
    found = []
    if arguments.out.exists():
        found = [Row(**json.loads(line)) for line in arguments.out.read_text().splitlines()]
    if arguments.weights is not None:
        for row in rows(arguments, {row.key for row in found}):
            found.append(row)
            with arguments.out.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
