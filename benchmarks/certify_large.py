"""Certifying at 224 x 224: images per second of a ResNet-18 on one thread, and what each set then takes for one image.

    python benchmarks/certify_large.py --images 48

The weights are random: time does not depend on them. The network is exported by edgesafe. Then two sets are really run, so that
what the rate foretells can be compared with what it took. Prints lines of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import torch

from edgesafe import models
from edgesafe.certificates.certification import Work, certify_set
from edgesafe.certificates.enumeration import Images, SetPlan
from edgesafe.certificates.ids import EXAMPLES, parse
from edgesafe.deploy import export
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.records import CertificateProvenance, Standing

SHAPE = (224, 224, 3)
RUN = ("brightness=2", "shift=1")


class Nothing:
    """Keeps nothing."""

    def get(self, name):  # noqa: ARG002
        return None

    def put(self, name, data):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48, help="of the rate")
    parser.add_argument("--certified", type=int, default=4, help="images certified in earnest")
    asked = parser.parse_args()
    torch.manual_seed(0)
    net = models.build("torchvision:resnet18", 1000, {}).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    file = OnnxClassifier(export.export_onnx(net, input_shape=SHAPE, mean=mean, std=std, opset=18))
    pixels = np.random.default_rng(0).integers(0, 256, (asked.images, *SHAPE), dtype=np.uint8)
    file.logits(pixels[:8], 16)
    start, cpu = time.monotonic(), time.process_time()
    logits = file.logits(pixels, 16)
    wall, cpu = time.monotonic() - start, time.process_time() - cpu
    rate = len(pixels) / wall
    print(json.dumps({"images_per_s": round(rate, 2), "cpu_share": round(cpu / wall, 3)}), flush=True)
    for name in (*EXAMPLES, "brightness=25", "contrast=20%"):
        size = parse(name).size(SHAPE)
        print(json.dumps({"set": name, "images": size, "s": round(size / rate, 1)}), flush=True)
    labels = logits.argmax(axis=1).astype(np.int64)[: asked.certified]
    images = Images(pixels[: asked.certified], labels, np.arange(asked.certified))
    origin = CertificateProvenance(onnx_sha256=file.sha256, test_sha256="", provider="CPU", runtime="")
    for name in RUN:
        start = time.monotonic()
        found = certify_set(
            Work(file, images, origin, Nothing(), lambda _: None, 1), SetPlan(parse(name), complete=True, batch_size=16)
        )
        took = time.monotonic() - start
        row = {
            "set": name, "n": len(found), "run": int(found.ran.sum()), "s": round(took, 2),
            "of_the_rate": round(took * rate / found.ran.sum(), 3),
            "certified": int((found.standing == Standing.CERTIFIED).sum()),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
