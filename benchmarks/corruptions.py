"""Speed of the corruptions: ours, a plain per-image port of the reference, and imagecorruptions, in one run.

    OMP_NUM_THREADS=1 python benchmarks/corruptions.py [--json reports/benchmarks/corruptions.json]
    OMP_NUM_THREADS=1 python benchmarks/corruptions.py --side 224

One thread, CPU seconds (not wall time). Needs scikit-image, SciPy and OpenCV; imagecorruptions (PyPI) is timed as far
as its functions run. It has ImageNet's severities only, so at 32 px it does other, stronger work than CIFAR-10-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image
from reference_port import Port

from edgesafe import corruptions

FULL = 10_000  #: images of a CIFAR-10-C severity
LIMITS = {"total_s": 40.0, "ratio": 30.0, "images_per_s": 10_000, "memory_mb": 500}
LARGE_RATIO = {"glass_blur": 10.0, "zoom_blur": 10.0, "frost": 10.0}


def load(path: Path, side: int, n: int):
    if path.is_file():
        with np.load(path) as data:
            images = data["x_test"][:n]
    else:  # speed hardly depends on the picture; say so where there is none
        print(f"{path} is absent: timing synthetic images", file=sys.stderr)
        grid = np.linspace(0, 4, 32)
        wave = np.sin(grid[:, None] + np.arange(n)[:, None, None]) * np.cos(grid * 2)
        images = np.stack([127 + 100 * wave, 127 - 90 * wave, 127 + 60 * wave**2], -1).astype(np.uint8)
    if side != 32:
        images = np.stack(
            [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC)) for i in images]
        )
    return np.ascontiguousarray(images)


def cpu(action) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def time_ours(images, name, frost):
    """CPU seconds of one severity each, tables included (the first call builds them)."""
    where = np.arange(len(images))
    return [cpu(lambda s=s: corruptions.corrupt(images, where, name, s, frost=frost)) for s in range(1, 6)]


def time_each(function, images):
    """CPU seconds of `function(image, severity)` for each severity, or the error that it raised."""
    rows = []
    for severity in range(1, 6):
        try:
            rows.append(cpu(lambda s=severity: [function(image, s) for image in images]))
        except Exception as error:  # noqa: BLE001 - other people's code: whatever it raises is the finding
            return f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return rows


def imagecorruptions_function():
    """`corrupt` of imagecorruptions, and what had to be supplied for the import to work."""
    if importlib.util.find_spec("imagecorruptions") is None:
        return None, "not installed"
    note = ""
    if importlib.util.find_spec("pkg_resources") is None:
        shim = types.ModuleType("pkg_resources")
        found = importlib.util.find_spec("imagecorruptions")
        shim.resource_filename = lambda _, name: str(Path(found.submodule_search_locations[0]) / name)
        sys.modules["pkg_resources"] = shim
        note = "its import fails without setuptools' removed pkg_resources, which was supplied"
    try:
        import imagecorruptions
    except Exception as error:  # noqa: BLE001 - as above
        return None, f"import fails: {type(error).__name__}: {error}"
    return imagecorruptions.corrupt, note


def peak_memory_mb(file: Path, name: str) -> float:
    """Resident memory that corrupting a file's images adds at its peak, result included, in a fresh process."""
    code = (
        "import re, sys; import numpy as np; from edgesafe.corruptions import corrupt;"
        "read = lambda key: int(re.search(key + r':\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024;"
        "x = np.load(sys.argv[1]); i = np.arange(len(x)); before = read('VmRSS');"
        "corrupt(x, i, sys.argv[2], 5); print(read('VmHWM') - before)"
    )
    command = [sys.executable, "-c", code, str(file), name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(name, images, few, port, theirs, frost):
    """One row of the table."""
    n, large = len(images), images.shape[1] == 224
    ours = min((time_ours(images, name, frost) for _ in range(2 if large else 1)), key=sum)
    plain = time_each(lambda image, severity: port(image, name, severity), images[:few])
    other = time_each(lambda image, severity: theirs(image, severity, name), images[:few]) if theirs else "-"
    speed = 5 * n / sum(ours)
    row = {"images_per_s": speed, "worst_severity_per_s": n / max(ours), "s_per_50000": sum(ours) * FULL / n}
    if not isinstance(plain, str):
        row |= {"port_per_s": 5 * few / sum(plain), "port_s_per_50000": sum(plain) * FULL / few}
        row["ratio"] = speed / row["port_per_s"]
    row["imagecorruptions"] = other if isinstance(other, str) else 5 * few / sum(other)
    if not large:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "images.npy"
            np.save(file, np.resize(images, (FULL, 32, 32, 3)))
            row["memory_mb"] = peak_memory_mb(file, name)
    return row


def show(name, row):
    other = row["imagecorruptions"]
    other = other if isinstance(other, str) else f"{other:.1f}"
    memory = f"{row['memory_mb']:.0f}" if "memory_mb" in row else "-"
    speeds = f"{row['images_per_s']:9.0f} {row.get('port_per_s', 0):9.1f} {row.get('ratio', 0):7.1f}"
    print(f"{name:18s} {speeds} {memory:>6s}  {other}", flush=True)


def misses(rows, total, large):
    """Names of the targets that were not met."""
    if large:
        return [
            f"{name} ratio" for name, least in LARGE_RATIO.items() if rows.get(name, {}).get("ratio", least) < least
        ]
    missed = [f"{name} speed" for name, row in rows.items() if row["images_per_s"] < LIMITS["images_per_s"]]
    missed += [f"{name} memory" for name, row in rows.items() if row["memory_mb"] > LIMITS["memory_mb"]]
    if total:
        missed += ["total"] if total["total_s"] > LIMITS["total_s"] else []
        missed += ["ratio"] if total["ratio"] < LIMITS["ratio"] else []
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar10.npz"), help="npz with x_test")
    parser.add_argument("--side", type=int, choices=(32, 224), default=32, help="image side in pixels")
    parser.add_argument("--images", type=int, help="images per severity for ours (default: 10000; 16 at 224)")
    parser.add_argument("--port-images", type=int, help="images per severity for the others (default: 64; 2 at 224)")
    parser.add_argument("--only", nargs="*", default=list(corruptions.NAMES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    side, large = args.side, args.side == 224
    n, few = args.images or (16 if large else FULL), args.port_images or (2 if large else 64)
    images = load(args.cifar, side, n)
    profile, photographs = corruptions.profile_for(side, side), corruptions.installed_photographs()
    if photographs is None:
        raise SystemExit("the port needs the frost photographs: pip install --no-deps imagecorruptions")
    frost = corruptions.FrostBank.from_directory(photographs, profile, side, side)
    port, (theirs, note) = Port(profile, side, photographs), imagecorruptions_function()
    print(f"{side} px, profile {profile}, {n} images x 5 severities (ours), {few} x 5 (others), one thread, CPU time")
    print(f"imagecorruptions: {note or 'as installed'}")
    print(f"{'':18s} {'ours/s':>9s} {'port/s':>9s} {'ratio':>7s} {'MB':>6s}  imagecorruptions/s")
    rows = {}
    for name in args.only:
        rows[name] = measure(name, images, few, port, theirs, frost)
        show(name, rows[name])
    total = {}
    if list(args.only) == list(corruptions.NAMES) and not large:
        total = {"total_s": sum(row["s_per_50000"] for row in rows.values())}
        total["port_total_s"] = sum(row["port_s_per_50000"] for row in rows.values())
        total["ratio"] = total["port_total_s"] / total["total_s"]
        seconds = f"{total['total_s']:.1f} CPU s, port {total['port_total_s']:.0f}"
        print(f"750,000 images: {seconds}, ratio {total['ratio']:.1f}")
    missed = misses(rows, total, large)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"side": side, "images": n, "rows": rows, **total}, indent=1) + "\n")
    print("missed: " + ", ".join(missed) if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
