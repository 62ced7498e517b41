"""How often does the latency ratio of a file to a copy of itself have an interval that covers 1? Nominal: 95 of 100.

    python benchmarks/latency_itself.py MODEL.onnx OUT.jsonl [--times 100] [--runs 1024]

As a study measures it (stages.timing), once in each of 100 fresh processes, since where a process puts memory is a part
of what differs. Each line of OUT is one process; started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def once(model: Path, runs: int) -> None:
    """One measurement, in this process; its line on standard output."""
    import numpy as np
    import onnx

    from edgesafe.recipe.sections import TargetSection
    from edgesafe.stages.timing import Timing, timed

    shape = [side.dim_value for side in onnx.load(model).graph.input[0].type.tensor_type.shape.dim][1:]
    images = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(shutil.copy(model, Path(folder) / "twin.onnx"))
        found = timed(twin, model, images, Timing(TargetSection(), runs)).candidate
    ratio, time = found["latency.ratio"], found["latency.p50_ms"]
    print(json.dumps({"ratio": ratio.estimate, "lo": ratio.low, "hi": ratio.high, "p50_ms": time.estimate}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="without it: one measurement, printed")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--runs", type=int, default=1024)
    arguments = parser.parse_args()
    if arguments.out is None:
        once(arguments.model, arguments.runs)
        return
    lines = arguments.out.read_text().splitlines() if arguments.out.is_file() else []
    while len(lines) < arguments.times:
        command = [sys.executable, __file__, str(arguments.model), "--runs", str(arguments.runs)]
        lines.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        with arguments.out.open("a") as out:
            out.write(lines[-1] + "\n")
    found = [json.loads(line) for line in lines]
    covers = sum(one["lo"] <= 1.0 <= one["hi"] for one in found)
    half = sorted(100 * (one["hi"] - one["lo"]) / 2 for one in found)[len(found) // 2]
    middle = sorted(one["p50_ms"] for one in found)[len(found) // 2]
    print(f"{covers} of {len(found)} intervals cover 1; half width {half:.2f} % (median), {middle:.3f} ms")


if __name__ == "__main__":
    main()
