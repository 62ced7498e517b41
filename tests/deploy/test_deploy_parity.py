import copy

import numpy as np
import pytest
import torch
from deploy_fixtures import MEAN, STD, conv_chain, noise, tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgesafe.deploy import parity, temperature, transport_bytes
from edgesafe.errors import (
    NonFiniteError,
    NothingEvaluated,
    ParityError,
    UsageError,
)
from edgesafe.measure.inference.session import OnnxClassifier

SHAPE = (12, 10, 3)


def test_parity_with_torch_is_recorded(exported: bytes) -> None:
    model = tiny().train()
    result = parity.check_torch(model, exported, noise(70), MEAN, STD)
    assert (result.file, result.reference, result.n, result.argmax_agreement) == ("model.onnx", "torch", 70, 1.0)
    assert result.max_abs_logit < 1e-5
    assert model.training


def change_weight(model) -> None:
    model.fc.weight.data[2, 3] += 0.01


def change_normalisation(model) -> None:
    model.bn1.running_mean += 0.01


def change_bias(model) -> None:
    model.fc.bias.data[1] += 2e-4


@pytest.mark.parametrize("change", [change_weight, change_normalisation, change_bias])
def test_another_network_is_refused(exported: bytes, change) -> None:
    model = copy.deepcopy(tiny())
    change(model)
    with pytest.raises(ParityError, match="differs from torch by"):
        parity.check_torch(model, exported, noise(70), MEAN, STD)


def test_another_normalisation_is_refused(exported: bytes) -> None:
    with pytest.raises(ParityError):
        parity.check_torch(tiny(), exported, noise(20), (0.5, 0.5, 0.5), STD)


def test_no_images_are_refused(exported: bytes) -> None:
    for images in (noise(0), noise(3).astype(np.float32), noise(1)[0]):
        with pytest.raises(NothingEvaluated):
            parity.check_torch(tiny(), exported, images, MEAN, STD)
        with pytest.raises(NothingEvaluated):
            parity.check_files(exported, exported, images)


def test_bit_equality_of_files_is_strict() -> None:
    w = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    nudged = w.copy()
    nudged[0, 0] = np.nextafter(w[0, 0], np.float32(9))
    images = noise(8, (6, 6, 3))
    assert parity.check_files(conv_chain([w]), conv_chain([w]), images).bit_equal
    with pytest.raises(ParityError, match="bit for bit"):
        parity.check_files(conv_chain([nudged]), conv_chain([w]), images)
    wanted, nearly = (OnnxClassifier(conv_chain([one])).logits(images) for one in (w, nudged))
    result = parity.compare(wanted, nearly, file="a", reference="b")
    assert not result.bit_equal
    assert 0 < result.max_abs_logit < 1e-4


def compare(wanted: list, found: list):
    return parity.compare(np.array(wanted, np.float32), np.array(found, np.float32), file="f", reference="r")


def test_tolerance_is_absolute_for_ordinary_logits_and_relative_for_large_ones() -> None:
    assert parity.tolerance(np.array([[3.0, -100.0]], np.float32)) == 1e-4
    assert parity.tolerance(np.array([[3.0, -5e4]], np.float32)) == pytest.approx(0.25)
    assert compare([[1.0, 0.0]], [[1.00009, 0.0]]).max_abs_logit == pytest.approx(9e-5, rel=1e-2)
    with pytest.raises(ParityError, match=r"image 1 of 2"):
        compare([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.00011, 0.0]])
    assert compare([[1e5, 0.0]], [[1e5 + 0.1, 0.0]]).max_abs_logit > 0.09


def test_a_tie_counts_as_disagreement_but_is_no_error() -> None:
    tie = compare([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]], [[1.0, 1.000005, 0.0], [2.0, 0.0, 0.0]])
    assert tie.argmax_agreement == 0.5
    with pytest.raises(ParityError, match="another class"):  # within the tolerance, yet decided
        compare([[1.00005, 1.0, 0.0]], [[1.0, 1.00005, 0.0]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_on_either_side(value: float) -> None:
    for wanted, found in (([[value, 0.0]], [[0.0, 0.0]]), ([[0.0, 0.0]], [[value, 0.0]])):
        with pytest.raises(NonFiniteError):
            compare(wanted, found)


def test_shapes_must_agree() -> None:
    with pytest.raises(ParityError, match=r"\(1, 3\)"):
        compare([[1.0, 0.0]], [[1.0, 0.0, 0.0]])


# ---------------------------------------------------------------------------------------------------- temperature


@pytest.mark.parametrize("value", [0.05, 1.0, 1.7, 30.0])
def test_temperature_divides_the_logits(exported: bytes, value: float) -> None:
    images = noise(40)
    before, after = (
        OnnxClassifier(exported).logits(images),
        OnnxClassifier(temperature.fold(exported, value)).logits(images),
    )
    assert np.array_equal(after, before / np.float32(value))
    assert np.array_equal(after.argmax(1), before.argmax(1))


@given(
    logits=hnp.arrays(np.float32, (6, 5), elements=st.floats(-1e4, 1e4, width=32)),
    value=st.floats(2.0**-7, 128, width=32),
)
def test_division_never_unseats_the_winner(logits: np.ndarray, value: float) -> None:
    """The proof in the module's docstring: rounding is monotone, so the winner keeps a largest value."""
    after, rows = logits / np.float32(value), np.arange(6)
    assert np.array_equal(after[rows, logits.argmax(1)], after.max(1))


def test_folding_keeps_the_contract_and_is_deterministic(exported: bytes) -> None:
    data = temperature.fold(exported, 2.5)
    assert data == temperature.fold(exported, 2.5)
    assert OnnxClassifier(data).num_classes == 5
    assert OnnxClassifier(data).input_shape == SHAPE


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-60, 1e60])
def test_no_temperature(exported: bytes, value: float) -> None:
    with pytest.raises(UsageError, match="not a temperature"):
        temperature.fold(exported, value)


def test_a_second_temperature_and_damaged_files_are_refused(exported: bytes) -> None:
    with pytest.raises(UsageError, match="already"):
        temperature.fold(temperature.fold(exported, 2.0), 2.0)
    with pytest.raises(UsageError, match="ONNX"):
        temperature.fold(exported[:500], 2.0)


# ------------------------------------------------------------------------------------------------------ transport


def test_transport_size_is_that_of_gzip() -> None:
    import gzip
    import shutil
    import subprocess

    data = bytes(100_000) + torch.arange(1000).numpy().tobytes()
    size, name = transport_bytes(data)
    assert name == "gzip -9"
    assert transport_bytes(data) == (size, name)
    assert len(gzip.decompress(gzip.compress(data))) == len(data)
    if tool := shutil.which("gzip"):
        found = len(subprocess.run([tool, "-9", "-n"], input=data, capture_output=True, check=True).stdout)
        assert abs(found - size) <= max(8, size // 100)  # another build of zlib may differ by a little
