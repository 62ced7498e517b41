"""Loading weights from a file, without ever running code that is in it.

Two formats: safetensors, and a torch file that `torch.load(weights_only=True)` accepts. `{"state_dict": …}`,
`{"model": …}` and prefixes that wrappers leave (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.`,
`net.`) are understood, in any order and depth. A file that also holds averaged weights (EMA) is read only with a key:
`FILE#KEY`.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, WeightsError, hint
from edgesafe.files import is_file, read_bounded

__all__ = ["load_weights", "read_state", "require_finite"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_AVERAGES = ("ema", "swa", "averaged")  #: in the key of weights that were averaged during training
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_MOST_BYTES = 16 << 30
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  #: heads of GoogLeNet and Inception that only serve training
#: What torch's reader is seen to raise on damaged files. KeyError to IndexError come out of its unpickler.
_DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError,
    IndexError, struct.error, AssertionError, MemoryError, OverflowError, ImportError,
)  # fmt: skip


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into `model`, in place, all keys or none.

    Args:
        model: as built; keeps its training mode and its frozen parameters.
        path: `.safetensors`, or a torch file that holds tensors only; `FILE#KEY` for the weights under one key of it.

    Raises:
        WeightsError: the file is missing, damaged, holds more than tensors, tensors that are no plain numbers, or does
            not fit (the first keys are named).
        NonFiniteError: a tensor holds a NaN or an infinity, or a number beyond float32 (it is named).
    """
    path = Path(path)
    own = model.state_dict()
    state = _without_prefixes(read_state(path), own)
    if getattr(model, "aux_logits", None) is False:
        state = {k: v for k, v in state.items() if not k.startswith(_AUXILIARY)}
    # Files from before torch 0.4.1 have no such counters; nothing reads them here.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(v.shape)} in the file, {tuple(own[k].shape)} in the network"
        for k, v in state.items()
        if k in own and not isinstance(own[k], nn.UninitializedParameter) and v.shape != own[k].shape
    ]
    problems = [
        f"{len(keys)} {label} ({_first(keys)})"
        for keys, label in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"does not fit the network: keys {', '.join(problems)}",
            where=str(path),
            fix="give the architecture, its args and the number of classes that the file was made with",
        )
    _require_numbers(state, own, where=str(path))
    require_finite(state.items(), where=str(path))
    model.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, by name, as they are named there, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, empty, or holds something that is not a tensor.
    """
    file, _, key = str(path).partition("#") if not is_file(path) else (str(path), "", "")
    content = read_bounded(Path(file), _MOST_BYTES, "a weights file", WeightsError)
    raw = _read_safetensors(content, path) if file.endswith(".safetensors") else _read_torch(content, path)
    return _unwrap(raw, path, key)


def _without_prefixes(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the network's names: prefixes that all keys share are taken off until the names fit."""
    tried = state
    while not any(key in own for key in tried):
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in tried)), None)
        if prefix is None:
            return state
        tried = {key.removeprefix(prefix): value for key, value in tried.items()}
    return tried


