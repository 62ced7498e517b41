"""How fast are the shipped files under onnxruntime, and under its peers on the same machine: OpenVINO and torch.compile?

    python benchmarks/peers.py WEIGHTS.th --data data --files /tmp/peers          (makes the files; minutes)
    python benchmarks/peers.py WEIGHTS.th --data data --files /tmp/peers --time   (times them; a quiet machine)

Third-party CIFAR-10 ResNet-20 (32 px) and ResNet-18 (224 px, random weights, speed only): as they are, and pruned by half
(filter, whole net, nothing fine-tuned); fp32, int8 as edgesafe writes it, and int8 plainly quantised (no grouped pixels).
Batch 1, one thread, eight sessions of each in turn, the runs interleaved; ratios to onnxruntime's fp32 file of the
unpruned network with intervals from what differs between sessions, as `edgesafe bench` gives them. torch.compile
(inductor) is one session: it compiles for seconds. OpenVINO is asked for float32 arithmetic where the file has it.
Needs openvino for its rows (pip install openvino) and a C++ compiler for torch.compile's; what is not there is said.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from edgesafe import data, models
from edgesafe.deploy.export import export_onnx
from edgesafe.deploy.int8 import quantise
from edgesafe.measure.inference import latency
from edgesafe.measure.inference.latency import WARMUP, LatencySamples
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection, DataSection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Call = Callable[[], Any]
NETS = {"resnet20": 32, "resnet18": 224}
FORMS = ("fp32", "int8", "int8-plain")


class Shipped(torch.nn.Module):
    """A network with what the exported file has in front of it: uint8 NHWC pixels, normalised."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255
        return self.model((x - self.mean) / self.std)


def networks(name: str, weights: Path, round_to: int) -> dict[str, torch.nn.Module]:
    """The network, and the same pruned by half."""
    torch.manual_seed(0)
    size = NETS[name]
    dense = models.build(name if size == 32 else f"torchvision:{name}", 10 if size == 32 else 1000, {}).eval()
    if size == 32:
        models.load_weights(dense, weights)
    section = CompressSection(method="filter", ratios=(0.5,), scope="all", rewrite=size == 32)
    pruned = prune(copy.deepcopy(dense), section, 0.5, PruneContext((size, size, 3), round_to=round_to)).model.eval()
    return {"dense": dense, "half": pruned}


def made(arguments: argparse.Namespace) -> None:
    """Write every file that is not there yet."""
    arguments.files.mkdir(parents=True, exist_ok=True)
    train = data.load(DataSection(name="cifar10", root=str(arguments.data), mean=MEAN, std=STD)).train.images[:256]
    for name, size in NETS.items():
        pixels = train if size == 32 else np.repeat(np.repeat(train[:32], 7, axis=1), 7, axis=2)
        nets = networks(name, arguments.weights, 8 if size == 32 else 16)
        if size == 32:
            nets |= {f"half-step{step}": networks(name, arguments.weights, step)["half"] for step in (16, 32)}
        for kind, model in nets.items():
            path = arguments.files / f"{name}-{kind}-fp32.onnx"
            if path.exists():
                continue
            content = export_onnx(model, input_shape=(size, size, 3), mean=MEAN, std=STD)
            for form, step in (("int8", 16), ("int8-plain", 1)):
                quantised = quantise(content, np.ascontiguousarray(pixels), step=step)
                path.with_name(f"{name}-{kind}-{form}.onnx").write_bytes(quantised.onnx)
            path.write_bytes(content)
            print(path, flush=True)


def onnxruntime_call(path: Path, image: NDArray[np.uint8]) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image})[0]


def openvino_call(path: Path, image: NDArray[np.uint8]) -> Call:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    model = openvino.Core().read_model(str(path))
    model.reshape(list(image.shape))
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: image}, share_inputs=True)[0]


def compiled_calls(arguments: argparse.Namespace, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Call]:
    """torch.compile of the same networks; fp32."""
    torch.set_num_threads(1)
    found: dict[str, Call] = {}
    for name in arguments.nets:
        for kind, model in networks(name, arguments.weights, 8 if NETS[name] == 32 else 16).items():
            network = torch.compile(Shipped(model).to(memory_format=torch.channels_last))
            pixels = torch.from_numpy(images[name])

            def call(network: Any = network, pixels: torch.Tensor = pixels) -> NDArray[np.float32]:
                with torch.inference_mode():
                    return network(pixels).numpy()

            call()
            found[f"{name} {kind} fp32 torch.compile"] = call
    return found


