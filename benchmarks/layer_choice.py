"""Would an int8 file be faster if some of its convolutions stayed in float32? Each left out in turn, and the best together.

    python benchmarks/layer_choice.py FP32.onnx --data data --files /tmp/choice          (makes the files)
    python benchmarks/layer_choice.py FP32.onnx --data data --files /tmp/choice --time   (times them; a quiet machine)

Every file with one convolution in float32 is timed in turns with the int8 file as edgesafe writes it (one thread, batch
1, intervals over sessions); then a file with all those in float32 whose whole interval is below 1, in a run of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np

from edgesafe import data
from edgesafe.deploy import int8
from edgesafe.deploy.graph import parse
from edgesafe.measure.inference import latency
from edgesafe.recipe.sections import DataSection


def convolutions(content: bytes) -> list[str]:
    """Names of the convolutions, in the order of the graph."""
    return [node.name for node in parse(content).graph.node if node.op_type == "Conv"]


def without(content: bytes, images: np.ndarray, names: list[str]) -> bytes:
    """The int8 file with these convolutions in float32, beside those layers that always are."""
    small = int8._small(parse(content))
    with (
        patch.object(int8, "_small", lambda _: [*small, *names]),
        patch.object(int8, "integer_convolutions", lambda _: (1, 1)),
    ):
        return int8.quantise(content, images).onnx


def compare(one: Path, other: Path, runs: int) -> tuple[float, float, float]:
    """Latency of one file over the other's, with its interval."""
    size = parse(one.read_bytes()).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    samples = latency.interleaved({"one": one, "other": other}, image=image, runs=runs)
    ratio = latency.summarise(samples["one"], samples["other"])["latency.ratio"]
    return ratio.estimate, ratio.low or 0.0, ratio.high or 0.0


def shown(found: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--runs", type=int, default=1024)
    arguments = parser.parse_args()
    content = arguments.file.read_bytes()
    arguments.files.mkdir(parents=True, exist_ok=True)
    images = data.load(DataSection(name="cifar10", root=str(arguments.data))).train.images[:64]
    names = convolutions(content)
    plain = arguments.files / "int8.onnx"
    paths = {name: arguments.files / f"without-{k:02}.onnx" for k, name in enumerate(names)}
    if not arguments.time:
        plain.write_bytes(int8.quantise(content, images).onnx)
        for name, path in paths.items():
            path.write_bytes(without(content, images, [name]))
        return
    print(f"int8 against itself: {shown(compare(plain, plain, arguments.runs))}", flush=True)
    faster = []
    for name, path in paths.items():
        found = compare(path, plain, arguments.runs)
        faster += [name] if found[2] < 1.0 else []
        print(f"{name:40} in float32: {shown(found)} of int8", flush=True)
    if not faster:
        print("none is surely faster in float32")
        return
    together = arguments.files / "together.onnx"
    together.write_bytes(without(content, images, faster))
    found = compare(together, plain, arguments.runs)
    print(f"{len(faster)} in float32 ({', '.join(faster)}): {shown(found)} of int8")


if __name__ == "__main__":
    main()
