"""Groups of pixels are the same function: equal to the file as it was, bit for bit where it counts in integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from deploy_fixtures import noise
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgesafe.deploy import int8
from edgesafe.deploy.graph import parse
from edgesafe.deploy.packing import pack
from edgesafe.measure.inference.session import OnnxClassifier

Layer = tuple[int, int, int, int]  # output channels, kernel, stride, padding
LAYERS = st.tuples(st.integers(1, 18), st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 1, 2]), st.integers(0, 2))


def network(layers: list[Layer], channels: int, side: tuple[int, int], residual: bool, seed: int = 0) -> bytes:
    """uint8 NHWC -> normalised -> Conv, Relu for each layer (with an addition of its input if asked) -> mean."""
    rng = np.random.default_rng(seed)
    per_channel = rng.normal(size=(1, channels, 1, 1)).astype(np.float32)
    inits = {"scale": np.float32(255), "shift": per_channel, "axes": np.array([2, 3], np.int64)}
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["c", "scale"], ["d"], name="div"),
        helper.make_node("Sub", ["d", "shift"], ["x0"], name="sub"),
    ]
    name, inputs = "x0", channels
    for i, (outputs, kernel, stride, padding) in enumerate(layers, 1):
        inits[f"w{i}"] = rng.normal(size=(outputs, inputs, kernel, kernel)).astype(np.float32)
        inits[f"b{i}"] = rng.normal(size=outputs).astype(np.float32)
        made = f"x{i}"
        nodes.append(
            helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", strides=[stride] * 2,
                             pads=[padding] * 4)
        )  # fmt: skip
        same = residual and (inputs, 1, kernel) == (outputs, stride, 2 * padding + 1)
        nodes += [helper.make_node("Add", [f"c{i}", name], [f"a{i}"], f"add{i}")] if same else []
        nodes.append(helper.make_node("Relu", [f"a{i}" if same else f"c{i}"], [made], f"relu{i}"))
        name, inputs = made, outputs
    nodes.append(helper.make_node("ReduceMean", [name, "axes"], ["logits"], "mean", keepdims=0))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *side, channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", inputs])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in inits.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def packed(data: bytes, step: int = 16) -> tuple[bytes, tuple[str, ...]]:
    proto = parse(data)
    changed = pack(proto, step=step)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString()), changed


def logits(data: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return OnnxClassifier(data).logits(images)


@given(st.lists(LAYERS, min_size=1, max_size=3), st.integers(1, 4), st.sampled_from([8, 10, 12, 16]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_convolutions_give_the_same_numbers(layers: list[Layer], channels: int, width: int, residual: bool) -> None:
    for side in (9, width):
        size = side
        for _, kernel, stride, padding in layers:
            size = (size + 2 * padding - kernel) // stride + 1
            assume(size >= 1)
    layers = [*layers, (2, 1, 1, 0)]
    data = network(layers, channels, (9, width), residual)
    images = noise(3, (9, width, channels))
    plain = logits(data, images)
    np.testing.assert_allclose(logits(packed(data)[0], images), plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize(
    "layers", [[(8, 3, 1, 1)] * 3, [(8, 3, 1, 1)] * 2 + [(16, 3, 2, 1), (4, 1, 1, 0)], [(6, 5, 2, 2), (6, 3, 1, 1)]]
)
def test_integers_give_the_same_bits(layers: list[Layer]) -> None:
    data = network(layers, 3, (16, 16), residual=True)
    ranged, images = noise(32, (16, 16, 3), seed=1), noise(64, (16, 16, 3), seed=2)
    plain, grouped = (int8.quantise(data, ranged, step=step) for step in (1, 16))
    assert not plain.packed_layers
    assert len(grouped.packed_layers) >= 2
    np.testing.assert_array_equal(logits(plain.onnx, images), logits(grouped.onnx, images))


def test_narrow_layers_take_groups_and_wide_ones_do_not() -> None:
    data = network([(16, 3, 1, 1), (8, 3, 1, 1), (16, 3, 1, 1), (64, 3, 2, 1)], 4, (8, 8), residual=False)
    assert packed(data)[1] == ("conv2",)
    assert packed(data, step=1)[1] == ()


def test_a_width_that_cannot_be_grouped_stays() -> None:
    data = network([(8, 3, 1, 1), (8, 3, 1, 0)], 4, (9, 9), residual=False)
    again, changed = packed(data)
    assert changed == ()
    np.testing.assert_array_equal(logits(again, noise(2, (9, 9, 4))), logits(data, noise(2, (9, 9, 4))))
