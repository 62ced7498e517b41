"""Peak memory and rate of an audit of images that stay on disk, against a bare onnxruntime loop over the same file.

    python benchmarks/streamed_audit.py DIR --images 50000

Makes DIR/x_test.npy (CIFAR-10's or the digits' images, enlarged to 224 px by whole pixels and shifted, so that no two are
alike) and a small network, then runs `edgesafe evaluate` in a process of its own and reads VmHWM when it ends.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from edgesafe import data
from edgesafe.deploy import export
from edgesafe.recipe.sections import DataSection

SIDE = 224
AUDIT = """
import sys
from pathlib import Path
from edgesafe.commands.evaluate import AuditRequest, evaluate
from edgesafe.progress import Lines
model, root, out, cache, *more = sys.argv[1:]
overrides = ("evaluate.latency=false", f"data.cache_dir='{cache}'", *more)
evaluate(AuditRequest(Path(model), None, "npy", root, overrides=overrides), Path(out), Lines(30.0))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make(folder: Path, n: int) -> None:
    """x_test.npy of n images, x_train.npy of 600; ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = data.load(DataSection(name="digits"))
    small, labels = bundle.train.images[:], bundle.train.labels
    for name, count in (("train", 600), ("test", n)):
        path = folder / f"x_{name}.npy"
        if path.is_file():
            continue
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIDE, SIDE, 3))
        for row in range(count):
            image = np.roll(small[row % len(small)], (row // 1000 % 5, row // 5000 % 5), (0, 1))
            images[row] = image.repeat(7, 0).repeat(7, 1)
            images[row, 0, 0] = row % 256, row // 256 % 256, 0
        images.flush()
        np.save(folder / f"y_{name}.npy", labels[np.arange(count) % len(small)])


def network(folder: Path) -> Path:
    """A network of strided convolutions, trained for a moment on the 600 training images."""
    path = folder / "model.onnx"
    x = torch.from_numpy(np.load(folder / "x_train.npy")[:600])
    y = torch.from_numpy(np.load(folder / "y_train.npy")[:600])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 7, 7), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(120):
        rows = torch.arange(step * 50, step * 50 + 50) % 600
        inputs = (x[rows].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        loss = nn.functional.cross_entropy(net(inputs), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path.write_bytes(export.export_onnx(net.eval(), input_shape=(SIDE, SIDE, 3), mean=(0.5,) * 3, std=(0.5,) * 3))
    return path


def bare(model: Path, folder: Path, n: int) -> float:
    """Images per second of a loop over a memory map, best of three, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(__import__("os").sched_getaffinity(0))
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    images = np.load(folder / "x_test.npy", mmap_mode="r")
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for k in range(0, n, 32):
            session.run(["logits"], {"image": np.ascontiguousarray(images[k : k + 32])})
        best = max(best, n / (time.perf_counter() - start))
    return best


def audit(model: Path, folder: Path, out: Path, *more: str) -> dict[str, float]:
    """Seconds and peak memory of one audit in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(model), str(folder), str(out), str(folder / "cache"), *more],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return {"seconds": round(time.perf_counter() - start, 1), "peak_mib": int(done.stdout.split()[-1]) // 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--per-cell", type=int, default=20)
    args = parser.parse_args()
    make(args.folder, args.images)
    model = network(args.folder)
    found: dict[str, object] = {"images": args.images, "bytes": (args.folder / "x_test.npy").stat().st_size}
    stamp = time.strftime("%H%M%S")
    for name, more in (
        ("clean, hashed for the first time", ("evaluate.corruptions=none",)),
        ("clean, hashes kept", ("evaluate.corruptions=none", "evaluate.batch_size=32")),
        ("15 corruptions, quick", ("evaluate.mode=quick", f"evaluate.images_per_cell={args.per_cell}")),
    ):
        out = args.folder / f"{re.sub('[^a-z0-9]+', '-', name)}-{stamp}"
        found[name] = audit(model, args.folder, out, *more)
        print(json.dumps(found), flush=True)
    found["bare loop, images/s"] = round(bare(model, args.folder, 4000), 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