def _require_numbers(state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse tensors that are not the plain numbers that the network computes with.

    Raises:
        WeightsError: names the first tensor and its type: codes of a quantised network, booleans, complex numbers,
            sparse or meta tensors.
        NonFiniteError: a float64 number beyond float32.
    """
    for name, tensor in state.items():
        wanted = own[name]
        kind = ""
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
            kind = "quantised" if tensor.is_quantized else "a meta tensor" if tensor.is_meta else "sparse"
        elif wanted.is_floating_point() != tensor.is_floating_point() or (
            wanted.is_floating_point() and tensor.dtype not in _FLOATS
        ):
            kind = "of another kind of number"
        elif not wanted.is_floating_point() and tensor.dtype.is_complex:
            kind = "complex"
        if kind:
            raise WeightsError(
                f"{name} is {kind} ({tensor.dtype}; the network has {wanted.dtype})",
                where=where,
                fix="give the float weights that it was made from",
            )
        if tensor.dtype == torch.float64 and wanted.dtype == torch.float32:
            beyond = int((torch.isfinite(tensor) & ~torch.isfinite(tensor.to(torch.float32))).sum())
            if beyond:
                raise NonFiniteError(
                    f"{name} holds {beyond} float64 values beyond the range of float32",
                    where=where,
                    fix="use weights from before the training diverged",
                )


def require_finite(tensors: Iterable[tuple[str, Tensor]], *, where: str) -> None:
    """Refuse a NaN or an infinity.

    Raises:
        NonFiniteError: names the first such tensor and how many values of it are not finite.
    """
    for name, tensor in tensors:
        if isinstance(tensor, nn.UninitializedParameter) or not tensor.is_floating_point():
            continue
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise NonFiniteError(
                f"{name} holds {bad} of {tensor.numel()} values that are NaN or infinite",
                where=where,
                fix="use weights from before the training diverged",
            )


def _read_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return dict(sorted(load_safetensors(content).items()))
    except (SafetensorError, *_DAMAGE) as error:
        raise WeightsError(
            f"is not a whole safetensors file ({_one_line(error)})", where=str(path), fix="copy or download it again"
        ) from error


def _read_torch(content: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TorchScript archives, then refuses them
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"is not a file of tensors only, or is damaged; no code in it was run ({_one_line(error)})",
            where=str(path),
            fix="save model.state_dict(), best as safetensors",
        ) from error
    except _DAMAGE as error:
        raise WeightsError(
            f"is damaged or not a weights file ({_one_line(error)})", where=str(path), fix="copy or download it again"
        ) from error


def _unwrap(raw: Any, path: Path, key: str) -> dict[str, Tensor]:
    """The dictionary of tensors inside `{"state_dict": …}` and the like."""
    inner = raw
    if isinstance(inner, Mapping):
        inner = _chosen(inner, path, key)
    if not isinstance(inner, Mapping) or not inner:
        raise WeightsError(
            f"holds {'an empty dictionary' if isinstance(inner, Mapping) else type(raw).__name__}, not named tensors",
            where=str(path),
            fix="save model.state_dict()",
        )
    others = [str(name) for name, value in inner.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if others:
        packed = any("_packed_params" in name for name in others)
        raise WeightsError(
            f"holds {len(others)} entries that are not tensors ({_first(others)})"
            + (": a dynamically quantised network" if packed else ""),
            where=str(path),
            fix="save model.state_dict() of the float network, alone or under the key state_dict",
        )
    return dict(inner)


def _chosen(outer: Mapping[Any, Any], path: Path, key: str) -> Any:
    """What lies under the key asked for, or under the usual one.

    Raises:
        WeightsError: there is no such key, or averaged weights lie beside the others and none was asked for.
    """
    holders = [str(name) for name, value in outer.items() if _holds_tensors(value)]
    if key:
        if key not in holders:
            fix = hint(key, holders, "leave the key out: the tensors are at the top")
            raise WeightsError(f"no weights under '{key}'", where=str(path), fix=fix)
        return next(value for name, value in outer.items() if str(name) == key)
    averages = [name for name in holders if any(word in name.lower() for word in _AVERAGES)]
    usual = next((wrapper for wrapper in _WRAPPERS if wrapper in holders), None)
    if averages and (usual is not None or len(averages) > 1):
        both = ", ".join(f"'{name}'" for name in ([usual] if usual is not None else []) + averages)
        raise WeightsError(
            f"holds weights under {both}", where=str(path), fix=f'say which: model.weights = "{path}#{averages[0]}"'
        )
    if usual is not None:
        return outer[usual]
    wrapped = next((wrapper for wrapper in _WRAPPERS if isinstance(outer.get(wrapper), Mapping)), None)
    return outer[wrapped] if wrapped is not None else outer[averages[0]] if averages else outer


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}{'…' if len(text) > 120 else ''}"
