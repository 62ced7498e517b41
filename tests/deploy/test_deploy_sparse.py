from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from deploy_fixtures import conv_chain, noise
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgesafe.deploy import parity, sparse
from edgesafe.errors import RefusedError, UsageError


def pruned(shape: tuple[int, ...], zeros: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape).astype(np.float32)
    w[rng.random(shape) < zeros] = 0
    return w


def folded_weights(data: bytes, tmp_path) -> dict[str, np.ndarray]:
    """The convolution weights that onnxruntime holds once the session is made."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "optimised.onnx").graph.initializer}


def bits(w: np.ndarray) -> bytes:
    return np.ascontiguousarray(w).tobytes()


@st.composite
def chains(draw: st.DrawFn) -> list[np.ndarray]:
    """One to three layers; any finite float32 (also -0.0, subnormals), any share of zeros, any total size."""
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    values = st.floats(-100, 100, width=32, allow_subnormal=True)
    weights = []
    for inp, out in pairwise(widths):
        k = draw(st.sampled_from([1, 3]))
        fill = draw(st.sampled_from([np.float32(0.0), np.float32(-0.0), np.float32(1.5)]))
        w = draw(hnp.arrays(np.float32, (out, inp, k, k), elements=values, fill=st.just(fill)))
        keep = draw(hnp.arrays(np.bool_, w.shape, fill=st.just(False)))
        weights.append(np.where(keep, w, fill).astype(np.float32))
    return weights


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(weights=chains())
@example(weights=[np.zeros((3, 2, 3, 3), np.float32)])
@example(weights=[np.ones((1, 1, 1, 1), np.float32)])
@example(weights=[np.full((3, 2, 3, 3), -0.0, np.float32)])
@example(weights=[pruned((8, 8, 3, 3), 0.5), pruned((4, 8, 1, 1), 0.0)])
def test_any_weights_come_back_bit_for_bit(weights: list[np.ndarray], tmp_path) -> None:
    data = sparse.inflate(conv_chain(weights))
    sparse.assert_folds(data)
    found = folded_weights(data, tmp_path)
    for i, w in enumerate(weights):
        assert found[f"w{i}"].shape == w.shape
        assert bits(found[f"w{i}"]) == bits(w)


@settings(max_examples=60, deadline=None)
@given(zeros=st.sampled_from([0.0, 0.3, 0.9, 0.99, 0.999, 1.0]), n=st.integers(1, 3000), seed=st.integers(0, 99))
def test_both_forms_rebuild_the_vector_under_the_reference_implementation(zeros: float, n: int, seed: int) -> None:
    """An oracle that is not onnxruntime; long gaps (above 255) occur from 0.99 on."""
    flat = pruned((n,), zeros, seed)
    for form in (sparse._bits, sparse._gaps):
        part = sparse._Part("")
        name = form(part, flat)
        out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [n])
        graph = onnx.helper.make_graph(part.nodes, "vector", [], [out], part.initializers)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        (found,) = ReferenceEvaluator(model).run(None, {})
        assert bits(found) == bits(flat)


@pytest.mark.parametrize("distance", [1, 254, 255, 256, 257, 509, 510, 511, 765, 766, 2000])
@pytest.mark.parametrize("start", [0, 1, 255, 300])
def test_gaps_around_the_escape(distance: int, start: int) -> None:
    flat = np.zeros(4000, np.float32)
    flat[[start, start + distance]] = (2.0, 3.0)
    part = sparse._Part("")
    sparse._gaps(part, flat)
    arrays = {t.name.removeprefix(sparse.PREFIX): numpy_helper.to_array(t) for t in part.initializers}
    rebuilt = np.zeros(4000, np.float32)
    rebuilt[np.cumsum(arrays["gaps"].astype(int)) - 1] = arrays["values"]
    assert np.array_equal(rebuilt, flat)
    assert len(arrays["gaps"]) == 2 + start // 255 + (distance - 1) // 255


@pytest.mark.parametrize(("zeros", "form"), [(0.3, b"mask"), (0.8, b"mask"), (0.95, b"gaps"), (0.99, b"gaps")])
def test_the_smaller_form_is_taken(zeros: float, form: bytes) -> None:
    data = sparse.inflate(conv_chain([pruned((64, 32, 3, 3), zeros)]))
    assert sparse.PREFIX.encode() + form in data


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.05, 0.3, 0.5, 0.7, 0.9])
def test_break_even_is_at_one_zero_in_32(zeros: float) -> None:
    """Sizes follow the formula of the module's docstring, up to 3 kB for operators and shapes."""
    w = pruned((256, 128, 3, 3), zeros)
    dense = conv_chain([w])
    size, share = len(sparse.inflate(dense)), float((w == 0).mean())
    expected = w.size / 8 + 4 * w.size * (1 - share)
    assert size < expected + 3000
    assert size > 0.8 * expected  # gaps save at most the mask
    assert (size < len(dense)) == (share > 0.04)


