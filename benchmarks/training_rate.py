"""How fast edgesafe trains, as a share of a bare PyTorch loop in the same process, step by step in turn.

    python benchmarks/training_rate.py [--arch resnet20 --arch vgg16] [--batch 64] [--rounds 8] [--threads 1]

The bare loop knows one batch: forward, loss, backward, SGD, in the same precision and layout; no order, no crops, no loss is
kept. On the CPU processor time is what counts, so that a machine that is shared tells the same ratio; images a second
are of one thread's processor time then. On a GPU both are CUDA graphs, and wall time counts.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from edgesafe import models
from edgesafe.recipe.sections import Arithmetic
from edgesafe.records import ImageSet
from edgesafe.train.augmentation import FitPlan, Normalisation
from edgesafe.train.loop import Training
from edgesafe.train.mode import Mode, bf16_on_cpu, placed

STEPS = 2  # of a turn


def bare(arch: str, mode: Mode, batch: int) -> Callable[[], None]:
    """A step as one writes it by hand."""
    torch.manual_seed(0)
    model = models.build(arch, 10).train().to(mode.device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, y = mode.lay(torch.randn(batch, 3, 32, 32, device=mode.device)), torch.arange(batch, device=mode.device) % 10
    forward = mode.compile(model)

    def step() -> None:
        with mode.autocast():
            loss = F.cross_entropy(forward(x), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    if not mode.cuda:
        return step
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    return graph.replay


def turn(step: Callable[[], None], mode: Mode) -> float:
    """Seconds of one turn."""
    clock = time.perf_counter if mode.cuda or torch.get_num_threads() > 1 else time.process_time
    start = clock()
    for _ in range(STEPS):
        step()
    if mode.cuda:
        torch.cuda.synchronize()
    return clock() - start


def compare(arch: str, mode: Mode, batch: int, rounds: int) -> tuple[float, float]:
    """Images a second of edgesafe and of the bare loop, from the medians of their turns."""
    n = batch * (rounds + 3) * STEPS
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10, "random")
    torch.manual_seed(0)
    model = models.build(arch, 10)
    plan = FitPlan(
        epochs=1, lr=0.01, milestones=(), gamma=0.1, momentum=0.9, weight_decay=1e-4, batch_size=batch, augment=True,
        flip=True, seed=0, mode=mode,
    )  # fmt: skip
    by_hand = bare(arch, mode, batch)
    with placed(model, mode):
        training = Training(model, images, Normalisation((0.5,) * 3, (0.25,) * 3), plan)
        with training.epoch():
            for step in (training.step, by_hand):  # libraries choose their kernels
                turn(step, mode)
            pairs = [(turn(training.step, mode), turn(by_hand, mode)) for _ in range(rounds)]
    ours, theirs = (STEPS * batch / median(times) for times in zip(*pairs, strict=True))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    first = Mode("cuda:0" if torch.cuda.is_available() else "cpu")
    bf16 = first.cuda or bf16_on_cpu()
    modes = [
        replace(first, precision=precision, channels_last=layout, compiled=compiled)
        for precision in ((Arithmetic.FP32, Arithmetic.BF16) if bf16 else (Arithmetic.FP32,))
        for layout in (True, False)
        for compiled in ((False, True) if args.compile else (False,))
    ]
    print("network        precision layout         kernels   edgesafe     bare   ratio   of fp32")
    for arch in args.arch or ["resnet20", "vgg16"]:
        base = 0.0
        for mode in modes:
            ours, theirs = compare(arch, mode, args.batch, args.rounds)
            base = base or ours
            layout, kernels = (
                ("channels last", "contiguous")[not mode.channels_last],
                ("eager", "compiled")[mode.compiled],
            )
            print(
                f"{arch:<14} {mode.precision.value:<9} {layout:<14} {kernels:<9} {ours:>8,.0f} {theirs:>8,.0f} "
                f"{ours / theirs:>7.3f} {ours / base:>9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
