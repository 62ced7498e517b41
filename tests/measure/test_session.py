"""Opening ONNX files: the provider asked for and no other, and one helpful line for each way a file can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from measure_fixtures import CLASSES, SIDE, classifier_bytes, quadrants
from onnx import TensorProto, helper

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    ExitCode,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
    UsageError,
)
from edgesafe.measure.inference import session as sessions
from edgesafe.measure.inference.detection import Statement, confirm, detect
from edgesafe.measure.inference.inputs import InputSpec, looks_like_probabilities, prepare
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.probabilities import softmax64


def test_our_files(tmp_path: Path, model_bytes: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes)
    classifier = OnnxClassifier(path)
    assert classifier.sha256 == "sha256:" + hashlib.sha256(model_bytes).hexdigest()
    assert classifier.providers == ("CPUExecutionProvider",)
    assert classifier.num_classes == CLASSES
    assert classifier.input_shape == (SIDE, SIDE, 3)
    assert classifier.batch is None
    images, labels = quadrants(50)
    logits = classifier.logits(images)
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == labels).mean() > 0.9
    assert confirm(classifier, images, labels) > 0.9


def test_equals_a_bare_session_for_every_batch_size(model_bytes: bytes) -> None:
    images, _ = quadrants(23)
    bare = ort.InferenceSession(model_bytes, providers=["CPUExecutionProvider"]).run(["logits"], {"image": images})[0]
    for size in (1, 7, 23, 100):
        assert (OnnxClassifier(model_bytes).logits(images, size) == bare).all()
    assert (OnnxClassifier(classifier_bytes(batch=4)).logits(images, 32) == bare).all()  # a fixed batch is padded
    strided = np.repeat(images, 2, axis=0)[::2]
    assert (OnnxClassifier(model_bytes).logits(strided) == bare).all()


@pytest.mark.parametrize("data", [b"", b"not onnx", b"\x08" * 500])
def test_broken_files(data: bytes) -> None:
    with pytest.raises(UsageError, match="not an ONNX file") as caught:
        OnnxClassifier(data)
    assert caught.value.exit_code is ExitCode.USAGE


def test_truncated_file(model_bytes: bytes) -> None:
    with pytest.raises(UsageError, match="not an ONNX file"):
        OnnxClassifier(model_bytes[: len(model_bytes) // 2])


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        OnnxClassifier(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        OnnxClassifier(tmp_path)


def test_absent_provider_is_not_replaced(model_bytes: bytes) -> None:
    with pytest.raises(UsageError, match="no CUDAExecutionProvider") as caught:
        OnnxClassifier(model_bytes, provider="CUDAExecutionProvider")
    assert "CPUExecutionProvider" in caught.value.fix


def test_a_fallback_is_refused(monkeypatch: pytest.MonkeyPatch, model_bytes: bytes) -> None:
    """A provider that is listed, but whose session then runs on the CPU."""
    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: ["XnnpackExecutionProvider"])

    class Fallen:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(sessions.ort, "InferenceSession", lambda *_, **__: Fallen())
    with pytest.raises(RefusedError, match="asked for Xnnpack"):
        OnnxClassifier(model_bytes, provider="XnnpackExecutionProvider")


def test_wrong_names_types_and_threads(model_bytes: bytes) -> None:
    with pytest.raises(UsageError, match="no input named 'image'"):
        OnnxClassifier(classifier_bytes(names=("pixels", "logits")))
    with pytest.raises(UsageError, match="no output named 'logits'"):
        OnnxClassifier(classifier_bytes(names=("image", "out")))
    with pytest.raises(UsageError, match="not uint8"):
        OnnxClassifier(classifier_bytes(dtype="float32"))
    with pytest.raises(UsageError, match="0 threads"):
        OnnxClassifier(model_bytes, threads=0)


def simple(shape_in: list[Any], op: Any, shape_out: list[Any]) -> bytes:
    graph = helper.make_graph(
        op,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape_in)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape_out)],
        [
            onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), "one"),
            onnx.numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


CAST = helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT)


def test_not_a_classifier() -> None:
    identity = [helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)]
    with pytest.raises(RefusedError, match="not \\(n, K\\)"):
        OnnxClassifier(simple(["n", 2, 2, 3], identity, ["n", 2, 2, 3]))
    with pytest.raises(UsageError, match="2 dimensions"):
        OnnxClassifier(simple(["n", 3], identity, ["n", 3]))
    one = [CAST, helper.make_node("Reshape", ["f", "one"], ["logits"])]
    with pytest.raises(RefusedError, match="1 class"):
        OnnxClassifier(simple(["n", 1, 1, 1], one, ["n", 1]))


def test_rows_that_are_not_images() -> None:
    """(n, 2, 1, 1) pixels come out as (2n, 2): the shapes in the file are free, the rows are not the images'."""
    pairs = [
        CAST,
        helper.make_node("Reshape", ["f", "one"], ["c"]),
        helper.make_node("Concat", ["c", "c"], ["logits"], axis=1),
    ]
    classifier = OnnxClassifier(simple(["n", 2, 1, 1], pairs, ["m", 2]))
    with pytest.raises(RefusedError, match="for 3 images"):
        classifier.logits(np.zeros((3, 2, 1, 1), np.uint8))


