"""What making corrupted images costs beside the inference: a network's cells with the images made on the way, and made before.

    python benchmarks/corruptions_beside_inference.py [--arch torchvision:resnet18] [--side 224] [--images 8] [--rounds 8]

Both are what a study does with the 15 corruptions at severity 3 (`stages.observe.corrupted`: inference, softmax, checks,
evidence), from the same photographs (scikit-learn's, cut into pieces), with the same file, in turn; the order changes from round
to round. `before` has a source that holds the images already. Threads are those that measuring occupies (a study: all cores); each
makes its images and runs them. `a bare loop` is InferenceSession.run on the images made before, with as many threads of
onnxruntime's own. Random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from edgesafe import corruptions, models
from edgesafe.deploy.export import export_onnx
from edgesafe.measure.inference.session import OnnxClassifier, open_session
from edgesafe.recipe.sections import CORRUPTIONS, EvaluateSection
from edgesafe.records import Target, Task
from edgesafe.stages import observe
from edgesafe.study.host import host

SEVERITY = 3


def pieces(count: int, side: int) -> np.ndarray:
    """uint8 (count, side, side, 3): pieces of photographs at random places."""
    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    found = []
    for row in range(count):
        picture = photographs[row % len(photographs)]
        top, left = (int(rng.integers(0, size - side + 1)) for size in picture.shape[:2])
        found.append(picture[top : top + side, left : left + side])
    return np.stack(found)


class Held:
    """A source whose images are made already."""

    def __init__(self, source: Any, indices: np.ndarray) -> None:
        self._cells = {name: source.cell(name, SEVERITY, indices) for name in CORRUPTIONS}

    def cell(self, corruption: str, _severity: int, indices: np.ndarray) -> np.ndarray:
        return self._cells[corruption][indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="torchvision:resnet18")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    n, side = arguments.images, arguments.side
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = models.build(arguments.arch, 10, {}).eval()
    onnx = export_onnx(model, input_shape=(side, side, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    images, labels, indices = pieces(n, side), np.arange(n) % 10, np.arange(n)
    test: Any = SimpleNamespace(images=images, labels=labels, task=Task.classes(tuple("0123456789")))
    where = Target(name="here", threads=1, provider="CPUExecutionProvider")
    made = corruptions.open_source(images, labels, corruptions="all")
    held = Held(made, indices)
    wanted = {(name, SEVERITY): indices for name in CORRUPTIONS}
    count = n * len(CORRUPTIONS)

    def seconds(source: Any, threads: int, classifier: OnnxClassifier) -> float:
        bench = observe.Bench(test, source, wanted, EvaluateSection(), "", where, host(), threads=threads)
        start = time.perf_counter()
        observe.corrupted(classifier, bench, wanted, lambda _: None)
        return time.perf_counter() - start

    def bare(session: Any) -> float:
        start = time.perf_counter()
        for name in CORRUPTIONS:
            session.run(["logits"], {"image": held.cell(name, SEVERITY, indices)})
        return time.perf_counter() - start

    start = time.process_time()
    for name in CORRUPTIONS:
        made.cell(name, SEVERITY, indices)
    print(
        f"by themselves: {1000 * (time.process_time() - start) / count:.2f} ms of processor time an image", flush=True
    )
    for threads in arguments.threads:
        opened = observe.Bench(test, held, wanted, EvaluateSection(), "", where, host(), threads=threads).open(onnx)
        seconds(held, threads, opened)  # warm-up
        session, rows = open_session(onnx, threads=threads), []
        bare(session)
        for number in range(arguments.rounds):
            order = ((held, made), (made, held))[number % 2]
            pair = {source: seconds(source, threads, opened) for source in order}
            rows.append((pair[made], pair[held], bare(session)))
        times = np.array(rows) / count * 1000
        ratios = times[:, 0] / times[:, 1] - 1
        beside, before, loop = np.median(times, axis=0)
        print(
            f"{threads} thread(s): {beside:.1f} ms an image made on the way, {before:.1f} made before: "
            f"{np.median(ratios):+.1%} (median of {len(ratios)} rounds; {ratios.min():+.1%} to {ratios.max():+.1%}); "
            f"a bare loop {loop:.1f}: {np.median(times[:, 0] / times[:, 2]) - 1:+.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
