"""What is left of a network at half its MACs, by who pruned it and how it recovered, at the same number of steps.

    python benchmarks/search_peers.py WEIGHTS.th --data data --out DIR [--arms …] [--macs 0.5] [--precision bf16]
    python benchmarks/search_peers.py --out DIR --against uniform-labels [--latency]

The third-party CIFAR-10 ResNet-20. Peers: torch-pruning's own pruners, driven as its benchmark drives them (small steps
until the speed-up is reached; GroupNorm and BNScale with its sparse training before, which takes one of the epochs), and
`torch.nn.utils.prune` for weights; all with plain fine-tuning. Ours: allocations by name, BatchNorm re-estimated, then
fine-tuning on labels or distilled. All see the same images and crops, as many steps of the same SGD, and are measured on
the same exported form: --test clean test images, --cell of them in each of 75 corrupted cells. Kept: DIR/ARM.onnx, and
what it said of every image in DIR/ARM.npz; those that are there are not made again. The second form prints the table,
paired with one arm. ARM is WHO-RECOVERY: recovery none (BatchNorm only for ours), labels, distilled, plain; ARM@0.4 has
another share of MACs than --macs, to compare at equal latency.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from edgesafe import data, models
from edgesafe.corruptions import NAMES, corrupt
from edgesafe.deploy.export import export_onnx
from edgesafe.measure.inference.latency import interleaved, summarise
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import Interval, paired_difference
from edgesafe.measure.intervals.ece import paired_bootstrap_ece
from edgesafe.measure.metrics import temperature
from edgesafe.models.count import macs
from edgesafe.models.rewrite import option_a_to_conv
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.budget import Budget, Resource, prune_to_budget
from edgesafe.prune.curves import Seen, curves
from edgesafe.recipe.sections import CompressSection, DataSection, Device, RecoverSection
from edgesafe.records import AllocationRecord, DataBundle
from edgesafe.stages.train import fit_plan
from edgesafe.train import loop
from edgesafe.train.augmentation import Normalisation, crop, draw, generator, shared
from edgesafe.train.batchnorm import reestimate_batchnorm
from edgesafe.train.distillation import distilled

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (32, 32, 3)
NORMALISE = Normalisation(MEAN, STD)
SPARSE_WEIGHTS = 0.8  #: share of weights that become zero in the arms about weights
ARMS = (
    "unpruned-none", "uniform-none", "global-none", "sensitivity-none", "latency-none", "random-none",
    "uniform-labels", "global-labels", "sensitivity-labels", "latency-labels", "random-labels",
    "uniform-distilled", "global-distilled", "sensitivity-distilled",
    "tp_magnitude-plain", "tp_groupnorm-plain", "tp_bnscale-plain", "tp_groupnorm_all-plain",
    "weight-labels", "weight-distilled", "torch_l1-plain",
)  # fmt: skip


Cells = list[tuple[NDArray[np.int64], NDArray[np.uint8]]]


@dataclass(frozen=True)
class Work:
    """What all arms share: options, data, the unpruned network, corrupted images."""

    asked: argparse.Namespace
    bundle: DataBundle
    base: nn.Module
    cells: Cells

    @property
    def recovery(self) -> RecoverSection:
        """The fine-tuning of every arm: the same images, rate and steps."""
        epochs = self.asked.epochs
        return RecoverSection(
            epochs=epochs, images=self.asked.images, lr=self.asked.lr, milestones=(epochs - 1,), device=Device.CPU,
            precision=self.asked.precision,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ ours


def ours(work: Work, who: str) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """Our network at the budget, and the masks of method weight."""
    if who == "weight":
        outcome = prune(work.base, CompressSection(method="weight", ratios=(0.5,)), SPARSE_WEIGHTS, PruneContext(SHAPE))
        return outcome.model, dict(outcome.masks or {})
    method = "random" if who == "random" else "filter"
    allocation = "uniform" if who == "random" else who
    section = CompressSection(method=method, ratios=(0.5,), scope="internal", allocation=allocation)
    context = PruneContext(SHAPE, round_to=1)
    if allocation in ("sensitivity", "latency"):
        rows = curves(work.base, section, context, looking(work, timed=allocation == "latency"))
        context = replace(context, allocation=AllocationRecord(by=allocation, images=512, bn_images=500, layers=rows))
    return prune_to_budget(work.base, section, Budget(Resource.MACS, work.asked.macs), context).model, None


def looking(work: Work, *, timed: bool) -> Callable[[nn.Module], Seen]:
    """Mean loss on 512 validation images after BatchNorm re-estimation, and the share of MACs or latency, as stages do."""
    some, plan = data.first(work.bundle.validation, 512), fit_plan(work.recovery, 0, work.bundle.task)

    def look(network: nn.Module) -> Seen:
        reestimate_batchnorm(network, work.bundle.train, NORMALISE, images=500, view=plan)
        network.eval()
        with torch.no_grad():
            total = F.cross_entropy(network(NORMALISE(shared(some.images[:]))), shared(some.labels))
        cost = relative_latency(exported(network), exported(work.base)) if timed else share(network, work.base)
        return Seen(float(total), cost)

    return look


def share(network: nn.Module, base: nn.Module) -> float:
    return macs(network, SHAPE) / macs(base, SHAPE)


def relative_latency(candidate: bytes, baseline: bytes, runs: int = 256) -> float:
    """Median batch-1 latency on one thread as a share of the baseline's, timed in turns."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        files = {name: Path(place) / f"{name}.onnx" for name in ("candidate", "baseline")}
        files["candidate"].write_bytes(candidate)
        files["baseline"].write_bytes(baseline)
        image = np.zeros(SHAPE, np.uint8)
        found = interleaved(files, image=image, threads=1, provider="CPUExecutionProvider", runs=runs)
    return summarise(found["candidate"], found["baseline"])["latency.ratio"].estimate