def test_non_finite_output_is_refused() -> None:
    divide = [
        CAST,
        helper.make_node("Div", ["f", "zero"], ["d"]),  # 0/0 = NaN, 1/0 = infinity
        helper.make_node("Flatten", ["d"], ["logits"]),
    ]
    classifier = OnnxClassifier(simple(["n", 2, 1, 1], divide, ["n", 2]))
    with pytest.raises(NonFiniteError, match="3 of 3 output rows") as caught:
        classifier.logits(np.zeros((3, 2, 1, 1), np.uint8))
    assert caught.value.exit_code is ExitCode.REFUSED


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), NothingEvaluated),
        (np.zeros((2, SIDE, SIDE, 3), np.float32), DataError),
        (np.zeros((2, SIDE, SIDE, 1), np.uint8), DataError),
        (np.zeros((2, 3, SIDE, SIDE), np.uint8), DataError),
        (np.zeros((SIDE, SIDE, 3), np.uint8), DataError),
    ],
)
def test_wrong_images(model_bytes: bytes, images: Any, error: type[EdgesafeError]) -> None:
    with pytest.raises(error):
        OnnxClassifier(model_bytes).logits(images)


def test_wrong_batch_size(model_bytes: bytes) -> None:
    with pytest.raises(UsageError, match="batch size 0"):
        OnnxClassifier(model_bytes).logits(quadrants(2)[0], 0)


FOREIGN = {"dtype": "float32", "names": ("pixels", "out")}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_foreign_files_are_detected(layout: str, outputs: str) -> None:
    mean, std = 0.4, 0.3
    data = classifier_bytes(layout=layout, outputs=outputs, **FOREIGN)  # type: ignore[arg-type]
    images, labels = quadrants(300)
    found = detect(data, images, labels, normalisations=[((mean,) * 3, (std,) * 3)])
    assert found.spec.layout == layout
    assert found.spec.dtype == "float32"
    assert found.spec.outputs == outputs
    assert found.accuracy > 0.9
    assert found.tried[0][1] == found.accuracy
    classifier = OnnxClassifier(data, input_spec=found.spec)
    assert (classifier.logits(images).argmax(1) == labels).mean() > 0.9


def test_too_many_labels_for_the_file() -> None:
    images, labels = quadrants(100)
    with pytest.raises(RefusedError, match="does not fit the data"):
        detect(classifier_bytes(**FOREIGN), images, labels + 1)  # type: ignore[arg-type]


def test_neighbouring_normalisations_are_told_apart() -> None:
    """Both guesses have the same arg max everywhere; only the likelihood knows which one is right."""
    images, labels = quadrants(1000)
    truth = ((0.4,) * 3, (0.8,) * 3)
    plain = OnnxClassifier(
        classifier_bytes(dtype="float32", names=("pixels", "out")),
        input_spec=InputSpec(dtype="float32", mean=truth[0], std=truth[1]),
    )
    scores = plain.logits(images)
    labels = np.array([np.random.default_rng(i).choice(CLASSES, p=p) for i, p in enumerate(softmax64(scores))])
    other = ((0.4,) * 3, (0.05,) * 3)
    found = detect(classifier_bytes(**FOREIGN), images, labels, normalisations=[other, truth])  # type: ignore[arg-type]
    accuracies = dict(found.tried)
    assert found.spec.mean == truth[0]
    assert any(a == found.accuracy for t, a in accuracies.items() if "0.05" in t)


def test_probabilities_become_logits_with_the_same_softmax() -> None:
    images, _ = quadrants(40)
    spec = InputSpec(outputs="probabilities", input_name="image", output_name="logits")
    classifier = OnnxClassifier(classifier_bytes(outputs="probabilities"), input_spec=spec)
    truth = softmax64(OnnxClassifier(classifier_bytes()).logits(images))
    assert softmax64(classifier.logits(images)) == pytest.approx(truth, abs=1e-6)


def test_wrong_guesses_are_caught(model_bytes: bytes) -> None:
    images, labels = quadrants(300)
    as_logits = OnnxClassifier(classifier_bytes(outputs="probabilities"))
    with pytest.raises(RefusedError, match="sums to 1"):
        confirm(as_logits, images, labels)
    as_probabilities = OnnxClassifier(
        model_bytes, input_spec=InputSpec(input_name="image", output_name="logits", outputs="probabilities")
    )
    with pytest.raises(RefusedError, match="outside"):
        confirm(as_probabilities, images, labels)
    with pytest.raises(RefusedError, match="no better than guessing"):
        confirm(OnnxClassifier(model_bytes), images, np.random.default_rng(0).permutation(labels))
    with pytest.raises(DataError, match="4 outputs do not fit"):
        confirm(OnnxClassifier(model_bytes), images, labels + 1)
    wrong_layout = classifier_bytes(layout="NCHW", **FOREIGN)  # type: ignore[arg-type]
    with pytest.raises((DataError, UsageError, RefusedError)):
        confirm(OnnxClassifier(wrong_layout, input_spec=InputSpec(dtype="float32", layout="NHWC")), images, labels)


