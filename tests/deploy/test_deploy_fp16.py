"""Half precision, and sparse files of other precisions."""

import numpy as np
import onnx
import pytest
from deploy_fixtures import conv_chain, noise
from numpy.typing import NDArray

from edgesafe.deploy import fp16, int8, parity, sparse
from edgesafe.errors import RefusedError, UsageError
from edgesafe.measure.inference.session import OnnxClassifier

SHAPE = (8, 8, 3)


def weights(zero: float = 0.0, seed: int = 0) -> list[NDArray[np.float32]]:
    """Two convolutions, 3 -> 16 -> 5 channels, a share `zero` of their weights zero."""
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(shape).astype(np.float32) / 30 for shape in ((16, 3, 3, 3), (5, 16, 3, 3))]
    return [np.where(rng.random(w.shape) < zero, np.float32(0), w) for w in made]


def test_half_precision_is_half_the_size_and_close() -> None:
    data = conv_chain(weights(), side=8)
    half = fp16.convert(data)
    kinds = {t.data_type for t in onnx.load_from_string(half).graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds
    assert len(half) < 0.75 * len(data)
    found = parity.agreement(half, data, noise(64, SHAPE))
    assert 0 < found.max_abs_logit < 0.02 * float(np.abs(OnnxClassifier(data).logits(noise(64, SHAPE))).max())
    assert half == fp16.convert(data)


def test_numbers_that_half_precision_cannot_hold_are_refused() -> None:
    first, second = weights()
    second[2, 3] = 70_000
    with pytest.raises(RefusedError, match=r"w1: holds numbers beyond 65,504"):
        fp16.convert(conv_chain([first, second], side=8))
    with pytest.raises(UsageError, match="no float32 weight"):
        fp16.convert(fp16.convert(conv_chain([first], side=8)))


@pytest.mark.parametrize("zero", [0.0, 0.7, 0.97])
@pytest.mark.parametrize("kind", ["fp16", "int8", "int8, pixels as they are"])
def test_sparse_files_of_other_precisions_give_the_same_bits_and_fold(kind: str, zero: float) -> None:
    data, step = conv_chain(weights(zero), side=8), 1 if "as they are" in kind else 16
    dense = fp16.convert(data) if kind == "fp16" else int8.quantise(data, noise(32, SHAPE), step=step).onnx
    small = sparse.inflate(dense)
    sparse.assert_folds(small)
    images = noise(50, SHAPE, seed=3)
    np.testing.assert_array_equal(OnnxClassifier(small).logits(images), OnnxClassifier(dense).logits(images))
    before, after = (sum(len(t.raw_data) for t in onnx.load_from_string(f).graph.initializer) for f in (dense, small))
    assert (after < before) == (zero > 0.5 or kind == "int8")  # groups of pixels bring zeros of their own