def test_inflating_is_deterministic_and_leaves_the_rest_alone() -> None:
    dense = conv_chain([pruned((8, 3, 3, 3), 0.6), pruned((5, 8, 1, 1), 0.6)])
    assert sparse.inflate(dense) == sparse.inflate(dense)
    before, after = onnx.load_from_string(dense).graph, onnx.load_from_string(sparse.inflate(dense)).graph
    assert list(after.node)[-len(before.node) :] == list(before.node)
    assert after.input == before.input
    assert after.output == before.output


def test_an_exported_network_is_bit_equal_folded_and_free_of_warnings(exported: bytes, capfd) -> None:
    data = sparse.inflate(exported)
    sparse.assert_folds(data)
    result = parity.check_files(data, exported, noise(20))
    assert result.bit_equal
    assert result.max_abs_logit == 0.0
    assert result.reference == "model.onnx"
    assert capfd.readouterr() == ("", "")


def test_a_file_that_does_not_fold_is_refused() -> None:
    """NonZero in the chain stops onnxruntime's constant folding: the check has to see it."""
    proto = onnx.load_from_string(sparse.inflate(conv_chain([pruned((8, 3, 3, 3), 0.6)])))
    graph = proto.graph
    last = next(node for node in graph.node if node.name == sparse.PREFIX + "weights")
    raw, keep = sparse.PREFIX + "raw", sparse.PREFIX + "keep"
    total = 8 * 3 * 9
    last.output[0] = raw
    extra = [
        onnx.helper.make_node("RandomUniformLike", [raw], [keep], name=keep, high=0.0, low=0.0, seed=1.0),
        onnx.helper.make_node("Add", [raw, keep], [sparse.PREFIX + "weights"], name=sparse.PREFIX + "sum"),
    ]
    nodes = list(graph.node)
    at = nodes.index(last) + 1
    del graph.node[:]
    graph.node.extend([*nodes[:at], *extra, *nodes[at:]])
    assert total == 216
    with pytest.raises(RefusedError, match="leaves"):
        sparse.assert_folds(proto.SerializeToString())


def test_what_cannot_be_made_sparse_is_refused() -> None:
    dense = conv_chain([pruned((8, 3, 3, 3), 0.6)])
    with pytest.raises(UsageError, match="sparse already"):
        sparse.inflate(sparse.inflate(dense))
    with pytest.raises(UsageError, match="opset 17"):
        proto = onnx.load_from_string(dense)
        proto.opset_import[0].version = 17
        del proto.graph.node[-1].input[1:]
        proto.graph.node[-1].attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
        sparse.inflate(proto.SerializeToString())
    with pytest.raises(UsageError, match="rebuilds no weights"):
        sparse.assert_folds(dense)
    for damaged in (b"", dense[: len(dense) // 2], b"not onnx at all"):
        with pytest.raises(UsageError, match="ONNX"):
            sparse.inflate(damaged)


def test_a_file_without_convolutions_is_refused() -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(UsageError, match="no convolution weight"):
        sparse.inflate(model.SerializeToString())


def test_weights_kept_in_another_file_are_refused() -> None:
    proto = onnx.load_from_string(conv_chain([pruned((8, 3, 3, 3), 0.6)]))
    tensor = next(t for t in proto.graph.initializer if t.name == "w0")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere.bin")
    with pytest.raises(UsageError, match="another file"):
        sparse.inflate(proto.SerializeToString())


def test_weights_that_are_inputs_as_well_stay_dense() -> None:
    """IR 3 lists weights among the inputs, so that a caller may replace them."""
    proto = onnx.load_from_string(conv_chain([pruned((8, 3, 3, 3), 0.6), pruned((5, 8, 3, 3), 0.6)]))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w0", onnx.TensorProto.FLOAT, [8, 3, 3, 3]))
    after = onnx.load_from_string(sparse.inflate(proto.SerializeToString()))
    assert [t.name for t in after.graph.initializer if t.name.startswith("w")] == ["w0"]
