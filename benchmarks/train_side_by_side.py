"""Train several baselines of the benchmark study on one GPU at a time, each on a stream of its own.

    python benchmarks/train_side_by_side.py resnet20:0,1,2 resnet20+1e-5:0,1,2 --data data --out weights --seconds 540

NETWORK:SEEDS; "+L1" adds network slimming's penalty on BatchNorm scales, "@fp32" trains in float32, not bfloat16. A small
network leaves most of a GPU idle: six ResNet-20 side by side train 2.6 times as many images a second as one. Protocol: SGD
0.1 / 0.01 / 0.001 from epochs 0 / 80 / 120 of 160, batch 64, momentum 0.9, weight decay 1e-4, crops and flips. If --seconds
do not suffice for --epochs, fewer are planned, with the milestones in proportion, and training.json says so. Weights and
curves are written every 20 epochs; `model.weights = "weights/resnet20-s{seed}.safetensors"` takes them into a study.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgesafe import data, models
from edgesafe.files import atomic_write
from edgesafe.recipe.sections import Arithmetic, DataSection
from edgesafe.records import DataBundle
from edgesafe.surgery import rebuild
from edgesafe.train.augmentation import FitPlan, Normalisation
from edgesafe.train.loop import Training, accuracy
from edgesafe.train.mode import Mode, placed

BATCH, EPOCHS, WRITTEN, JUDGED = 64, 160, 20, 10


@dataclass(frozen=True)
class Job:
    """One network to train."""

    arch: str
    seed: int
    l1: float
    precision: Arithmetic

    @property
    def name(self) -> str:
        """Of its files."""
        slim = f"-slim{self.l1:g}" if self.l1 else ""
        return f"{self.arch}{slim}{'-fp32' if self.precision is Arithmetic.FP32 else ''}-s{self.seed}"

    def plan(self, device: str, epochs: int, *, compiled: bool) -> FitPlan:
        """Its schedule: the study's, or in proportion."""
        return FitPlan(
            epochs=epochs, lr=0.1, milestones=(epochs // 2, epochs * 3 // 4), gamma=0.1, momentum=0.9, weight_decay=1e-4,
            batch_size=BATCH, augment=True, flip=True, seed=self.seed, bn_l1=self.l1,
            mode=Mode(device, self.precision, compiled=compiled),
        )  # fmt: skip


def jobs(texts: list[str]) -> Iterator[Job]:
    """Of the command line."""
    for text in texts:
        what, seeds = text.split(":")
        what, _, precision = what.partition("@")
        arch, _, l1 = what.partition("+")
        for seed in seeds.split(","):
            yield Job(arch, int(seed), float(l1 or 0), Arithmetic(precision or "bf16"))


class Run:
    """The networks of one run, on the device."""

    def __init__(self, todo: list[Job], bundle: DataBundle, args: argparse.Namespace) -> None:
        self.todo, self.bundle, self.args = todo, bundle, args
        self.normalise = Normalisation(bundle.mean, bundle.std)
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.nets: list[nn.Module] = []
        self.trainings: list[Training] = []

    def begin(self, stack: ExitStack, epochs: int) -> None:
        """Build all networks, with the weights that a study of the same seed would start from."""
        self.nets, self.trainings = [], []
        for job in self.todo:
            torch.manual_seed(job.seed)
            net = models.build(job.arch, self.bundle.num_classes)
            plan = job.plan(self.device, epochs, compiled=self.args.compile)
            stack.enter_context(placed(net, plan.mode))
            self.nets.append(net)
            self.trainings.append(Training(net, self.bundle.train, self.normalise, plan))

    def epoch(self, steps: int | None = None) -> float:
        """One epoch of all, step by step in turn (or its first steps only); images a second."""
        with ExitStack() as stack:
            begun = [stack.enter_context(training.epoch()) for training in self.trainings]
            sizes = begun[0][:steps]
            start = time.perf_counter()
            for _ in sizes:
                for training in self.trainings:
                    training.step()
        return len(self.todo) * sum(sizes) / (time.perf_counter() - start)

    def judged(self) -> dict[str, float]:
        """Accuracy on the validation images."""
        return {
            job.name: accuracy(net, self.bundle.validation, self.normalise, training.plan.mode)
            for job, net, training in zip(self.todo, self.nets, self.trainings, strict=True)
        }

    def write(self, record: dict[str, object]) -> None:
        """Weights of all networks as they are now, and the record."""
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        for job, net in zip(self.todo, self.nets, strict=True):
            copy = models.build(job.arch, self.bundle.num_classes)
            copy.load_state_dict(net.state_dict())
            atomic_write(out / f"{job.name}.safetensors", rebuild.save_bytes(copy, sparse=False))
        atomic_write(out / "training.json", json.dumps(record, indent=1).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", help="NETWORK[+L1][@fp32]:SEEDS")
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    run = Run(list(jobs(args.jobs)), data.load(DataSection(name=args.name, root=args.data)), args)
    with ExitStack() as stack:  # graphs are captured, kernels compiled: the rate is a lower bound
        run.begin(stack, 1)
        rate = run.epoch(300)
    each = 1.15 * len(run.todo) * len(run.bundle.train) / rate
    epochs = int(min(args.epochs, (deadline - time.monotonic() - 15) / each))
    if epochs < 1:
        raise SystemExit(f"an epoch takes {each:.1f} s: not one fits")
    print(f"{rate:,.0f} images/s; {epochs} of {args.epochs} epochs, about {epochs * each:.0f} s", flush=True)
    curves: list[dict[str, object]] = []
    with ExitStack() as stack:
        run.begin(stack, epochs)
        for number in range(1, epochs + 1):
            speed = run.epoch()
            last = number == epochs or time.monotonic() > deadline - 15
            losses = {
                job.name: training.history.losses[-1] for job, training in zip(run.todo, run.trainings, strict=True)
            }
            curves.append({"epoch": number, "losses": losses, "images_per_second": speed})
            if number % JUDGED == 0 or last:
                curves[-1]["validation_accuracy"] = run.judged()
                print(json.dumps(curves[-1]), flush=True)
            if number % WRITTEN == 0 or last:
                mode = {
                    job.name: t.plan.mode.record().model_dump() for job, t in zip(run.todo, run.trainings, strict=True)
                }
                run.write({"epochs": epochs, "done": number, "batch": BATCH, "modes": mode, "curves": curves})
            if last:
                break


if __name__ == "__main__":
    main()