def test_nothing_can_be_detected_of_noise() -> None:
    images, labels = quadrants(300, contrast=0)
    with pytest.raises(RefusedError, match="no better than guessing"):
        detect(classifier_bytes(**FOREIGN), images, labels)  # type: ignore[arg-type]


def test_prepare_normalises_as_a_loop_would() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = prepare(images, InputSpec("NCHW", "float32", mean=mean, std=std, channels="BGR"))
    assert x.shape == (2, 3, 3, 4)
    assert x.flags.c_contiguous
    for c in range(3):
        assert x[:, c] == pytest.approx((images[..., 2 - c] / 255.0 - mean[c]) / std[c], abs=1e-6)
    with pytest.raises(DataError, match="1 means for 3"):
        prepare(images, InputSpec(dtype="float32", mean=(0.1,), std=(0.1,)))


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": (0.1,), "std": (0.1,)},
        {"dtype": "float32", "mean": (0.1,)},
        {"dtype": "float32", "mean": (0.1,), "std": (0.0,)},
        {"dtype": "float32", "scale": float("nan")},
    ],
)
def test_impossible_specs(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        InputSpec(**bad)


def test_logits_hardly_ever_look_like_probabilities() -> None:
    rng = np.random.default_rng(0)
    assert not looks_like_probabilities(rng.random((50, 4)))
    assert looks_like_probabilities(softmax64(rng.normal(size=(50, 4))))


def test_too_few_images_to_tell_two_normalisations_apart_are_refused() -> None:
    """With 1,000 images the truth is found; with 40 nothing is guessed; stated, it is used as stated."""
    images, labels = quadrants(1000)
    mean, std = (0.4,) * 3, (0.8,) * 3
    data = classifier_bytes(**FOREIGN)  # type: ignore[arg-type]
    scores = OnnxClassifier(data, input_spec=InputSpec(dtype="float32", mean=mean, std=std)).logits(images)
    labels = np.array([np.random.default_rng(i).choice(CLASSES, p=p) for i, p in enumerate(softmax64(scores))])
    near = ((0.4,) * 3, (0.75,) * 3)
    for n in (40, 300):
        with pytest.raises(RefusedError, match=f"{n} labelled images cannot tell") as caught:
            detect(data, images[:n], labels[:n], normalisations=[(mean, std), near])
        assert "--mean" in caught.value.fix
    told = detect(data, images[:300], labels[:300], statement=Statement(mean=mean, std=std))
    assert (told.spec.mean, told.spec.std) == (mean, std)
    assert told.stated == ("mean", "std")
    assert told.runner_up_z is None  # RGB and BGR give the same numbers here: nothing is left open
    assert told.record(None).text == str(told.spec)


def test_what_is_stated_is_used_as_it_is_stated() -> None:
    """A file that wants pixels minus 128 in BGR: no guess would find it."""
    data = classifier_bytes(layout="NCHW", dtype="float32", names=("pixels", "out"), mean=0.0, std=50.0)
    images, labels = quadrants(300)
    images = (images // 2).astype(np.uint8)
    statement = Statement(scale=1.0, mean=(128.0,) * 3, std=(1.0,) * 3, channels="BGR", outputs="logits")
    found = detect(data, images, labels, statement=statement)
    assert found.spec.scale == 1.0
    assert found.spec.mean == (128.0,) * 3
    assert found.spec.channels == "BGR"
    assert [text for text, _ in found.tried] == [str(found.spec)]
    assert found.spec.layout == "NCHW"
    for wrong, says in (
        (Statement(layout="NHWC"), "nchw"),
        (Statement(outputs="probabilities"), r"outside|differs from 1"),
        (Statement(mean=(0.5,), std=(0.5,)), "1 means for 3"),
    ):
        with pytest.raises(EdgesafeError, match=says):
            detect(data, images, labels, statement=wrong)
    with pytest.raises(UsageError, match="uint8 pixels as they are"):
        detect(classifier_bytes(), images, labels, statement=Statement(scale=1.0))


def test_scores_of_a_sigmoid_are_neither_logits_nor_probabilities() -> None:
    images, labels = quadrants(300)
    model = onnx.load_from_string(classifier_bytes(**FOREIGN))  # type: ignore[arg-type]
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Sigmoid", ["z"], ["out"]))
    with pytest.raises(RefusedError, match="sigmoid per class"):
        detect(model.SerializeToString(), images, labels)
    with pytest.raises(RefusedError, match="sigmoid per class"):
        confirm(OnnxClassifier(model.SerializeToString(), input_spec=InputSpec(dtype="float32")), images, labels)
