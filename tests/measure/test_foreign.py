"""ONNX files as people bring them: whole, counted, functions of one image, or refused with the reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from foreign_nets import (
    CLASSES,
    PARAMS,
    images,
    model,
    outside,
    plain,
    tail,
    with_branch,
    with_constant_nodes,
    with_function,
    with_sparse,
)
from foreign_nets import weights as tensors
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from edgesafe.errors import ExitCode, RefusedError, UsageError
from edgesafe.measure.inference import foreign, independence, protos, weights
from edgesafe.measure.inference.inputs import InputSpec, output_kind
from edgesafe.measure.inference.latency import interleaved
from edgesafe.measure.inference.session import OnnxClassifier

SPEC = InputSpec(layout="NCHW", dtype="float32")


def opened(net: onnx.ModelProto) -> OnnxClassifier:
    return OnnxClassifier(net.SerializeToString(), input_spec=SPEC)


# ------------------------------------------------------------------------------------------------ whole in one file


MAKERS = [plain, with_constant_nodes, with_branch, with_function, with_sparse]


@pytest.mark.parametrize("make", MAKERS)
def test_weights_beside_the_file_become_part_of_what_is_hashed(make: Callable[[], Any], tmp_path: Path) -> None:
    """A changed weights file changes the hash, wherever the reference to it stands."""
    expected = opened(make()).logits(images())
    net = make()
    moved = [t for t in protos.tensors(net) if t.data_type == TensorProto.FLOAT]
    for tensor in moved:
        outside(tensor, tmp_path)
    assert len(moved) >= 3
    path = tmp_path / "net.onnx"
    path.write_bytes(net.SerializeToString())
    with pytest.raises(UsageError, match="in another file, which no hash would cover") as caught:
        OnnxClassifier(path.read_bytes(), input_spec=SPEC)
    assert caught.value.exit_code is ExitCode.USAGE
    content = foreign.read(path)
    assert not protos.external(onnx.load_from_string(content))
    assert (OnnxClassifier(content, input_spec=SPEC).logits(images()) == expected).all()
    assert content == foreign.read(path)
    assert OnnxClassifier(path, input_spec=SPEC).sha256 == "sha256:" + hashlib.sha256(content).hexdigest()
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[7] ^= 0x40
    (tmp_path / "weights.bin").write_bytes(data)
    assert foreign.read(path) != content


def test_a_whole_file_is_taken_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(plain().SerializeToString())
    assert foreign.read(tmp_path / "net.onnx") == plain().SerializeToString()


def test_onnx_reads_the_same_weights(tmp_path: Path) -> None:
    """The oracle is onnx's own reader of external data."""
    onnx.save(plain(), tmp_path / "n.onnx", save_as_external_data=True, location="n.onnx.data", size_threshold=0)
    ours = onnx.load_from_string(foreign.read(tmp_path / "n.onnx"))
    theirs = onnx.load(tmp_path / "n.onnx")
    for a, b in zip(ours.graph.initializer, theirs.graph.initializer, strict=True):
        assert (numpy_helper.to_array(a) == numpy_helper.to_array(b)).all()


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../weights.bin", "outside the folder"),
        ("a/../../weights.bin", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("link", "outside the folder"),
        ("folder/weights.bin", "outside the folder"),
        ("circle", "outside the folder"),
        ("x" * 5000, "outside the folder|too long"),
        ("", "outside the folder"),
        ("none.bin", "no such file"),
        ("pipe", "is a pipe"),
        ("short.bin", "are not at"),
        (".", "outside the folder|is a folder"),
    ],
)
def test_only_the_files_own_folder_is_read(location: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 10_000)
    (folder / "link").symlink_to(tmp_path / "weights.bin")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "short.bin").write_bytes(b"\0" * 3)
    os.mkfifo(folder / "pipe")
    net = plain()
    outside(net.graph.initializer[0], tmp_path, location, write=False)
    (folder / "net.onnx").write_bytes(net.SerializeToString())
    with pytest.raises(UsageError, match=says):
        foreign.read(folder / "net.onnx")


