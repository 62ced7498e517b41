"""What certificates say of several files, and what they cost: images run times the file's own time per image is 1.

    python benchmarks/certify.py --root data --set brightness=2 --images 10000 baseline=a.onnx int8=b.onnx

The first file is the baseline: it is run completely, the others stop as soon as violation and disagreement are known.
Prints one line of JSON per file and set as it is done: counts, Wilson intervals, paired differences to the baseline with the
p-value of McNemar's exact test, and the costs (of what was run here, not of what --keep had); with --radius the certified
accuracy against range, too. --keep goes on where an earlier run was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from edgesafe.certificates import summary
from edgesafe.certificates.certification import Work, certify_set
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.ids import parse
from edgesafe.files import atomic_write
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import paired_difference, wilson
from edgesafe.records import CertificateProvenance, SetCertificates, Standing


class Folder:
    """Keeps finished parts of one file in a folder; without a folder, nothing."""

    def __init__(self, root: Path | None, key: str) -> None:
        self.root, self.key, self.found = root, key, False

    def _path(self, name: str) -> Path | None:
        return None if self.root is None else self.root / f"{self.key}-{name}.npz"

    def get(self, name: str) -> bytes | None:
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        self.found = True
        return path.read_bytes()

    def put(self, name: str, data: bytes) -> None:
        if (path := self._path(name)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, data)


def own_seconds(file, pixels) -> float:
    """Processor seconds per image of the file alone, in batches of 64."""
    few = pixels[: min(len(pixels), 1024)]
    file.logits(few[:64], 64)
    start = time.process_time()
    file.logits(few, 64)
    return (time.process_time() - start) / len(few)


def differences(one: SetCertificates, base: SetCertificates) -> dict[str, list[float]]:
    """Per share: candidate minus baseline, its interval, and the p-value of McNemar's exact test."""
    shares = {
        "right": lambda part: part.standing != Standing.WRONG,
        "certified": lambda part: part.standing == Standing.CERTIFIED,
        "falsified": lambda part: part.standing == Standing.FALSIFIED,
    }
    found = {}
    for name, share in shares.items():
        a, b = share(one), share(base)
        interval = paired_difference(a, b, kind="rate")
        more, less = int((a & ~b).sum()), int((b & ~a).sum())
        p = binomtest(more, more + less).pvalue if more + less else 1.0
        found[name] = [*(round(v, 5) for v in (interval.estimate, interval.low, interval.high)), float(f"{p:.2g}")]
    return found


def bounds(hits: int, n: int) -> list[float]:
    """Wilson's interval of a share."""
    interval = wilson(hits, n)
    return [round(interval.low, 5), round(interval.high, 5)]


def scaling(file: OnnxClassifier, images: Images, plan: SetPlan) -> dict[str, float]:
    """How many times as fast two threads are as one: enumerating two halves, and running the bare file on them, in turn."""
    halves = [images.part(slice(k * len(images) // 2, (k + 1) * len(images) // 2)) for k in (0, 1)]
    works = {
        "enumeration": lambda half: enumerate_chunk(file, half, plan),
        "bare": lambda half: [file.logits(half.pixels, 64) for _ in range(3)],
    }
    found = {}
    for number in (1, 2):
        for name, work in works.items():
            start = time.monotonic()
            for half in halves:
                work(half)
            alone, start = time.monotonic() - start, time.monotonic()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(work, halves))
            found[f"{name} {number}"] = round(alone / (time.monotonic() - start), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="ID")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="compare nothing: stop at the first violation")
    parser.add_argument("--radius", action="store_true")
    parser.add_argument("--extremes-first", action="store_true", help="not by rising range: no radius, sooner done")
    parser.add_argument("--scaling", action="store_true", help="two threads against one, and nothing else")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    asked = parser.parse_args()
    with np.load(asked.root / "cifar10.npz") as data:
        pixels, labels = data["x_test"][: asked.images], data["y_test"][: asked.images].astype(np.int64)
    images = Images(pixels, labels, np.arange(len(labels)))
    for name in asked.sets:
        base, beside = None, ""
        for number, item in enumerate(asked.files):
            label, _, path = item.partition("=")
            file = OnnxClassifier(Path(path).read_bytes())
            origin = CertificateProvenance(onnx_sha256=file.sha256, test_sha256="", provider="CPU", runtime="")
            if asked.scaling:
                print(
                    json.dumps({"set": name, "file": label, **scaling(file, images, SetPlan(parse(name)))}), flush=True
                )
                continue
            complete = not asked.alone and number == 0
            plan = SetPlan(parse(name), outwards=not asked.extremes_first, complete=complete, baseline=base)
            key = f"{file.sha256[7:15]}-{beside}-{len(images)}-{plan.outwards}-{complete}"
            keeper = Folder(asked.keep, key)
            before = own_seconds(file, pixels)
            cpu, wall = time.process_time(), time.monotonic()
            one = certify_set(Work(file, images, origin, keeper, lambda _: None, asked.workers), plan)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            own = (before + own_seconds(file, pixels)) / 2
            if number == 0 and not asked.alone:
                base, beside = one, file.sha256[7:15]
            standing = {s.name.lower(): int((one.standing == s).sum()) for s in Standing}
            row = {"set": name, "file": label, "n": len(one), **standing, "run": int(one.ran.sum())}
            row["certified_interval"] = bounds(standing["certified"], len(one))
            if not keeper.found:
                row |= {
                    "cpu_s": round(cpu, 1),
                    "wall_s": round(wall, 1),
                    "cpu_ratio": round(cpu / own / one.ran.sum(), 3),
                }
            if base is not None and one is not base:
                row |= {"agrees": int(one.agrees.sum()), "agrees_interval": bounds(int(one.agrees.sum()), len(one))}
                row["differences"] = differences(one, base)
            print(json.dumps(row), flush=True)
            if asked.radius and one.unit:
                places, share = summary.curve(one)
                print(json.dumps({"curve": [[round(float(a), 4), round(float(b), 4)] for a, b in zip(places, share, strict=True)]}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
