"""Whether a file is a function of one image: the same logits alone, in a batch, in another order, and again.

A network exported in training mode normalises by the batch that an image happens to be in; one with a random operator
answers differently each time. No number measured on such a file says what it will do in use.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgesafe.errors import RefusedError
from edgesafe.measure.inference import protos
from edgesafe.measure.inference.classifier import Classifier

__all__ = ["IMAGES", "require_fixed_operators", "require_independence"]

IMAGES = 32  # that are looked at together
_ALONE = 8  # of them that are looked at alone, and in threes
_TOLERANCE = 1e-3  # of the spread of the logits: sums in another order differ by 1e-6 of it
_COARSE = 3e-2  # likewise after quantised operators, where a rounding may fall the other way
_RANDOM = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial",
}  # fmt: skip
_DYNAMIC = ("DynamicQuantize", "MatMulIntegerToFloat")


class _BatchClassifier(Classifier, Protocol):
    """A classifier that says which batch size its file fixes, if any, and whether it holds quantised operators."""

    @property
    def batch(self) -> int | None: ...

    @property
    def quantised(self) -> bool: ...


def require_fixed_operators(model: onnx.ModelProto, where: str) -> None:
    """Refuse operators that draw at random, or whose result depends on the images beside.

    Raises:
        RefusedError: names the node and the operator.
    """
    false = {tensor.name for graph in protos.graphs(model) for tensor in graph.initializer if _is_false(tensor)}
    nodes = list(protos.nodes(model))
    false |= {
        node.output[0]
        for node in nodes
        if node.op_type == "Constant" and node.output and any(_is_false(item.t) for item in node.attribute)
    }
    dimension = model.graph.input[0].type.tensor_type.shape.dim[:1]
    alone = bool(dimension) and dimension[0].dim_value == 1
    for node in nodes:
        training = protos.attribute(node, "training_mode")
        what = ""
        if node.op_type in _RANDOM:
            what = "draws at random"
        elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] and node.input[2] not in false:
            what = "drops at random (training mode)"
        elif node.op_type == "BatchNormalization" and training is not None and training.i:
            what = "normalises by the batch (training mode)"
        elif node.op_type.startswith(_DYNAMIC) and not alone:
            what = "quantises by the batch; a file of batch size 1 would not"
        if what:
            raise RefusedError(
                f"node '{node.name or node.output[0] if node.output else ''}' ({node.op_type}) {what}: "
                "the answer for an image is not a function of that image",
                where=where,
                fix="export the network in eval mode, without random operators",
            )


def _is_false(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.BOOL:
        return False
    try:
        return not numpy_helper.to_array(tensor).any()
    except (ValueError, TypeError):
        return False


def require_independence(classifier: _BatchClassifier, images: NDArray[np.uint8], where: str) -> None:
    """Compare the logits of a few images alone, in a batch, in another order, and again.

    Args:
        classifier: an opened file; a fixed batch size is filled with copies.
        images: uint8 (n, H, W, C), n >= 1; `IMAGES` are used.
        where: for messages.

    Raises:
        RefusedError: the logits of an image depend on something else than the image.
    """
    few = images[:IMAGES]
    if len(few) < 4:  # neighbours that differ
        few = np.concatenate([few, 255 - few, few // 2, 255 - few // 2])
    n, alone = len(few), few[:_ALONE]
    whole = classifier.logits(few, n)
    spread = float((whole.max(axis=1) - whole.min(axis=1)).max())
    limit = (_COARSE if classifier.quantised else _TOLERANCE) * max(spread, 1e-6)
    tries = (
        ("on chance: the same images again give others", whole, lambda: classifier.logits(few, n)),
        ("on its place in the batch", whole, lambda: classifier.logits(few[::-1], n)[::-1]),
        (
            "on the images beside it",
            whole[: len(alone)],
            lambda: np.concatenate([classifier.logits(x[None], 1) for x in alone]),
        ),
        ("on the size of the batch", whole[: len(alone)], lambda: classifier.logits(alone, 3)),
    )
    for what, before, again in tries:
        off = float(np.abs(again() - before).max())
        if off > limit:
            raise RefusedError(
                f"the logits of an image depend {what} (by up to {off:.3g}; their spread is {spread:.3g})",
                where=where,
                fix="export the network in eval mode: each answer must be a function of one image",
            )
