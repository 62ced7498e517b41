"""ONNX files as people bring them: read whole, so that what is hashed is all that runs.

A file may keep its weights in files beside it. They are read, within its own folder only, and put into the file: the
byte string that comes out is the one that is hashed, stored and measured.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Literal

import onnx

from edgesafe.errors import UsageError
from edgesafe.files import read_bounded
from edgesafe.measure.inference import protos
from edgesafe.measure.inference.inputs import InputSpec

__all__ = ["plain_spec", "read", "require_whole"]

MAX_BYTES = (1 << 31) - 1  # what a protobuf message can hold
_HALF_BYTE = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, getattr(onnx.TensorProto, "FLOAT4E2M1", -1)}


def read(path: Path) -> bytes:
    """A whole ONNX file: its own bytes, or those of the same network with the weights beside it put in.

    Raises:
        UsageError: it cannot be read, is not ONNX, or needs a file that is missing, damaged or outside its folder.
    """
    content = read_bounded(path, MAX_BYTES, "an ONNX file")
    model = protos.parse(content, str(path))
    outside = protos.external(model)
    _no_other_files(model, str(path))
    if not outside:
        return content
    _put_in(outside, path, MAX_BYTES - len(content))
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole


def require_whole(content: bytes, where: str) -> onnx.ModelProto:
    """The tree of a file that needs no other.

    Raises:
        UsageError: it is not ONNX, or keeps something elsewhere.
    """
    model = protos.parse(content, where)
    _no_other_files(model, where)
    if outside := protos.external(model):
        raise UsageError(
            f"keeps '{outside[0].name or 'a tensor'}' in another file, which no hash would cover",
            where=where,
            fix="save it as one file: onnx.save(onnx.load(PATH), NEW_PATH)",
        )
    return model


def _no_other_files(model: onnx.ModelProto, where: str) -> None:
    """Refuse nodes that make onnxruntime open a file of their own (compiled parts of a network)."""
    for node in protos.nodes(model):
        if node.op_type == "EPContext":
            raise UsageError(
                f"node '{node.name}' (EPContext) holds or names a compiled network",
                where=where,
                fix="give the ONNX file that it was compiled from",
            )


def _put_in(tensors: list[onnx.TensorProto], path: Path, room: int) -> None:
    """Replace references to files beside the model by the values that they name, in place.

    Args:
        tensors: those whose values lie in another file.
        path: of the model.
        room: bytes that all values may take.
    """
    folder = path.resolve().parent
    contents: dict[Path, bytes] = {}
    for tensor in tensors:
        where = f"{path}: {tensor.name or 'a tensor'}"
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = _place(said.get("location", ""), folder, where)
        if place not in contents:
            contents[place] = read_bounded(place, MAX_BYTES, "the file that holds the weights")
        values = _part(contents[place], said, _size(tensor, where), where)
        room -= len(values)
        if room < 0:
            raise UsageError("has over 2 GiB with its weights", where=str(path), fix="give a smaller network")
        tensor.raw_data = values
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def _place(location: str, folder: Path, where: str) -> Path:
    """Where a tensor's file lies: in the folder of the ONNX file, or below it.

    Raises:
        UsageError: anywhere else.
    """
    relative = PurePosixPath(location)
    unsafe = not location or relative.is_absolute() or ".." in relative.parts or "\\" in location or "\0" in location
    try:
        place = None if unsafe else (folder / relative).resolve()
    except (OSError, RuntimeError):  # a path too long; a circle of links
        place = None
    if place is None or folder not in place.parents:
        raise UsageError(
            f"its values lie in '{location[:80]}', outside the folder of the ONNX file",
            where=where,
            fix="save the network as one file: onnx.save(onnx.load(PATH), NEW_PATH)",
        )
    return place


def _size(tensor: onnx.TensorProto, where: str) -> int:
    """Number of bytes that a tensor's values take.

    Raises:
        UsageError: a negative side, or an element type that has no size.
    """
    if any(side < 0 for side in tensor.dims):
        raise UsageError(f"has shape {tuple(tensor.dims)[:8]}", where=where, fix="export it again")
    count: int = math.prod(tensor.dims)
    if tensor.data_type in _HALF_BYTE:
        return (count + 1) // 2
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"is of unknown type {tensor.data_type}", where=where, fix="export it again") from None


def _part(content: bytes, said: dict[str, str], size: int, where: str) -> bytes:
    try:
        start, length = int(said.get("offset", "0")), int(said.get("length", size))
    except ValueError:
        start, length = -1, -1
    if start < 0 or length != size or start + length > len(content):
        raise UsageError(
            f"its {size:,} bytes are not at {said.get('offset', '0')[:20]} of a file of {len(content):,}",
            where=where,
            fix="export it again, or copy both files again",
        )
    return content[start : start + length]


def plain_spec(content: bytes, where: str) -> InputSpec:
    """What a file says of its input; enough to time it, where the values of the pixels do not matter.

    Args:
        content: as `read` gives it.
        where: for messages.

    Raises:
        UsageError: not an ONNX file with one image input of type uint8 or float32.
    """
    graph = require_whole(content, where).graph
    weights = {tensor.name for tensor in graph.initializer}
    node = next((value for value in graph.input if value.name not in weights), None)
    tensor = node.type.tensor_type if node is not None else None
    kinds: dict[int, Literal["uint8", "float32"]] = {
        onnx.TensorProto.UINT8: "uint8",
        onnx.TensorProto.FLOAT: "float32",
    }
    if node is None or tensor is None or len(tensor.shape.dim) != 4 or tensor.elem_type not in kinds:
        raise UsageError("no image input of type uint8 or float32", where=where, fix="give an image classifier")
    channels_first = tensor.shape.dim[1].dim_value in (1, 3)
    return InputSpec(
        layout="NCHW" if channels_first else "NHWC",
        dtype=kinds[tensor.elem_type],
        input_name=node.name,
        output_name=graph.output[0].name,
    )
