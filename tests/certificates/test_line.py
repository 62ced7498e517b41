"""The exact line: dense grids under onnxruntime, closed forms, both precisions; a forgetful walk is caught."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from certificate_fixtures import ORIGIN
from onnx import TensorProto, helper, numpy_helper

from edgesafe.certificates import archive, operators
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.ids import parse
from edgesafe.certificates.line import Segment, Walk, certify_line, least_margin, segment_of
from edgesafe.certificates.operators import Network
from edgesafe.errors import RefusedError, UsageError
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.measure.tasks.classification import margins
from edgesafe.records import Certificates, Standing, Task

CONTRAST = Segment(127.5, (0.6, -20.0), (1.5, 35.0))


def model(nodes: list[Any], constants: dict[str, Any], side: int = 8) -> bytes:
    """A graph from `pixels` (n, 3, side, side), scaled to about 1, to `logits`."""
    first = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "top"], ["unit"]),
        helper.make_node("Sub", ["unit", "half"], ["pixels"]),
    ]
    values = {"top": np.float32(255.0), "half": np.float32(0.5), **constants}
    graph = helper.make_graph(
        [*first, *nodes],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def residual(seed: int, pool: str = "MaxPool") -> bytes:
    """Convolution, clip, pooling, a shortcut around two convolutions, mean, linear layer."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w0": weight(6, 3, 3, 3), "b0": weight(6), "w1": weight(6, 6, 3, 3), "w2": weight(6, 1, 3, 3),
        "low": np.float32(-0.2), "high": np.float32(0.4), "axes": np.array([2, 3]),
        "w3": 5 * weight(4, 6), "b3": weight(4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["pixels", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c0", "low", "high"], ["k0"]),
        helper.make_node(pool, ["k0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=6),
        helper.make_node("Add", ["c2", "p0"], ["sum"]),
        helper.make_node("LeakyRelu", ["sum"], ["r2"], alpha=0.1),
        helper.make_node("ReduceMean", ["r2", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "w3", "b3"], ["logits"], transB=1),
    ]
    return model(nodes, constants)


def floating(content: bytes) -> OnnxClassifier | Any:
    """The same file, taking float pixels: unquantised images under onnxruntime."""
    import onnxruntime as ort

    changed = onnx.load_from_string(content)
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])


def grid(content: bytes, segment: Segment, image: np.ndarray, label: int, steps: int = 10_001) -> float:
    pixels = np.clip(segment.images(image, np.linspace(0, 1, steps)), 0, 255).astype(np.float32)
    logits = floating(content).run(None, {"image": pixels})[0]
    return float(margins(logits, np.full(steps, label)).min())


def whole(network: Network, segment: Segment, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits at all points of one piece."""
    walk = Walk(np.array([0.0, 1.0]), 1 << 30)
    logits = network.run(walk, segment.images(image, walk.points))
    return logits, walk.points


IMAGES = np.random.default_rng(7).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def worst_gap(seeds: range, precise: bool = True) -> float:
    """The largest of: the line's least margin above the grid's (unsound), or below it by more than a grid's step."""
    gap = 0.0
    for seed in seeds:
        content = residual(seed, ("MaxPool", "AveragePool")[seed % 2])
        network = Network(content, precise=precise)
        logits, _ = whole(network, CONTRAST, IMAGES[seed])
        label = int(logits[0].argmax())
        exact = float(margins(logits.astype(np.float32), np.full(len(logits), label)).min())
        gap = max(gap, exact - grid(content, CONTRAST, IMAGES[seed], label), 0.0)
    return gap


def test_never_above_a_dense_grid_and_hardly_below_it() -> None:
    assert worst_gap(range(8)) < 1e-5
    for seed in range(4):
        content = residual(seed)
        logits, points = whole(Network(content, precise=True), CONTRAST, IMAGES[seed])
        dense = np.clip(CONTRAST.images(IMAGES[seed], points), 0, 255).astype(np.float32)
        assert np.abs(floating(content).run(None, {"image": dense})[0] - logits).max() < 1e-4  # at its own points
        middle = (points[1:] + points[:-1]) / 2  # linear in between
        between = np.clip(CONTRAST.images(IMAGES[seed], middle), 0, 255).astype(np.float32)
        there = floating(content).run(None, {"image": between})[0]
        assert np.abs(there - (logits[1:] + logits[:-1]) / 2).max() < 1e-4


@pytest.mark.parametrize("precise", [True, False])
def test_pieces_give_the_margin_of_the_whole(precise: bool) -> None:
    network = Network(residual(3), precise=precise)
    logits, points = whole(Network(residual(3), precise=True), CONTRAST, IMAGES[3])
    label = int(np.bincount(logits.argmax(1)).argmax())
    found = least_margin(network, CONTRAST, IMAGES[3], np.array([label]), rules_of(Task()))
    exact = float(margins(logits.astype(np.float32), np.full(len(logits), label)).min())
    if exact > 0:
        assert found.margin == pytest.approx(exact, abs=1e-4)
        assert found.points >= len(points)
    else:
        assert found.margin <= 1e-4


def test_break_points_of_one_layer_are_those_of_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(192, 20)).astype(np.float32)
    last = rng.normal(size=(20, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["hb"]),
        helper.make_node("Relu", ["hb"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["logits"]),
    ]
    image = np.clip(IMAGES[0], 60, 190)
    segment = Segment(127.5, (0.8, 0.0), (1.2, 10.0))  # nothing is clipped
    ends = segment.images(image, np.array([0.0, 1.0])).transpose(0, 3, 1, 2).reshape(2, -1) / 255.0 - 0.5
    shares = rng.uniform(0.1, 0.9, 20)[:, None]
    bias = -((1 - shares) * (ends[0] @ weight)[:, None] + shares * (ends[1] @ weight)[:, None])[:, 0].astype(np.float32)
    network = Network(model(nodes, {"w": weight, "b": bias, "v": last}), precise=True)
    _, points = whole(network, segment, image)
    before, after = ends @ weight.astype(np.float64) + bias
    zeros = before / (before - after)
    truth = np.sort(zeros[(zeros > 0) & (zeros < 1)])
    assert len(truth) == 20
    assert points == pytest.approx(np.concatenate([[0.0], truth, [1.0]]), abs=1e-6)


def _without_interpolation(patch: pytest.MonkeyPatch) -> None:
    from edgesafe.certificates import line

    real = line._between

    def between(values, left, weight):
        return values[left] if values.ndim == 4 and values.shape[2] == 4 else real(values, left, weight)

    patch.setattr(line, "_between", between)


def _without_clip_kinks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operators, "_clipped", lambda walk, name, low, high: np.clip(walk.tensors[name], low, high))


def _without_max_pool_kinks(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(operators._OPERATORS, "MaxPool", lambda s: operators._windows(s, -1e30).max((4, 5)))


def _without_one_pair_of_a_max_pool(patch: pytest.MonkeyPatch) -> None:
    """The last of a window's four places is not compared with the largest of the others."""
    real = operators._OPERATORS["MaxPool"]

    class Forgetful:
        def __init__(self, walk: Any) -> None:
            self.walk, self.tensors, self.left = walk, walk.tensors, 2

        def split(self, values: Any) -> None:
            if self.left:
                self.walk.split(values)
            self.left -= 1

    def pool(step: Any) -> Any:
        step.walk = Forgetful(step.walk)
        return real(step)

    patch.setitem(operators._OPERATORS, "MaxPool", pool)


@pytest.mark.parametrize(
    "mutation",
    [_without_interpolation, _without_clip_kinks, _without_max_pool_kinks, _without_one_pair_of_a_max_pool],
)
def test_a_walk_that_forgets_something_is_caught(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        test_never_above_a_dense_grid_and_hardly_below_it()


def test_an_unknown_operator_is_refused_by_its_node() -> None:
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["logits"], name="gate/7"),
    ]
    with pytest.raises(RefusedError, match=r"gate/7.*Sigmoid"):
        Network(model(nodes, {"w": np.ones((192, 4), np.float32)}))


def test_only_sets_of_one_straight_parameter_have_a_line() -> None:
    assert segment_of(parse("brightness=2")) == Segment(127.5, (1.0, -2.0), (1.0, 2.0))
    assert segment_of(parse("contrast=5%")).pivot == 127.5
    assert segment_of(parse("exposure=2.5%")).start == (0.975, 0.0)
    for name in ("gamma=0.8..1.25", "shift=1", "contrast=5%,brightness=2", "jpeg=50..95"):
        with pytest.raises(UsageError, match="no straight line"):
            segment_of(parse(name))


def test_certified_along_brightness_in_whole_levels_is_certified_by_enumeration() -> None:
    finite, seen = parse("brightness=90"), set()
    for seed in range(6):
        content = residual(seed)
        file = OnnxClassifier(content)
        labels = file.logits(IMAGES).argmax(axis=1).astype(np.int64)
        images = Images(IMAGES, labels, np.arange(len(labels)))
        line = certify_line(Network(content), file, images, finite, lambda _: None)
        run = enumerate_chunk(file, images, SetPlan(finite))
        certified = line.standing == Standing.CERTIFIED
        seen |= set(line.standing.tolist())
        assert (run.standing[certified] == Standing.CERTIFIED).all()
        assert (line.margin[certified] <= run.margin[certified] + 1e-4).all()
        again = archive.from_bytes(archive.to_bytes(Certificates((line,), ORIGIN)))
        assert again.sets[0].id == "line.brightness=90"
    assert seen == {Standing.CERTIFIED, Standing.FALSIFIED}
