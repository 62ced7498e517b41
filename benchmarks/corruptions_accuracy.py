"""Does our CIFAR-10-C mean the same to a network? Accuracy under our corruptions against the reference's.

    python benchmarks/corruptions_accuracy.py [--frost imagecorruptions]

Runs the third-party ResNet-20 (exported to ONNX) under onnxruntime on the first 2,000 test images, all 75 cells, and
compares with `reference_accuracy.json` (the reference generator, the same images, other random numbers). Gates: 3 pp
for each cell, 1.5 pp for each corruption's five-severity mean, 0.4 pp for mPC; procedural frost: 2 pp for its mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgesafe import corruptions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def export_resnet20(weights: Path, out: Path) -> Path:
    """The third-party ResNet-20 as ONNX: uint8 NHWC in, logits out."""
    from edgesafe.deploy.export import export_onnx
    from edgesafe.models import build, load_weights

    model = build("resnet20", 10, {})
    load_weights(model, weights)
    out.write_bytes(export_onnx(model.eval(), input_shape=(32, 32, 3), mean=MEAN, std=STD))
    return out


def session(model: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def accuracy(run, images, labels, batch=100):
    hits = 0
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        hits += int((run.run(None, {"image": images[part]})[0].argmax(1) == labels[part]).sum())
    return hits / len(images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar10.npz"), help="npz with x_test, y_test")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="weights and reference accuracies")
    parser.add_argument("--model", type=Path, help="the ResNet-20 as ONNX; default: export it (needs torch)")
    parser.add_argument("--frost", default=None, help='directory of photographs, or "imagecorruptions"')
    parser.add_argument("--only", nargs="*", default=list(corruptions.NAMES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="average over these")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    known = json.loads((args.shared / "reference_accuracy.json").read_text())["resnet20"]
    n = known["n"]
    with np.load(args.cifar) as data:
        images, labels = np.ascontiguousarray(data["x_test"][:n]), data["y_test"][:n].astype(np.int64).ravel()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or export_resnet20(args.shared / "resnet20-12fca82f.th", Path(folder) / "resnet20.onnx")
        run = session(model)
    indices = np.arange(n)
    clean = accuracy(run, images, labels)
    print(f"clean {clean:.4f} (reference {known['clean']['acc']:.4f}), n = {n}, seeds {args.seeds}")
    cells, generating, inferring, failed = {}, 0.0, 0.0, []
    for name in args.only:
        rows = []
        for seed in args.seeds:
            source = corruptions.open_source(images, labels, corruptions=[name], seed=seed, frost_dir=args.frost)
            row = []
            for severity in range(1, 6):
                start = time.process_time()
                corrupted = source.cell(name, severity, indices)
                middle = time.process_time()
                row.append(accuracy(run, corrupted, labels))
                generating, inferring = generating + middle - start, inferring + time.process_time() - middle
            rows.append(row)
        ours, theirs = np.mean(rows, axis=0), np.array(known["acc"][name])
        delta = (ours - theirs) * 100
        cells[name] = ours.tolist()
        limit = 2.0 if name == "frost" and args.frost is None else 1.5
        per_cell = 3.0 if limit == 1.5 else np.inf
        bad = abs(delta.mean()) > limit or np.abs(delta).max() > per_cell
        failed += [name] if bad else []
        shown = " ".join(f"{d:+6.2f}" for d in delta)
        note = "  OUT" if bad else ""
        print(f"{name:18s} {ours.mean() * 100:6.2f} %  delta pp {shown}  mean {delta.mean():+5.2f}{note}")
    if list(args.only) == list(corruptions.NAMES):
        mpc = float(np.mean(list(cells.values())))
        reference = float(np.mean([known["acc"][name] for name in corruptions.NAMES]))
        bad = abs(mpc - reference) > 0.004
        failed += ["mPC"] if bad else []
        print(f"mPC {mpc * 100:.2f} % (reference {reference * 100:.2f}), delta {(mpc - reference) * 100:+.2f} pp")
    print(f"CPU seconds: generating {generating:.1f}, inferring {inferring:.1f} ({generating / inferring:.1%})")
    if args.json:
        args.json.write_text(json.dumps({"clean": clean, "n": n, "acc": cells, "seeds": args.seeds}, indent=1))
    print("out of bounds: " + ", ".join(failed) if failed else "all within bounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
