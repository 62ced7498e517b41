"""Images per second of a bare onnxruntime loop over batch sizes and threads, and of a clean cell as a study measures it.

    python benchmarks/batch_grid.py MODEL SIDE [--images 384] [--rounds 3]

MODEL is one of edgesafe's own ONNX files (uint8 `image`, `logits`), or an architecture as a recipe names it (random weights,
10 classes), for images of SIDE x SIDE pixels. Batch sizes and the cell take turns, beginning with another one in each round,
the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgesafe.measure.inference.session import OnnxClassifier, open_session
from edgesafe.recipe.sections import EvaluateSection
from edgesafe.records import Target, Task
from edgesafe.stages import observe
from edgesafe.study.host import host

BATCHES = (1, 4, 8, 16, 32, 64, 128)
STUDY = EvaluateSection().batch_size


def file(model: str, side: int) -> bytes:
    """The ONNX file that lies there, or that of an architecture."""
    if Path(model).is_file():
        return Path(model).read_bytes()
    from edgesafe import models
    from edgesafe.deploy.export import export_onnx

    network = models.build(model, 10, {}).eval()
    return export_onnx(network, input_shape=(side, side, 3), mean=(0.5,) * 3, std=(0.5,) * 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("side", type=int)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    content, n = file(arguments.model, arguments.side), arguments.images
    shape = (n, arguments.side, arguments.side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    indices = np.arange(n)
    test: Any = SimpleNamespace(images=images, labels=np.zeros(n, np.int64), task=Task.classes(tuple("0123456789")))
    where = Target(name="here", threads=1, provider="CPUExecutionProvider")
    for threads in arguments.threads:
        bench = observe.Bench(test, None, {}, EvaluateSection(), "", where, host(), threads=threads)
        session, classifier = open_session(content, threads=threads), bench.open(content)

        def bare(batch: int, session: Any = session) -> None:
            for row in range(0, n, batch):
                session.run(["logits"], {"image": images[row : row + batch]})

        def study(_: int, bench: observe.Bench = bench, classifier: OnnxClassifier = classifier) -> None:
            observe.clean(classifier, bench, indices)

        turns = [*((bare, batch) for batch in BATCHES if batch <= n), (study, STUDY)]
        least = dict.fromkeys(turns, np.inf)
        for number in range(arguments.rounds):
            for turn in turns[number % len(turns) :] + turns[: number % len(turns)]:
                start = time.perf_counter()
                turn[0](turn[1])
                least[turn] = min(least[turn], time.perf_counter() - start)
        *loops, own = least.values()
        rates = ", ".join(f"{batch}: {n / least[of, batch]:.1f}" for of, batch in turns[:-1])
        same = least[bare, STUDY] / own
        print(
            f"{threads} thread(s): bare {rates}; study {n / own:.1f}, {min(loops) / own:.3f} of the best, {same:.3f} of "
            f"batch {STUDY}",
            flush=True,
        )


if __name__ == "__main__":
    main()