@pytest.mark.parametrize("entry", [("offset", "-4"), ("length", "4"), ("offset", "x"), ("offset", "9" * 30)])
def test_references_that_do_not_fit_are_refused(entry: tuple[str, str], tmp_path: Path) -> None:
    net = plain()
    tensor = net.graph.initializer[0]
    outside(tensor, tmp_path)
    for said in tensor.external_data:
        if said.key == entry[0]:
            said.value = entry[1]
    (tmp_path / "net.onnx").write_bytes(net.SerializeToString())
    with pytest.raises(UsageError, match="are not at"):
        foreign.read(tmp_path / "net.onnx")


def test_a_compiled_part_in_another_file_is_refused() -> None:
    node = helper.make_node("EPContext", ["c"], ["f"], domain="com.microsoft", ep_cache_context="other.bin")
    with pytest.raises(UsageError, match="compiled"):
        opened(plain(middle=[node]))


# -------------------------------------------------------------------------------------------------------- counting


def counted(net: onnx.ModelProto) -> weights.Weights:
    return weights.count(net)


class _Noise(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"pixels": np.random.default_rng(i).random((1, 3, 8, 8), np.float32)} for i in range(4)]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def quantised(tmp_path: Path, how: QuantFormat, **more: Any) -> onnx.ModelProto:
    onnx.save(plain(zeros=40), tmp_path / "a.onnx")
    quantize_static(tmp_path / "a.onnx", tmp_path / "b.onnx", _Noise(), quant_format=how, **more)
    return onnx.load(tmp_path / "b.onnx")


def test_weights_of_every_place_are_counted() -> None:
    for make in (plain, with_constant_nodes, with_sparse, with_function):
        assert counted(make()).params == PARAMS, make
    assert counted(with_branch()).params == 2 * (5 * 27 + 5) + 5 * CLASSES  # both branches are in the file


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_every_precision_are_counted(dtype: Any) -> None:
    net = plain(zeros=40)
    kernel = net.graph.initializer[0]
    values = numpy_helper.to_array(kernel).astype(dtype)
    net.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "half"))
    net.graph.node.insert(0, helper.make_node("Cast", ["half"], ["kernel"], to=TensorProto.FLOAT))
    found = counted(net)
    assert found.params == PARAMS
    assert found.sparsity == pytest.approx(40 / 135)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize(
    "more", [{}, {"per_channel": True}, {"weight_type": QuantType.QUInt8, "activation_type": QuantType.QUInt8}]
)
def test_quantised_weights_are_counted(how: QuantFormat, more: dict[str, Any], tmp_path: Path) -> None:
    found = counted(quantised(tmp_path, how, **more))
    assert found.params == PARAMS
    assert found.sparsity is not None
    assert 40 / 135 <= found.sparsity < 60 / 135  # small weights round to zero, too


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_weights_are_counted(tmp_path: Path) -> None:
    onnx.save(plain(), tmp_path / "a.onnx")
    quantize_dynamic(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert counted(onnx.load(tmp_path / "b.onnx")).params == PARAMS


def test_what_cannot_be_told_is_no_number() -> None:
    packed = helper.make_node("MatMulNBits", ["v", "q", "s"], ["w"], domain="com.microsoft", K=5, N=4)
    net = plain()
    net.graph.node.append(packed)
    assert counted(net) == weights.Weights(None, None)
    hidden = helper.make_node("LinearClassifier", ["v"], ["w"], domain="ai.onnx.ml", coefficients=[0.5] * 20)
    net = plain()
    net.graph.node.append(hidden)
    assert counted(net) == weights.Weights(None, None)
    scattered = plain()  # the kernel is made from a list of values and places
    scattered.graph.initializer[0].name = "base"
    places = numpy_helper.from_array(np.zeros((1, 4), np.int64), "places")
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    scattered.graph.initializer.extend([places, values])
    scattered.graph.node.insert(0, helper.make_node("ScatterND", ["base", "places", "values"], ["kernel"]))
    assert counted(scattered) == weights.Weights(None, None)
    odd = plain(extra=[helper.make_tensor("odd", TensorProto.COMPLEX64, [1], [1j])])
    assert counted(odd).params is None


# ----------------------------------------------------------------------------------------- a function of one image


def batch_norm(**attributes: Any) -> list[Any]:
    outputs = ["f", "m2", "u2"] if attributes else ["f"]
    return [helper.make_node("BatchNormalization", ["c", "s", "b", "m", "u"], outputs, "norm", **attributes)]


STATISTICS = [
    numpy_helper.from_array(np.full(5, v, np.float32), k) for k, v in {"s": 1, "b": 0, "m": 0, "u": 1}.items()
]
TRUE, FALSE = (numpy_helper.from_array(np.array(v), f"is_{v}".lower()) for v in (True, False))
RATIO = numpy_helper.from_array(np.float32(0.5), "ratio")

OPERATORS: dict[str, tuple[list[Any], list[Any]]] = {
    "BatchNormalization": (batch_norm(training_mode=1), STATISTICS),
    "RandomNormalLike": (
        [helper.make_node("RandomNormalLike", ["c"], ["z"], "noise"), helper.make_node("Add", ["c", "z"], ["f"])],
        [],
    ),
    "Bernoulli": ([helper.make_node("Sigmoid", ["c"], ["z"]), helper.make_node("Bernoulli", ["z"], ["f"])], []),
    "Dropout": ([helper.make_node("Dropout", ["c", "ratio", "is_true"], ["f"], "drop")], [RATIO, TRUE]),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_that_answer_by_chance_or_by_the_batch_are_named(operator: str) -> None:
    middle, extra = OPERATORS[operator]
    with pytest.raises(RefusedError, match=rf"node '\w*' \({operator}\)") as caught:
        opened(plain(middle=middle, extra=extra))
    assert caught.value.exit_code is ExitCode.REFUSED


def test_the_same_operators_in_eval_mode_are_fine() -> None:
    for middle, extra in (
        (batch_norm(), STATISTICS),
        ([helper.make_node("Dropout", ["c", "ratio", "is_false"], ["f"])], [RATIO, FALSE]),
        ([helper.make_node("Dropout", ["c"], ["f"])], []),
    ):
        independence.require_independence(opened(plain(middle=middle, extra=extra)), images(), "net")


def test_a_random_operator_in_a_branch_is_found() -> None:
    net = with_branch()
    branch = next(item.g for node in net.graph.node for item in node.attribute if item.name == "else_branch")
    branch.node.append(helper.make_node("RandomNormal", [], ["unused"], "deep", shape=[1]))
    with pytest.raises(RefusedError, match="'deep'"):
        opened(net)


def test_dynamic_quantisation_is_fine_at_batch_one_only(tmp_path: Path) -> None:
    middle = [
        helper.make_node("DynamicQuantizeLinear", ["c"], ["q", "qs", "qz"], "dyn"),
        helper.make_node("DequantizeLinear", ["q", "qs", "qz"], ["f"]),
    ]
    with pytest.raises(RefusedError, match="by the batch"):
        opened(plain(middle=middle))
    fixed = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 8, 8])
    independence.require_independence(opened(plain(middle=middle, input=fixed)), images(), "net")


