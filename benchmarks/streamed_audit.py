"""Peak memory and rate of an audit of images that stay on disk, against a bare onnxruntime loop over the same file.

    python benchmarks/streamed_audit.py DIR --images 50000 --per-cell 20 200 1000 --severities 1 3 5 --whole brightness --killed

Makes DIR/x_test.npy (the digits' images, enlarged to 224 px by whole pixels and shifted, so that no two are alike) and a small
network, then runs `edgesafe evaluate` on all clean images in a process of its own, and reads VmHWM when it ends: once while all
images are hashed, then, with hashes kept, for each number of images a cell under --corruptions (all 15), and with all images
in one cell of --whole at severity 3. --killed runs the first of these numbers again, kills it (SIGKILL) when four parts (8,192 clean
images, or a corruption) are kept, goes on with it, and compares the digests. --statistics stores and summarises made-up evidence of as many
images in 76 cells, which is what a whole audit holds in memory beside the pixels. Each line is printed when it is known.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
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
from edgesafe.recipe.sections import CORRUPTIONS, DataSection

SIDE = 224
AUDIT = """
import sys
from pathlib import Path
from edgesafe.commands.evaluate import AuditRequest, evaluate
from edgesafe.progress import Lines
model, root, out, cache, *more = sys.argv[1:]
overrides = ("data.store=disk", "evaluate.latency=false", f"data.cache_dir='{cache}'", *more)
study = evaluate(AuditRequest(Path(model), None, "npy", root, overrides=overrides), Path(out), Lines(30.0))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(study.record.digest, peak)
"""


STATISTICS = """
import sys
import numpy as np
from edgesafe.measure.evidence import from_bytes, to_bytes
from edgesafe.measure.probabilities import cell_from_logits
from edgesafe.measure.summary import summarise
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import Evidence, Provenance
n, rng = int(sys.argv[1]), np.random.default_rng(0)
labels, indices = rng.integers(0, 10, n), np.arange(n)
logits = rng.normal(size=(n, 10)).astype(np.float32) + 3 * np.eye(10, dtype=np.float32)[labels]
cells = {(c, s): cell_from_logits(logits, labels, indices, c, s) for c in CORRUPTIONS for s in range(1, 6)}
seen = Evidence(cell_from_logits(logits, labels, indices), logits, Provenance(test_sha256="t", onnx_sha256="o"), cells)
stored = to_bytes(seen)
del seen, cells
summarise(from_bytes(stored), population="benchmark")
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(stored), peak)
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
    if path.is_file():
        return path
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
    """Images per second of a loop over a memory map, best of three, on all cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    images = np.load(folder / "x_test.npy", mmap_mode="r")
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for k in range(0, n, 32):
            session.run(["logits"], {"image": np.ascontiguousarray(images[k : k + 32])})
        best = max(best, n / (time.perf_counter() - start))
    return best


class Audits:
    """Audits of one network on one set of images, each in a process and a directory of its own."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model, self._folder = model, folder

    def _place(self, name: str) -> Path:
        return self._folder / re.sub("[^a-z0-9]+", "-", name)

    def statistics(self, n: int) -> None:
        """Evidence of 76 cells of n images, made up, stored, read and summarised in a process of its own."""
        start, command = time.perf_counter(), [sys.executable, "-c", STATISTICS, str(n)]
        stored, peak = map(int, subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split())
        print(
            f"evidence of 76 cells of {n} images: {stored / 1e6:.0f} MB stored, peak {peak / 1024:.0f} MiB, "
            f"{time.perf_counter() - start:.0f} s", flush=True,
        )  # fmt: skip

    def _start(self, name: str, more: tuple[str, ...]) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", AUDIT, str(self._model), str(self._folder), str(self._place(name))]
        command += [str(self._folder / "cache"), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, name: str, *more: str) -> str:
        """Run it, or go on with it, to its end; prints wall and processor seconds and peak memory; the digest."""
        shutil.rmtree(self._place(name), ignore_errors=True)
        return self.go_on(name, *more)

    def go_on(self, name: str, *more: str) -> str:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = self._start(name, more)
        told, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name}: exit {process.returncode}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        digest, peak = told.split()[-2:]
        print(
            f"{name}: {time.perf_counter() - start:.0f} s, {cpu:.0f} s of processor time, "
            f"peak {int(peak) / 1024:.0f} MiB", flush=True,
        )  # fmt: skip
        return digest

    def kill(self, name: str, parts: int, *more: str) -> None:
        """Run it until so many parts are kept, and kill it without a word."""
        shutil.rmtree(self._place(name), ignore_errors=True)
        process = self._start(name, more)
        while len(kept := list(self._place(name).rglob("evidence-*"))) < parts:
            if process.poll() is not None:
                raise SystemExit(f"{name} ended before it could be killed")
            time.sleep(0.2)
        process.kill()
        process.communicate()
        print(f"{name}: killed with {len(kept)} parts kept", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--per-cell", type=int, nargs="*", default=[20])
    parser.add_argument("--severities", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--corruptions", nargs="*", default=list(CORRUPTIONS))
    parser.add_argument("--whole", help="a corruption that all images are run under, at severity 3")
    parser.add_argument("--killed", action="store_true")
    parser.add_argument("--statistics", action="store_true")
    args = parser.parse_args()
    make(args.folder, args.images)
    model = network(args.folder)
    print(f"{args.images} images, {(args.folder / 'x_test.npy').stat().st_size / 1e9:.2f} GB", flush=True)
    audits = Audits(model, args.folder)
    if not (args.folder / "cache").exists():
        audits.run("clean, hashed for the first time", "evaluate.corruptions=none")
    if args.statistics:
        audits.statistics(args.images)
    digests = []
    for count in args.per_cell:
        sizes = (
            f"evaluate.corruptions={args.corruptions}", f"evaluate.severities={args.severities}", "evaluate.mode=quick",
            f"evaluate.images_per_cell={count}",
        )  # fmt: skip
        digests.append(audits.run(f"{len(args.corruptions)} corruptions, {count} images a cell", *sizes))
    if args.whole is not None:
        one = (f"evaluate.corruptions=['{args.whole}']", "evaluate.severities=[3]", "evaluate.mode=full")
        audits.run(f"{args.whole} 3, all images", *one)
    if args.killed:
        name = f"killed, {args.per_cell[0]} images a cell"
        sizes = (*sizes[:3], f"evaluate.images_per_cell={args.per_cell[0]}")
        audits.kill(name, 4, *sizes)
        equal = audits.go_on(name, *sizes) == digests[0]
        print(f"killed and gone on with: {'the same digest' if equal else 'ANOTHER DIGEST'}", flush=True)
    print(f"bare loop: {bare(model, args.folder, min(4000, args.images)):.0f} images/s")


if __name__ == "__main__":
    main()
