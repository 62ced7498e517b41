"""Images per second of the evaluation stage against a bare loop over InferenceSession.run.

    python benchmarks/evaluation_overhead.py MODEL.onnx DATA.npz [--images 2000] [--rounds 7] [--corruptions]

DATA.npz holds x_test uint8 (n, H, W, C) and y_test. Both sides see the same pixels, batch size and threads, in one
process, alternating round by round. `stage` is what a study does with a cell: inference, float64 softmax, checks,
evidence; with --corruptions it also makes the pixels (each corruption at severity 3), which the bare loop gets free.
`statistics` is every metric and interval of a study of 75 such cells, per image, once per variant.
The target is a ratio of at least 0.95 (images per second, stage over bare; median of rounds).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from edgesafe import corruptions
from edgesafe.measure.evidence import to_bytes
from edgesafe.measure.summary import summarise
from edgesafe.recipe.sections import CORRUPTIONS, EvaluateSection
from edgesafe.records import Evidence, Provenance, Target, Task
from edgesafe.stages import observe
from edgesafe.study.host import host


def seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    function()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--corruptions", action="store_true")
    parser.add_argument(
        "--cpu-time", action="store_true", help="on a shared machine: CPU seconds instead of wall seconds"
    )
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    with np.load(args.data, allow_pickle=False) as data:
        images = np.ascontiguousarray(data["x_test"][: args.images])
        labels = data["y_test"].ravel()[: args.images].astype(np.int64)
    indices = np.arange(len(images))
    test: Any = SimpleNamespace(
        images=images, labels=labels, task=Task.classes(tuple(map(str, range(labels.max() + 1))))
    )
    source = corruptions.open_source(images, labels, corruptions="all")
    where = Target(name="here", threads=1, provider="CPUExecutionProvider")
    section = EvaluateSection(batch_size=args.batch)
    bench = observe.Bench(test, source, {}, section, "", where, host(), threads=args.threads)
    classifier = bench.open(args.model.read_bytes())
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    bare_session = ort.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])

    def bare(pixels: np.ndarray) -> None:
        for a in range(0, len(pixels), args.batch):
            bare_session.run(["logits"], {"image": pixels[a : a + args.batch]})

    def compare(name: str, stage: Callable[[], object], loop: Callable[[], object], count: int) -> float:
        stage(), loop()  # warm-up
        times = np.array([(seconds(stage, clock), seconds(loop, clock)) for _ in range(args.rounds)])
        rates = count / np.median(times, axis=0)
        ratio = float(np.median(times[:, 1] / times[:, 0]))
        print(f"{name}: stage {rates[0]:.0f} images/s, bare {rates[1]:.0f} images/s, ratio {ratio:.3f}", flush=True)
        return rates[1]

    rate = compare(
        "clean cell",
        lambda: observe.clean(classifier, bench, indices),
        lambda: bare(images),
        len(images),
    )
    if args.corruptions:
        wanted = {(name, 3): indices for name in CORRUPTIONS}
        ready = [source.cell(name, 3, indices) for name in CORRUPTIONS]
        compare(
            "15 corrupted cells, made and measured",
            lambda: observe.corrupted(classifier, bench, wanted, lambda _: None),
            lambda: [bare(pixels) for pixels in ready],
            len(images) * len(CORRUPTIONS),
        )
    cell, logits = observe.clean(classifier, bench, indices)
    cells = (cell.index, cell.label, cell.prediction, cell.confidence, cell.nll, cell.margin)
    every = {(c, s): type(cell)(c, s, *cells) for c in CORRUPTIONS for s in range(1, 6)}
    evidence = Evidence(cell, logits, Provenance(test_sha256="t", onnx_sha256=classifier.sha256), every)
    spent = seconds(lambda: (to_bytes(evidence), summarise(evidence, population="benchmark")), clock)
    total = len(images) * 76
    share = spent / (total / rate + spent)
    print(
        f"statistics: {spent:.2f} s for {total:,} images of 76 cells: {100 * share:.1f} % of inference and statistics"
    )


if __name__ == "__main__":
    main()