# ----------------------------------------------------------------------------------------------------------- peers


def torch_pruned(work: Work, who: str) -> tuple[nn.Module, int]:
    """A network that torch-pruning's own pruner brought to the budget, and how many epochs are left to fine-tune."""
    network = copy.deepcopy(work.base).requires_grad_(True)
    whole = who.endswith("_all")
    if whole:  # its dependency graph breaks on option-A shortcuts: they get the exact convolutions that ours may have
        option_a_to_conv(network, SHAPE)
    example = torch.zeros(1, 3, 32, 32)
    inner = [module for name, module in network.named_modules() if name.endswith("conv1") and "." in name]
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    kept = [m for m in convs if isinstance(m, nn.Linear) or (not whole and m not in inner)]
    kind = who.removeprefix("tp_").removesuffix("_all")
    make, importance, reg = {
        "magnitude": (tp.pruner.MagnitudePruner, tp.importance.GroupMagnitudeImportance(p=2), None),
        "groupnorm": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(normalizer="max"), 5e-4),
        "bnscale": (tp.pruner.BNScalePruner, tp.importance.BNScaleImportance(), 1e-5),
    }[kind]
    more = {} if reg is None else {"reg": reg}
    pruner = make(
        network, example, importance=importance, global_pruning=kind != "magnitude", pruning_ratio=1.0,
        max_pruning_ratio=0.9, iterative_steps=400, ignored_layers=kept, **more,
    )  # fmt: skip
    left = work.asked.epochs
    if reg is not None and left > 1:
        sparse_epoch(work, network, pruner)
        left -= 1
    while share(network, work.base) > work.asked.macs:
        pruner.step()
        if pruner.current_step >= 400:
            raise SystemExit(f"{who} does not reach {work.asked.macs:g} of the MACs")
    return network, left