AXES = numpy_helper.from_array(np.array([0], np.int64), "axes")


def minus_batch_mean() -> onnx.ModelProto:
    """Nothing random, no BatchNorm: the mean over the batch is taken away."""
    mean = helper.make_node("ReduceMean", ["c", "axes"], ["mean"])
    return plain(middle=[mean, helper.make_node("Sub", ["c", "mean"], ["f"])], extra=[AXES])


def zero_when_alone() -> onnx.ModelProto:
    """Logits times (batch size - 1 > 0)."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [
        helper.make_node("Shape", ["pixels"], ["size"], start=0, end=1),
        helper.make_node("Greater", ["size", "one"], ["many"]),
        helper.make_node("Cast", ["many"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "factor"], ["f"]),
    ]
    return plain(middle=nodes, extra=[one])


def first_wins() -> onnx.ModelProto:
    """Every image is added to the first of its batch."""
    zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
    gather = helper.make_node("Gather", ["c", "zero"], ["first"], axis=0)
    return plain(middle=[gather, helper.make_node("Add", ["c", "first"], ["f"])], extra=[zero])


@pytest.mark.parametrize("make", [minus_batch_mean, zero_when_alone, first_wins])
@pytest.mark.parametrize("n", [1, 2, 12, 40])
def test_a_dependence_on_the_batch_is_found_by_running(make: Callable[[], Any], n: int) -> None:
    with pytest.raises(RefusedError, match="the logits of an image depend on"):
        independence.require_independence(opened(make()), images(n), "net")


@pytest.mark.filterwarnings("ignore")
def test_functions_of_one_image_pass(tmp_path: Path) -> None:
    nets = [plain(), with_branch(), with_function(), quantised(tmp_path, QuantFormat.QDQ)]
    nets.append(plain(input=helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [8, 3, 8, 8])))
    for net in nets:
        for n in (1, 12, 40):
            independence.require_independence(opened(net), images(n), "net")


def test_a_chance_that_no_operator_shows_is_found() -> None:
    class Dice:
        batch, quantised = None, False

        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def logits(self, x: Any, *_: int) -> Any:
            return self.rng.normal(size=(len(x), 3)).astype(np.float32)

    with pytest.raises(RefusedError, match="on chance"):
        independence.require_independence(Dice(), images(), "net")


# --------------------------------------------------------------------------------------------------- fixed batches


def fixed(batch: int) -> bytes:
    return plain(input=helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 8, 8])).SerializeToString()


def test_a_fixed_batch_is_filled_and_timed_as_such(tmp_path: Path) -> None:
    open_, eight = opened(plain()), OnnxClassifier(fixed(8), input_spec=SPEC)
    assert eight.batch == 8
    assert eight.logits(images(13)) == pytest.approx(open_.logits(images(13)), abs=1e-5)
    for name, content in (("a", fixed(8)), ("b", fixed(8)), ("c", plain().SerializeToString())):
        (tmp_path / name).write_bytes(content)
    files = {name: tmp_path / name for name in "abc"}
    specs = dict.fromkeys(files, SPEC)
    timed = interleaved({"a": files["a"], "b": files["b"]}, image=images()[0], runs=64, specs=specs)
    assert timed["a"].batch == 8
    with pytest.raises(UsageError, match="batch sizes differ: a 8, c 1"):
        interleaved({"a": files["a"], "c": files["c"]}, image=images()[0], runs=64, specs=specs)


@pytest.mark.parametrize("batch", [10_000_000, 2**40])
def test_a_batch_beyond_reason_is_refused_before_anything_is_allocated(batch: int) -> None:
    with pytest.raises(UsageError, match="numbers a run"):
        OnnxClassifier(fixed(batch), input_spec=SPEC)


# --------------------------------------------------------------------------------------------------- damaged files


def damaged() -> dict[str, bytes]:
    nets: dict[str, Any] = {name: plain() for name in ("outputs", "inputs", "two", "dims", "short", "type", "graph")}
    del nets["outputs"].graph.output[:]
    del nets["inputs"].graph.input[:]
    nets["two"].graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))
    nets["two"].graph.node.append(helper.make_node("Identity", ["mask"], ["same"]))
    nets["dims"].graph.initializer[0].dims[0] = -5
    nets["short"].graph.initializer[0].raw_data = b"\0"
    nets["type"].graph.initializer[0].data_type = 99
    nets["graph"].ClearField("graph")
    found = {name: net.SerializeToString() for name, net in nets.items()}
    found["names"] = plain().SerializeToString().replace(b"pixels", b"pi\xff\xfels")
    found["name of a node"] = (
        plain(middle=batch_norm(), extra=STATISTICS).SerializeToString().replace(b"norm", b"no\xffm")
    )
    return found


@pytest.mark.parametrize("name", damaged())
def test_damaged_files_are_one_line(name: str, tmp_path: Path) -> None:
    content = damaged()[name]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        OnnxClassifier(foreign.read(tmp_path / "net.onnx"), input_spec=SPEC)
    str(caught.value).encode()


# ---------------------------------------------------------------------------------------------------- output kinds


def ending(op: str) -> OnnxClassifier:
    nodes = [helper.make_node("Conv", ["pixels", "kernel", "bias"], ["f"]), *tail()]
    nodes[-1].output[0] = "z"
    rest = [numpy_helper.from_array(v, k) for k, v in tensors().items()]
    return opened(model([*nodes, helper.make_node(op, ["z"], ["logits"])], rest))


def test_kinds_of_output_are_told_apart() -> None:
    assert output_kind(ending("Identity").scores(images(64))) == "logits"
    assert output_kind(ending("LogSoftmax").scores(images(64))) == "logits"
    assert output_kind(ending("Softmax").scores(images(64))) == "probabilities"
    with pytest.raises(RefusedError, match="sigmoid per class"):
        output_kind(ending("Sigmoid").scores(images(64)))


def test_the_runtime_agrees_that_the_nets_are_valid() -> None:
    for make in MAKERS:
        assert ort.InferenceSession(make().SerializeToString(), providers=["CPUExecutionProvider"]).get_inputs()