def jobs(arguments: argparse.Namespace, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Callable[[], Call]]:
    """What is timed, by name: opens a session of it."""
    found: dict[str, Callable[[], Call]] = {}
    openers = {"onnxruntime": onnxruntime_call}
    try:
        import openvino

        print(f"openvino {openvino.__version__}")
        openers["openvino"] = openvino_call
    except ImportError:
        print("no openvino: its rows are left out")
    for path in sorted(arguments.files.glob("*.onnx")):
        net, kind, form = path.stem.split("-", 1)[0], *_parts(path.stem)
        for engine, opener in openers.items():
            if "step" in kind and engine != "onnxruntime":
                continue
            found[f"{net} {kind} {form} {engine}"] = (
                lambda opener=opener, path=path, net=net: opener(path, images[net])
            )  # fmt: skip
    if not arguments.no_compile:
        try:
            compiled = compiled_calls(arguments, images)
        except Exception as error:  # noqa: BLE001 - a compiler that is not there fails in many ways
            print(f"no torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}")
        else:
            found |= {name: (lambda call=call: call) for name, call in compiled.items()}
    return found


def _parts(stem: str) -> tuple[str, str]:
    """Kind and form in the name of a file: "resnet20-half-step16-int8-plain"."""
    rest = stem.split("-", 1)[1]
    form = max((form for form in FORMS if rest.endswith(f"-{form}")), key=len)
    return rest.removesuffix(f"-{form}"), form


def timed(chosen: Mapping[str, Callable[[], Call]], runs: int, sessions: int = 8) -> dict[str, LatencySamples]:
    """Sessions of each, runs in turn: float64 (sessions, runs) ms of each name."""
    names, each = list(chosen), -(-runs // sessions)
    times = np.empty((len(names), sessions, each))
    for s in range(sessions):
        calls = {names[(s + j) % len(names)]: None for j in range(len(names))}
        opened = {name: chosen[name]() for name in calls}
        for i in range(-WARMUP, each):
            for j in range(len(names)):
                k = (i + j) % len(names)
                begin = time.perf_counter_ns()
                opened[names[k]]()
                if i >= 0:
                    times[k, s, i] = (time.perf_counter_ns() - begin) / 1e6
    return {name: LatencySamples(times[k], 1, name.rsplit(" ", 1)[1]) for k, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--runs", type=int, nargs=2, default=(1024, 128), help="of ResNet-20, of ResNet-18")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--only", nargs="+", default=["*"], help='patterns of rows: "half int8 *"')
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON, too")
    arguments = parser.parse_args()
    if not arguments.time:
        made(arguments)
        return
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8) for name, size in NETS.items()}
    every = jobs(arguments, images)
    rows = []
    for net, runs in zip(NETS, arguments.runs, strict=True):
        if net not in arguments.nets:
            continue
        named = [name for name in every if any(fnmatch(name, f"{net} {pattern}") for pattern in arguments.only)]
        chosen = {name: every[name] for name in dict.fromkeys([f"{net} dense fp32 onnxruntime", *named])}
        outputs = {name: opener()() for name, opener in chosen.items()}
        samples = timed(chosen, runs)
        base = samples[f"{net} dense fp32 onnxruntime"]
        for name, one in sorted(samples.items()):
            found = latency.summarise(one, base)
            ratio, least = found["latency.ratio"], found["latency.min_ms"].estimate
            form = name.rsplit(" ", 2)[1]
            reference = outputs.get(name.rsplit(" ", 1)[0] + " onnxruntime", outputs[name])
            apart = float(np.abs(outputs[name] - reference).max())
            rows.append(
                {"name": name, "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, "min_ms": least,
                 "p50_ms": found["latency.p50_ms"].estimate, "max_abs": apart, "form": form}
            )  # fmt: skip
            print(
                f"{name:40} {ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]  {1 / ratio.estimate:5.2f} times  "
                f"min {least:.3f} ms ({base.milliseconds.min() / least:.2f} times)  apart {apart:.1e}", flush=True,
            )  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
