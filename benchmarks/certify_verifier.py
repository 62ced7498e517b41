"""The same images decided three ways: enumeration and the exact line (ours), and a public verifier, auto_LiRPA (bounds).

auto_LiRPA 0.3 needs torch below 1.13, so this runs twice, in two environments:

    python benchmarks/certify_verifier.py ours  --data cifar10.npz --images 20 --set brightness=2 model.onnx work.npz
    other-venv/bin/python benchmarks/certify_verifier.py bounds work.npz --methods IBP forward --pieces 1 16

The verifier gets what the line gets: the real-valued range, one parameter, pixels clipped to 0..255. Its range is cut into equal
pieces, which are a batch; an image is proven when every piece is. `ours` prints one line of JSON per set, `bounds` one per set,
method and number of pieces. Every bound is checked against the exact least margin of the line: a bound above it would be unsound.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np


def ours(asked: argparse.Namespace) -> None:
    """Certify the first right images by enumeration and along the line; keep file, images and least margins."""
    from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
    from edgesafe.certificates.ids import parse
    from edgesafe.certificates.line import least_margin, segment_of
    from edgesafe.certificates.operators import Network
    from edgesafe.measure.inference.session import OnnxClassifier
    from edgesafe.measure.tasks import rules_of
    from edgesafe.records import Standing, Task

    content = asked.model.read_bytes()
    file, network, rules = OnnxClassifier(content), Network(content), rules_of(Task())
    with np.load(asked.data) as data:
        pixels, labels = data["x_test"], data["y_test"].astype(np.int64)
    right = rules.margins(file.logits(pixels[:2000], 64), labels[:2000]) > 0
    rows = np.flatnonzero(right)[: asked.images]
    images = Images(pixels[rows], labels[rows], rows)
    kept = {"onnx": np.frombuffer(content, np.uint8), "pixels": images.pixels, "labels": images.labels}
    for name in asked.set:
        finite, segment = parse(name), segment_of(parse(name))
        start = time.process_time()
        found = enumerate_chunk(file, images, SetPlan(finite))
        enumerated = time.process_time() - start
        start = time.process_time()
        lines = [least_margin(network, segment, images.pixels[k], images.labels[k : k + 1], rules) for k in range(len(rows))]  # fmt: skip
        followed = time.process_time() - start
        margins = np.array([one.margin for one in lines])
        kept[f"margin {name}"] = margins
        kept[f"segment {name}"] = np.array([segment.pivot, *segment.start, *segment.stop])
        row = {
            "set": name, "n": len(rows), "enumeration_certified": int((found.standing == Standing.CERTIFIED).sum()),
            "enumeration_s": round(enumerated / len(rows), 4), "images_of_one": float(np.median(found.members)),
            "line_certified": int((margins > 0).sum()), "line_s": round(followed / len(rows), 3),
            "line_points": float(np.median([one.points for one in lines])),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
    np.savez(asked.work, **kept)


def network_of(content: bytes):
    """The file as a torch module of one parameter: (pieces, 1) -> logits (pieces, K); made of what auto_LiRPA bounds.

    `along` makes the pixels of a straight range; they are clipped, prepared as the file does it, and go through its operators.
    """
    import onnx
    import torch
    import torch.nn.functional as F
    from onnx import helper, numpy_helper
    from torch import nn

    graph = onnx.load_from_string(content).graph
    constants = {t.name: torch.tensor(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    constants |= {n.output[0]: torch.tensor(numpy_helper.to_array(n.attribute[0].t).copy())
                  for n in graph.node if n.op_type == "Constant"}  # fmt: skip
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    first = [node.op_type for node in nodes].index("Conv")

    def convolution(given, z, weight, bias=None):
        pads = given.get("pads", [0, 0, 0, 0])
        assert pads[:2] == pads[2:] and given.get("group", 1) == 1
        return F.conv2d(z, weight, bias, given["strides"], pads[:2])

    def mean(_, z, *__):
        return torch.flatten(z.mean(3, keepdim=True).mean(2, keepdim=True), 1)

    operators = {
        "Conv": convolution, "Relu": lambda _, z: F.relu(z), "Add": lambda _, a, b: a + b,
        "ReduceMean": mean, "GlobalAveragePool": mean, "Gemm": lambda _, z, w, b: F.linear(z, w, b),
        "Reshape": lambda _, z, *__: z, "Flatten": lambda _, z: z,  # what is pooled has two dimensions
    }  # fmt: skip

    def prepared(x):
        """What the file does to pixels (1, 3, 1, 1) before its first convolution, which is affine per channel."""
        for node in nodes[:first]:
            if node.op_type not in ("Transpose", "Cast"):
                x = {"Div": torch.div, "Sub": torch.sub}[node.op_type](x, constants[node.input[1]])
        return x.reshape(-1)

    class Net(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.shape = shape  # (H, W, C)
            self.along = nn.Linear(1, int(np.prod(shape)))
            shift = prepared(torch.zeros(1, 3, 1, 1))
            self.register_buffer("shift", shift)
            self.register_buffer("scale", torch.diag(prepared(torch.ones(1, 3, 1, 1)) - shift)[:, :, None, None])
            self.register_buffer("minus", -torch.eye(3)[:, :, None, None])
            self.register_buffer("top", torch.full((3,), 255.0))
            for k, tensor in enumerate(constants.values()):
                self.register_buffer(f"constant{k}", tensor)

        def forward(self, t):
            height, width, channels = self.shape
            x = F.relu(self.along(t).view(-1, channels, height, width))
            x = F.conv2d(F.relu(F.conv2d(x, self.minus, self.top)), self.minus, self.top)  # 255 - relu(255 - x)
            values = {name: getattr(self, f"constant{k}") for k, name in enumerate(constants)}
            values[nodes[first].input[0]] = F.conv2d(x, self.scale, self.shift)
            for node in nodes[first:]:
                given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                values[node.output[0]] = operators[node.op_type](given, *(values[name] for name in node.input))
            return values["logits"]

    return Net


def specification(pieces: int, classes: int, label: int):
    """Rows that take each other class from the label: (pieces, classes - 1, classes)."""
    import torch

    rows = -torch.eye(classes)[[k for k in range(classes) if k != label]]
    rows[:, label] = 1.0
    return rows.repeat(pieces, 1, 1)


def bounds(asked: argparse.Namespace) -> None:
    """Bounds of auto_LiRPA on the kept images."""
    import torch

    torch.set_num_threads(1)
    with np.load(asked.work) as kept:
        work = dict(kept)
    make = network_of(work["onnx"].tobytes())
    for name in [key.removeprefix("margin ") for key in work if key.startswith("margin ")]:
        exact = work[f"margin {name}"][: asked.images]
        for method in asked.methods:
            for pieces in asked.pieces:
                start = time.process_time()
                low = np.array(list(_lows(make, work, name, method, pieces, len(exact))))
                row = {
                    "set": name, "method": method, "pieces": pieces, "n": len(low), "proven": int((low > 0).sum()),
                    "s": round((time.process_time() - start) / len(low), 3),
                    "median_below_exact": round(float(np.median(exact - low)), 3),
                    "highest_above_exact": round(float((low - exact)[exact > 0].max()), 6),
                }  # fmt: skip
                print(json.dumps(row), flush=True)


def _lows(make, work, name, method, pieces, n):
    """The least bound over the pieces of each image's range."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    pivot, a0, b0, a1, b1 = work[f"segment {name}"].tolist()
    pixels = work["pixels"].astype(np.float32)
    edges = torch.linspace(0, 1, pieces + 1)
    centre = (edges[1:] + edges[:-1])[:, None] / 2
    box = BoundedTensor(centre, PerturbationLpNorm(norm=np.inf, eps=0.5 / pieces))
    net = make(pixels.shape[1:]).eval()
    model = BoundedModule(net, centre, bound_opts={"conv_mode": "patches"})
    own = {parameter.shape: parameter for parameter in model.parameters()}  # of `along`: a weight and a bias
    for k in range(n):
        flat = torch.tensor(pixels[k].transpose(2, 0, 1).reshape(-1))
        with torch.no_grad():
            for target in (net.along.weight, own[net.along.weight.shape]):
                target[:, 0] = (a1 - a0) * (flat - pivot) + (b1 - b0)
            for target in (net.along.bias, own[net.along.bias.shape]):
                target[:] = pivot + a0 * (flat - pivot) + b0
            logits = net(centre)
            assert torch.allclose(model(centre), logits, atol=1e-3)
            spec = specification(pieces, logits.shape[1], int(work["labels"][k]))
            low, _ = model.compute_bounds(x=(box,), C=spec, method=method, bound_upper=False)
        yield float(low.min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    first = verbs.add_parser("ours")
    first.add_argument("--data", type=Path, required=True, help="npz with x_test and y_test")
    first.add_argument("--images", type=int, default=20)
    first.add_argument("--set", action="append", required=True)
    first.add_argument("model", type=Path)
    first.add_argument("work", type=Path)
    first.set_defaults(run=ours)
    second = verbs.add_parser("bounds")
    second.add_argument("work", type=Path)
    second.add_argument("--methods", nargs="+", default=["IBP", "forward"])
    second.add_argument("--pieces", nargs="+", type=int, default=[1, 16])
    second.add_argument("--images", type=int, default=None)
    second.set_defaults(run=bounds)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
