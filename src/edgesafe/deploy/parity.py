"""Comparison of an exported file's logits with the network's, on real images, under onnxruntime.

Tolerance on the logits: 1e-4 absolute, as long as they are ordinary (no |logit| above 100). That bounds what matters:
no probability moves by more than 5e-5. A float32 cannot keep it for larger ones, which untrained deep networks give;
there, 5e-6 of the largest |logit| is allowed. Measured: 2e-5 (ResNet-20), and at most 1.7e-6 of the largest |logit|
(PreResNet-110 with random weights).

Same arg max: on every image the classes must agree, except where the reference itself is undecided, that is, where its
two logits differ by less than a tenth of the tolerance. Such ties still count as disagreement in `argmax_agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgesafe.deploy.export import PixelNet
from edgesafe.errors import NonFiniteError, NothingEvaluated, ParityError
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.records import Agreement, Parity

__all__ = ["ABSOLUTE", "ORDINARY", "RELATIVE", "agreement", "check_files", "check_torch", "compare", "tolerance"]

_DENSE, _SPARSE = "model.onnx", "model.sparse.onnx"
ABSOLUTE = 1e-4  #: in logits
ORDINARY = 100.0  #: the largest |logit| up to which it applies
RELATIVE = 5e-6  #: of the largest |logit|, above that


def check_torch(
    model: nn.Module,
    onnx: bytes,
    images: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    ranked: bool = True,
) -> Parity:
    """Compare an exported file with the network that it came from.

    Args:
        model: the network, run in eval mode; its modes are restored.
        onnx: the exported file.
        images: uint8 (n, H, W, C), real ones.
        mean: per channel, as exported.
        std: per channel, as exported.
        ranked: whether the largest output is the answer, which must then be the same.

    Raises:
        ParityError: logits differ by more than the tolerance, or a class differs.
        NonFiniteError: either gives a NaN or an infinity.
        NothingEvaluated: no images.
    """
    _require_images(images, _DENSE)
    modes = [(module, module.training) for module in model.modules()]
    try:
        net = PixelNet(model, mean, std).eval()
        with torch.no_grad():
            parts = [net(torch.from_numpy(images[i : i + 32])).numpy() for i in range(0, len(images), 32)]
    finally:
        for module, mode in modes:
            module.training = mode
    outputs = OnnxClassifier(onnx).logits(images)
    return compare(np.concatenate(parts), outputs, file=_DENSE, reference="torch", ranked=ranked)


def check_files(
    sparse: bytes,
    dense: bytes,
    images: NDArray[np.uint8],
    *,
    ranked: bool = True,
) -> Parity:
    """Compare model.sparse.onnx with model.onnx: every logit must be the same float32.

    Args:
        sparse: the file under test.
        dense: what it must equal.
        images: uint8 (n, H, W, C), real ones.
        ranked: see `check_torch`.

    Raises:
        ParityError: they differ by more than allowed.
        NonFiniteError: either gives a NaN or an infinity.
        NothingEvaluated: no images.
    """
    _require_images(images, _SPARSE)
    candidate, wanted = OnnxClassifier(sparse).logits(images), OnnxClassifier(dense).logits(images)
    return compare(wanted, candidate, file=_SPARSE, reference=_DENSE, bit_equal=True, ranked=ranked)


def tolerance(reference: NDArray[np.float32]) -> float:
    """Largest |difference| allowed for these reference logits, float32 (n, K)."""
    largest = float(np.abs(reference).max())
    return ABSOLUTE if largest <= ORDINARY else RELATIVE * largest


def compare(
    wanted: NDArray[np.float32],
    candidate: NDArray[np.float32],
    *,
    file: str,
    reference: str,
    bit_equal: bool = False,
    ranked: bool = True,
) -> Parity:
    """Compare logits float32 (n, K) of a file with those of its reference.

    Raises:
        ParityError: shapes, values or classes differ by more than allowed.
        NonFiniteError: a NaN or an infinity on either side.
    """
    _require_comparable(wanted, candidate, file, reference)
    difference = np.abs(wanted.astype(np.float64) - candidate.astype(np.float64))
    worst = int(difference.max(axis=1).argmax())
    largest, allowed = float(difference[worst].max()), 0.0 if bit_equal else tolerance(wanted)
    if largest > allowed:
        raise ParityError(
            f"differs from {reference} by {largest:.3g} in a logit (image {worst} of {len(wanted)}); "
            f"allowed: {'nothing, bit for bit' if bit_equal else f'{allowed:.3g}'}",
            where=file,
            fix="do not ship it; look for an operator that the exporter writes differently",
        )
    before, after = wanted.argmax(axis=1), candidate.argmax(axis=1)
    rows = np.flatnonzero(before != after)
    margins = wanted[rows, before[rows]].astype(np.float64) - wanted[rows, after[rows]]
    decided = rows[margins > allowed / 10]
    if ranked and len(decided):
        raise ParityError(
            f"gives another class than {reference} on {len(decided)} of {len(wanted)} images (first: {decided[0]})",
            where=file,
            fix="do not ship it; compare the two layer by layer",
        )
    return Parity(
        file=file,
        reference=reference,
        max_abs_logit=largest,
        argmax_agreement=1.0 - len(rows) / len(wanted) if ranked else None,
        n=len(wanted),
        bit_equal=bool(np.array_equal(wanted, candidate)),
    )


def agreement(converted: bytes, source: bytes, images: NDArray[np.uint8], *, ranked: bool = True) -> Agreement:
    """How far a file's logits are from those of the one that it was converted from; nothing is refused by the distance.

    Args:
        converted: an int8 or fp16 file.
        source: the float32 file.
        images: uint8 (n, H, W, C), real ones.
        ranked: see `check_torch`.

    Raises:
        ParityError: the files have other numbers of classes.
        NonFiniteError: either gives a NaN or an infinity.
        NothingEvaluated: no images.
    """
    _require_images(images, "model.onnx")
    got, wanted = OnnxClassifier(converted).logits(images), OnnxClassifier(source).logits(images)
    _require_comparable(wanted, got, "model.onnx", "the fp32 sibling's model.onnx")
    return Agreement(
        max_abs_logit=float(np.abs(wanted.astype(np.float64) - got).max()),
        argmax_agreement=float((wanted.argmax(axis=1) == got.argmax(axis=1)).mean()) if ranked else None,
        n=len(wanted),
    )


def _require_comparable(wanted: NDArray[np.float32], candidate: NDArray[np.float32], file: str, reference: str) -> None:
    for name, logits in ((reference, wanted), (file, candidate)):
        if not np.isfinite(logits).all():
            raise NonFiniteError("gives logits that are NaN or infinite", where=name, fix="check weights, mean and std")
    if wanted.shape != candidate.shape:
        raise ParityError(
            f"gives logits {candidate.shape}, {reference} gives {wanted.shape}", where=file, fix="export it again"
        )


def _require_images(images: NDArray[np.uint8], file: str) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise NothingEvaluated(
            f"no images to compare on ({images.dtype} {images.shape})", where=file, fix="give uint8 (n, H, W, C), n > 0"
        )
