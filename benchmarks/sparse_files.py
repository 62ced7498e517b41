"""Unstructured sparsity as files: what each form takes on the device and in transport, what it costs to load and to run.

    python benchmarks/sparse_files.py WEIGHTS.th --data data --files /tmp/sparse           (makes the files)
    python benchmarks/sparse_files.py WEIGHTS.th --data data --files /tmp/sparse --time    (times them; a quiet machine)

Third-party CIFAR-10 ResNet-20, method weight at 50, 70 and 90 %, nothing fine-tuned. Forms: dense, ONNX's own sparse
tensors (COO, int64 indices as the standard demands), and edgesafe's self-inflating file, in fp32, fp16 and int8. Bytes as
they are, under gzip -9 and under zstd -19 (the command; left out where it is not installed). Equality: outputs of each
sparse file against the dense one of its precision, bit for bit, on 500 test images. With --time: the latency ratio to the
dense file of its precision (interval over sessions), the time to open it, and the peak memory of a process of its own.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from edgesafe import data, models
from edgesafe.deploy import fp16
from edgesafe.deploy.device.memory import peak_bytes
from edgesafe.deploy.export import export_onnx
from edgesafe.deploy.int8 import quantise
from edgesafe.deploy.sparse import inflate
from edgesafe.measure.inference import latency
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection, DataSection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (32, 32, 3)


def coo(dense: bytes) -> bytes:
    """The same file with every convolution's weight as a sparse tensor of the standard."""
    proto = onnx.load_model_from_string(dense)
    weights = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    for tensor in [one for one in proto.graph.initializer if one.name in weights]:
        values = numpy_helper.to_array(tensor)
        places = np.flatnonzero(values.view(np.uint32) if values.dtype == np.float32 else values)
        sparse = onnx.SparseTensorProto(dims=tensor.dims)
        sparse.values.CopyFrom(numpy_helper.from_array(values.ravel()[places], tensor.name))
        sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}_indices"))
        proto.graph.sparse_initializer.append(sparse)
        proto.graph.initializer.remove(tensor)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def made(arguments: argparse.Namespace) -> None:
    """Write every file and print the table of their sizes."""
    arguments.files.mkdir(parents=True, exist_ok=True)
    loaded = data.load(DataSection(name="cifar10", root=str(arguments.data), mean=MEAN, std=STD))
    model = models.build("resnet20", 10, {}).eval()
    models.load_weights(model, arguments.weights)
    images = loaded.test.images[:500]
    for ratio in arguments.ratios:
        pruned = prune(model, CompressSection(method="weight", ratios=(ratio,)), ratio, PruneContext(SHAPE)).model
        with torch.no_grad():
            fp32 = export_onnx(pruned, input_shape=SHAPE, mean=MEAN, std=STD)
        forms = {
            "fp32": fp32,
            "fp16": fp16.convert(fp32),
            "int8": quantise(fp32, loaded.train.images[: arguments.calibration]).onnx,
        }
        for precision, dense in forms.items():
            files = {"dense": dense, "inflating": inflate(dense)}
            if precision == "fp32":
                files["coo"] = coo(dense)
            wanted = OnnxClassifier(dense).logits(images)
            for form, content in files.items():
                name = f"{ratio:.0%}-{precision}-{form}"
                (arguments.files / f"{name}.onnx").write_bytes(content)
                same = np.array_equal(OnnxClassifier(content).logits(images), wanted)
                print(f"{name:22} {sizes(content)}  bit-equal: {same}", flush=True)


def sizes(content: bytes) -> str:
    """Bytes as they are, and for transport."""
    told = f"{len(content):9,}  gzip -9 {len(gzip.compress(content, 9, mtime=0)):9,}"
    if shutil.which("zstd"):
        done = subprocess.run(["zstd", "-19", "-c", "-q"], input=content, capture_output=True, check=True)
        told += f"  zstd -19 {len(done.stdout):9,}"
    return told


def timed(arguments: argparse.Namespace) -> None:
    """Latency ratio to the dense file, the time to open, and peak memory."""
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    for ratio in arguments.ratios:
        for precision in ("fp32", "fp16", "int8"):
            files = {
                form: path
                for form in ("dense", "inflating", "coo")
                if (path := arguments.files / f"{ratio:.0%}-{precision}-{form}.onnx").exists()
            }
            samples = latency.interleaved(files, image=image, runs=arguments.runs)
            for form, path in files.items():
                found = latency.summarise(samples[form], samples["dense"])["latency.ratio"]
                peak = peak_bytes(path, 1, "CPUExecutionProvider")
                shown = f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"
                print(
                    f"{ratio:.0%}-{precision}-{form:10} {shown} of dense  opens in {opening(path):5.1f} ms  "
                    f"peak {(peak or 0) / 1e6:.1f} MB", flush=True,
                )  # fmt: skip


def opening(path: Path) -> float:
    """Least of five times to open a file, ms."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        OnnxClassifier(path)
        found.append(1e3 * (time.perf_counter() - begin))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.5, 0.7, 0.9))
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--calibration", type=int, default=512, help="images that int8's ranges are read off")
    parser.add_argument("--runs", type=int, default=1024)
    arguments = parser.parse_args()
    (timed if arguments.time else made)(arguments)


if __name__ == "__main__":
    main()