def sparse_epoch(work: Work, network: nn.Module, pruner: tp.BasePruner) -> None:
    """One epoch of torch-pruning's sparse training: SGD with the pruner's regularisation added to the gradients."""
    plan = fit_plan(work.recovery, 1, work.bundle.task)
    train = data.first(work.bundle.train, work.asked.images)
    optimiser = torch.optim.SGD(network.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=1e-4)
    network.train()
    if hasattr(pruner, "update_regularizer"):
        pruner.update_regularizer()
    order = torch.randperm(len(train), generator=generator(1, 0, "order"))
    for rows in order.split(plan.batch_size):
        images, labels = shared(train.images[rows.numpy()]), shared(train.labels[rows.numpy()])
        seen = crop(images, draw(plan, len(images), generator(1, int(rows[0]), "crops")))
        optimiser.zero_grad()
        with plan.mode.autocast():
            loss = F.cross_entropy(network(plan.mode.lay(NORMALISE(seen))), labels)
        loss.backward()
        pruner.regularize(network)
        optimiser.step()


def l1_masks(work: Work) -> tuple[nn.Module, dict[str, Tensor]]:
    """`torch.nn.utils.prune`: the smallest weights of each convolution by L1."""
    network, masks = copy.deepcopy(work.base), {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.l1_unstructured(module, "weight", SPARSE_WEIGHTS)
            masks[f"{name}.weight"] = module.weight_mask.bool().clone()
            torch_prune.remove(module, "weight")
    return network, masks


# -------------------------------------------------------------------------------------------------------- an arm


def made(work: Work, arm: str) -> nn.Module:
    """The network of an arm, recovered."""
    who, how = arm.rsplit("-", 1)
    how, _, macs_asked = how.partition("@")
    if macs_asked:
        work = replace(work, asked=argparse.Namespace(**vars(work.asked) | {"macs": float(macs_asked)}))
    if who == "unpruned":
        return copy.deepcopy(work.base)
    masks: dict[str, Tensor] | None = None
    epochs = work.asked.epochs
    if who == "torch_l1":
        network, masks = l1_masks(work)
    elif who.startswith("tp_"):
        network, epochs = torch_pruned(work, who)
    else:
        network, masks = ours(work, who)
    plan = fit_plan(work.recovery, 0, work.bundle.task)
    if how != "plain":
        reestimate_batchnorm(network, work.bundle.train, NORMALISE, images=2000, view=plan)
    if how == "none":
        return network
    plan = replace(plan, epochs=epochs, milestones=(epochs - 1,))
    if how == "distilled":
        plan = replace(plan, objective=distilled(plan.objective, work.base, 0.9, 4.0, plan.mode))
    loop.fit(network, data.first(work.bundle.train, work.asked.images), NORMALISE, plan, masks=masks)
    return network


def exported(network: nn.Module) -> bytes:
    return export_onnx(copy.deepcopy(network).eval(), input_shape=SHAPE, mean=MEAN, std=STD)


def corrupted(bundle: DataBundle, test: int, count: int) -> Cells:
    """For each cell of 15 corruptions and 5 severities: positions of its test images, and their corrupted pixels."""
    rng, cells = np.random.default_rng(0), []
    for name in NAMES:
        for severity in range(1, 6):
            index = np.sort(rng.choice(test, count, replace=False)).astype(np.int64)
            cells.append((index, corrupt(bundle.test.images[index], index, name, severity)))
    return cells


def observe(work: Work, arm: str, out: Path) -> None:
    """Make an arm and keep its file and what it says of every image."""
    network = made(work, arm)
    onnx = exported(network)
    file = OnnxClassifier(onnx, threads=1, provider="CPUExecutionProvider")
    n, test = work.asked.test, work.bundle.test
    held = slice(n, n + 2000)  # test images that nothing else uses fit the temperature
    cells = [(index, file.logits(images)) for index, images in work.cells]
    right = [logits.argmax(1) == test.labels[index] for index, logits in cells]
    (out / f"{arm}.onnx").write_bytes(onnx)
    np.savez(
        out / f"{arm}.npz", logits=file.logits(test.images[:n]), labels=test.labels[:n],
        held=file.logits(test.images[held]), held_labels=test.labels[held],
        cell_index=np.concatenate([index for index, _ in cells]), cell_right=np.concatenate(right),
        macs=share(network, work.base), bytes=len(onnx),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- table


def confidence(logits: NDArray[np.float32], by: float = 1.0) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / by
    e = np.exp(scaled - scaled.max(1, keepdims=True))
    top: NDArray[np.float64] = (e / e.sum(1, keepdims=True)).max(1)
    return top


def table(out: Path, against: str, *, timed: bool) -> str:
    """Estimates of every arm, and differences to one, paired by image, with 95 % intervals; in percent."""
    found = {path.stem: dict(np.load(path)) for path in sorted(out.glob("*.npz"))}
    base = found[against]
    head = ["arm", "MACs", "accuracy", f"minus {against}", "ECE", "minus", "ECE, T", "minus", "mPC", "minus"]
    lines = ["| " + " | ".join(head + (["latency"] if timed else [])) + " |", "|---" * (len(head) + timed) + "|"]
    order = sorted(found, key=lambda arm: (ARMS.index(arm.partition("@")[0]), arm))
    for arm in order:
        own = found[arm]
        right, ref = (each["logits"].argmax(1) == each["labels"] for each in (own, base))
        drop = paired_difference(right.astype(float), ref.astype(float))
        pairs = [(confidence(each["logits"]), hit.astype(float)) for each, hit in ((own, right), (base, ref))]
        ece = paired_bootstrap_ece(pairs[0], pairs[1])
        fitted = [temperature.fit(each["held"], each["held_labels"])[0] for each in (own, base)]
        sure = [confidence(each["logits"], by) for each, by in zip((own, base), fitted, strict=True)]
        calibrated = paired_bootstrap_ece((sure[0], right.astype(float)), (sure[1], ref.astype(float)))
        robust = clustered(own, base)
        cells = [
            arm, f"{float(own['macs']):.3f}", f"{100 * right.mean():.2f}", told(*spread(drop)),
            f"{100 * ece.candidate:.2f}", told(*spread(ece.interval)),
            f"{100 * calibrated.candidate:.2f} ({fitted[0]:.2f})", told(*spread(calibrated.interval)),
            f"{100 * own['cell_right'].mean():.2f}", told(*robust),
        ]  # fmt: skip
        if timed:
            files = [(out / f"{name}.onnx").read_bytes() for name in (arm, "unpruned-none")]
            cells.append(f"{relative_latency(*files, runs=1024):.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def clustered(own: dict[str, NDArray[np.float64]], base: dict[str, NDArray[np.float64]]) -> tuple[float, float, float]:
    """Difference of mPC with an interval about new images: rows of an image are added up before their spread is taken."""
    gap = own["cell_right"].astype(float) - base["cell_right"].astype(float)
    mean = float(gap.mean())
    sums = np.bincount(own["cell_index"].astype(int), weights=gap - mean)
    half = 1.96 * float(np.sqrt((sums**2).sum())) / len(gap)
    return mean, mean - half, mean + half


def spread(found: Interval) -> tuple[float, float, float]:
    return found.estimate, found.low, found.high


def told(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--cell", type=int, default=60)
    parser.add_argument("--against", default="uniform-labels")
    parser.add_argument("--latency", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.weights is None:
        print(table(asked.out, asked.against, timed=asked.latency))
        return
    torch.set_num_threads(1)
    bundle = data.load(DataSection(name="cifar10", root=asked.data, mean=MEAN, std=STD))
    base = models.build("resnet20", 10, {})
    models.load_weights(base, Path(asked.weights))
    work = Work(asked, bundle, base.eval(), corrupted(bundle, asked.test, asked.cell))
    for arm in asked.arms:
        if not (asked.out / f"{arm}.npz").exists():
            torch.manual_seed(0)
            observe(work, arm, asked.out)
            print(arm, flush=True)


if __name__ == "__main__":
    main()
