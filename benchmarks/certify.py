"""What certificates say of several files, and what they cost: images run times the file's own time per image is 1.

    python benchmarks/certify.py --root data --set brightness=2 --images 10000 baseline=a.onnx int8=b.onnx

The first file is the baseline: it is run completely, the others stop as soon as violation and disagreement are known.
Prints one line of JSON per file and set as it is done; with --radius the certified accuracy against range, too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from edgesafe.certificates import summary
from edgesafe.certificates.certification import Work, certify_set
from edgesafe.certificates.enumeration import Images, SetPlan
from edgesafe.certificates.ids import parse
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.records import CertificateProvenance, Standing


class Nothing:
    """Keeps nothing."""

    def get(self, name):  # noqa: ARG002
        return None

    def put(self, name, data):
        pass


def own_seconds(file, pixels) -> float:
    """Processor seconds per image of the file alone, in batches of 64."""
    few = pixels[: min(len(pixels), 1024)]
    file.logits(few[:64], 64)
    start = time.process_time()
    file.logits(few, 64)
    return (time.process_time() - start) / len(few)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="ID")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="compare nothing: stop at the first violation")
    parser.add_argument("--radius", action="store_true")
    asked = parser.parse_args()
    with np.load(asked.root / "cifar10.npz") as data:
        pixels, labels = data["x_test"][: asked.images], data["y_test"][: asked.images].astype(np.int64)
    images = Images(pixels, labels, np.arange(len(labels)))
    for name in asked.sets:
        base = None
        for number, item in enumerate(asked.files):
            label, _, path = item.partition("=")
            file = OnnxClassifier(Path(path).read_bytes())
            origin = CertificateProvenance(onnx_sha256=file.sha256, test_sha256="", provider="CPU", runtime="")
            plan = SetPlan(parse(name), complete=not asked.alone and number == 0, baseline=base)
            before = own_seconds(file, pixels)
            cpu, wall = time.process_time(), time.monotonic()
            one = certify_set(Work(file, images, origin, Nothing(), lambda _: None, asked.workers), plan)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            own = (before + own_seconds(file, pixels)) / 2
            if number == 0 and not asked.alone:
                base = one
            standing = {s.name.lower(): int((one.standing == s).sum()) for s in Standing}
            row = {"set": name, "file": label, "n": len(one), **standing, "run": int(one.ran.sum())}
            row |= {"cpu_s": round(cpu, 1), "wall_s": round(wall, 1), "cpu_ratio": round(cpu / own / one.ran.sum(), 3)}
            if (one.agrees >= 0).all():
                row["agrees"] = int(one.agrees.sum())
            print(json.dumps(row), flush=True)
            if asked.radius and one.unit:
                places, share = summary.curve(one)
                print(json.dumps({"curve": [[round(float(a), 4), round(float(b), 4)] for a, b in zip(places, share, strict=True)]}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
