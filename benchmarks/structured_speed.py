"""Does a structured surgery pay in time? Latency ratio against MACs ratio, under onnxruntime, 1 thread, batch 1.

    python benchmarks/structured_speed.py [--weights resnet20.th] [--runs 256]

ResNet-18 and VGG-16-BN (224 px, random weights) at 50 and 70 %, all layers, round_to 8; and, with --weights (the
third-party ResNet-20), its rewritten network at 50 %, all layers. "efficiency" = speed-up over MACs reduction.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgesafe import models
from edgesafe.deploy.export import export_onnx
from edgesafe.measure.inference import latency
from edgesafe.models.rewrite import option_a_to_conv
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(dense: torch.nn.Module, ratio: float, size: int, runs: int, **section: object) -> dict[str, float]:
    shape = (size, size, 3)
    outcome = prune(
        dense, CompressSection(method="filter", ratios=(ratio,), scope="all", **section), ratio, PruneContext(shape)
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, model in (("dense", dense), ("pruned", outcome.model)):
            files[name] = Path(folder) / f"{name}.onnx"
            files[name].write_bytes(export_onnx(model, input_shape=shape, mean=MEAN, std=STD))
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        samples = latency.interleaved(files, image=image, threads=1, runs=runs)
    found = latency.summarise(samples["pruned"], samples["dense"])["latency.ratio"]
    fewer = outcome.record.macs_before / outcome.record.macs_after
    faster = 1 / found.estimate
    return {
        "macs": fewer,
        "speed": faster,
        "low": 1 / (found.high or 1),
        "high": 1 / (found.low or 1),
        "efficiency": faster / fewer,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--runs", type=int, default=256)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print("net                 ratio  MACs fewer  faster (95 %)          efficiency", flush=True)
    jobs = [(f"torchvision:{n}", r, 224, {"round_to": 8}) for n in ("resnet18", "vgg16_bn") for r in (0.5, 0.7)]
    if arguments.weights:
        jobs.insert(0, ("resnet20", 0.5, 32, {"rewrite": True}))
    for arch, ratio, size, options in jobs:
        model = models.build(arch, 10 if size == 32 else 1000, {}).eval()
        if arch == "resnet20":
            models.load_weights(model, arguments.weights)
            same = copy.deepcopy(model)
            option_a_to_conv(same, (32, 32, 3))
            x = torch.randn(64, 3, 32, 32)
            with torch.no_grad():
                print("resnet20 rewritten, unpruned: output bit-equal:", torch.equal(model(x), same(x)), flush=True)
        r = measure(model, ratio, size, arguments.runs, **options)
        print(
            f"{arch.removeprefix('torchvision:'):18}  {ratio:.0%}    {r['macs']:8.2f}x  {r['speed']:6.2f}x "
            f"({r['low']:.2f}-{r['high']:.2f})  {r['efficiency']:10.2f}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
