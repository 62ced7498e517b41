"""Images per second of a bare onnxruntime loop over batch sizes and threads, and of a clean cell as a study measures it.

    python benchmarks/batch_grid.py MODEL.onnx SIDE [--images 384] [--rounds 3]

MODEL.onnx is one of edgesafe's own (uint8 `image`, `logits`), for images of SIDE x SIDE pixels. The best of the rounds counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from edgesafe.measure.inference.robustness import collect_cell
from edgesafe.measure.inference.session import OnnxClassifier, open_session

BATCHES = (1, 4, 8, 16, 32, 64, 128)
STUDY = 32  # images of a batch, unless the recipe says otherwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("side", type=int)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    arguments = parser.parse_args()
    content, n = arguments.model.read_bytes(), arguments.images
    shape = (n, arguments.side, arguments.side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels, indices = np.zeros(n, np.int64), np.arange(n)
    for threads in arguments.threads:
        session, classifier = open_session(content, threads=threads), OnnxClassifier(content, threads=threads)
        bare, study = dict.fromkeys([b for b in BATCHES if b <= n], np.inf), np.inf
        for _ in range(arguments.rounds):
            for batch in bare:
                start = time.perf_counter()
                for row in range(0, n, batch):
                    session.run(["logits"], {"image": images[row : row + batch]})
                bare[batch] = min(bare[batch], time.perf_counter() - start)
            start = time.perf_counter()
            collect_cell(classifier, images, labels, indices, batch_size=STUDY)
            study = min(study, time.perf_counter() - start)
        rates = ", ".join(f"{batch}: {n / seconds:.1f}" for batch, seconds in bare.items())
        print(f"{threads} thread(s): bare {rates}; study {n / study:.1f}, {min(bare.values()) / study:.3f} of the best")


if __name__ == "__main__":
    main()
