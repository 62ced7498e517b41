"""Saving a pruned network without pickle, and building it again from the shapes of its tensors.

Loading needs the architecture's code and this file; no torch-pruning, no pruning history, no pickle.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from edgesafe.errors import (
    IntegrityError,
    NonFiniteError,
    StoreError,
    SurgeryError,
    UsageError,
    WeightsError,
)
from edgesafe.files import read_bounded
from edgesafe.records import VariantRecord
from edgesafe.surgery.format import decode, encode
from edgesafe.surgery.remove import owners, set_tensors
from edgesafe.surgery.sizes import KEY, apply_sizes, decode_sizes, encode_sizes, sizes_of
from edgesafe.surgery.sparse import pack, unpack
from edgesafe.surgery.verify import evaluate

__all__ = ["WEIGHTS_FILE", "load_bytes", "load_variant", "save_bytes", "tensors_of"]

WEIGHTS_FILE = "model.safetensors"
_RECORD_FILE = "variant.json"
_MOST_BYTES = 16 << 30  # as of other weights
_MOST_RECORD = 64_000_000  # bytes, as of other records


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a shared tensor once, under its first name."""
    first: dict[int, str] = {}
    named: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) == name:
            named[name] = tensor.detach()
    return named


def save_bytes(model: nn.Module, *, sparse: bool, metadata: dict[str, str] | None = None) -> bytes:
    """The network's weights as a safetensors file; equal weights give equal bytes.

    Args:
        model: any module; of its structure, only sizes that its forward reads from attributes are stored.
        sparse: store tensors with enough zeros as mask and values (`surgery.sparse`).
        metadata: strings to store with them.

    Raises:
        WeightsError: a tensor of a type that the format does not know.
    """
    tensors = tensors_of(model)
    extra: dict[str, str] = {}
    if sparse:
        tensors, extra = pack(tensors)
    sizes = sizes_of(model)
    if sizes:
        extra = {**extra, KEY: encode_sizes(sizes)}
    return encode(tensors, {**(metadata or {}), **extra})


def load_bytes(model_skeleton: nn.Module, data: bytes) -> nn.Module:
    """A copy of the skeleton with the file's tensors, as narrow as they are.

    Args:
        model_skeleton: the unpruned architecture (any weights); not modified.
        data: from `save_bytes`, or any safetensors file with the same names.

    Returns:
        A new module, bit-exact, in the skeleton's mode.

    Raises:
        WeightsError: names, types or ranks differ from the skeleton's, a tensor is larger than the skeleton's, or the
            tensors of a layer do not fit each other.
        NonFiniteError: a value is NaN or infinite.
    """
    stored, metadata = decode(data)
    tensors = unpack(stored, metadata)
    model = copy.deepcopy(model_skeleton)
    own = tensors_of(model)
    _require_fit(own, tensors)
    try:
        set_tensors(model, tensors)
    except SurgeryError as error:
        raise WeightsError(error.what, where=error.where, fix=error.fix) from error
    if KEY in metadata:
        apply_sizes(model, decode_sizes(metadata[KEY]), skeleton=model_skeleton)
    _require_layers_whole(model)
    return model


def load_variant(variant_dir: Path, arch: str | None = None) -> nn.Module:
    """The network of a variant of a study, in eval mode, bit-exact.

    Args:
        variant_dir: holds variant.json and model.safetensors.
        arch: the user's own code that builds it, "path/to/file.py:factory" or "package.module:factory", as variant.json
            names it; None: it is built in, or of torchvision or timm. No code runs because a file names it.

    Raises:
        UsageError: variant.json names code that `arch` does not.
        StoreError: a file is missing, or variant.json is not one.
        IntegrityError: the weights are not those that variant.json names.
        WeightsError: the weights do not fit the architecture.
    """
    from edgesafe import models
    from edgesafe.models.rewrite import option_a_to_conv

    directory = Path(variant_dir)
    record = _read_record(directory / _RECORD_FILE)
    if record.conversion is not None:
        raise StoreError(
            f"is {record.precision.value}: its network is that of its fp32 sibling", where=str(directory),
            fix=f"load {directory.parent / record.conversion.sibling}",
        )  # fmt: skip
    if arch != record.arch and models.runs_code(record.arch):
        raise UsageError(
            f"it is built by code that variant.json names, {record.arch}", where=str(directory),
            fix=f'give arch="{record.arch}" if you trust that code: it is run',
        )  # fmt: skip
    data = read_bounded(directory / WEIGHTS_FILE, _MOST_BYTES, "a variant's weights", StoreError)
    artefact = record.artefact(WEIGHTS_FILE)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if artefact is not None and artefact.sha256 != digest:
        raise IntegrityError(
            f"its hash is {digest[:19]}…, variant.json says {artefact.sha256[:19]}…",
            where=str(directory / WEIGHTS_FILE),
            fix="restore the file, or run the study again",
        )
    skeleton = models.build(record.arch, record.num_classes, dict(record.model_args))
    if record.surgery is not None and record.surgery.rewrites:
        option_a_to_conv(skeleton, record.input_shape)
    model = load_bytes(skeleton, data).eval()
    height, width, channels = record.input_shape
    try:
        evaluate(model, (torch.zeros(1, channels, height, width),))
    except RuntimeError as error:
        raise WeightsError(
            f"the layers do not fit each other: {str(error).splitlines()[0]}",
            where=str(directory / WEIGHTS_FILE),
            fix="run the study again",
        ) from error
    return model


def _read_record(path: Path) -> VariantRecord:
    try:
        return VariantRecord.model_validate_json(read_bounded(path, _MOST_RECORD, "a variant's record", StoreError))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"not a variant record that this version reads: {key}: {first['msg']}",
            where=str(path),
            fix="use the edgesafe version that wrote it",
        ) from error


def _require_fit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("unknown", extra))
            if names
        )
        raise WeightsError(
            f"its tensors are not the architecture's: {what}", where="weights", fix="check arch and args"
        )
    for name, tensor in tensors.items():
        old = own[name]
        narrower = tensor.dim() == old.dim() and all(a <= b for a, b in zip(tensor.shape, old.shape, strict=True))
        if tensor.dtype != old.dtype or not narrower or (tensor.numel() == 0 and old.numel() > 0):
            raise WeightsError(
                f"{tensor.dtype} {tuple(tensor.shape)} cannot come from {old.dtype} {tuple(old.shape)} by pruning",
                where=name,
                fix="check arch and args",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError("a stored weight is NaN or infinite", where=name, fix="run the study again")


def _require_layers_whole(model: nn.Module) -> None:
    """Tensors of one layer agree: its bias and statistics are as long as its weight has channels."""
    by_module: dict[int, tuple[nn.Module, str, dict[str, Tensor]]] = {}
    for name, places in owners(model).items():
        for module, attribute in places:
            entry = by_module.setdefault(id(module), (module, name.rpartition(".")[0], {}))
            entry[2][attribute] = cast("Tensor", getattr(module, attribute))
    for module, path, tensors in by_module.values():
        transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        vectors = {key: t.shape[0] for key, t in tensors.items() if t.dim() == 1 and key in _VECTORS}
        if "weight" in tensors and tensors["weight"].dim() > 1 and not transposed:
            vectors["weight"] = tensors["weight"].shape[0]
        if len(set(vectors.values())) > 1:
            raise WeightsError(f"its tensors have different lengths: {vectors}", where=path, fix="run the study again")


_VECTORS = frozenset({"weight", "bias", "running_mean", "running_var"})
