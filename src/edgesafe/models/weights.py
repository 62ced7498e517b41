"""Loading weights from a file, without ever running code that is in it.

Two formats: safetensors, and a torch file that `torch.load(weights_only=True)` accepts. `{"state_dict": …}`,
`{"model": …}` and the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile) are understood.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, WeightsError

__all__ = ["load_weights", "read_state", "require_finite"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
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
        path: `.safetensors`, or a torch file that holds tensors only.

    Raises:
        WeightsError: the file is missing, damaged, holds more than tensors, or does not fit (the first keys are named).
        NonFiniteError: a tensor holds a NaN or an infinity (it is named).
    """
    path = Path(path)
    state = read_state(path)
    own = model.state_dict()
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
        f"{len(found)} {label} ({_first(found)})"
        for found, label in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if found
    ]
    if problems:
        raise WeightsError(
            f"does not fit the network: keys {', '.join(problems)}",
            where=str(path),
            fix="give the architecture, its args and the number of classes that the file was made with",
        )
    require_finite(state.items(), where=str(path))
    model.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, by name, prefixes removed, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, empty, or holds something that is not a tensor.
    """
    if not path.is_file():
        raise WeightsError("no such file", where=str(path), fix="check model.weights")
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(raw, path)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, *_DAMAGE) as error:
        raise WeightsError(
            f"is not a whole safetensors file ({_one_line(error)})", where=str(path), fix="copy or download it again"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of TorchScript archives, then refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _unwrap(raw: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside `{"state_dict": …}` and the like."""
    inner = raw
    if isinstance(inner, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(inner.get(wrapper), Mapping):
                inner = inner[wrapper]
                break
    if not isinstance(inner, Mapping) or not inner:
        raise WeightsError(
            f"holds {'an empty dictionary' if isinstance(inner, Mapping) else type(raw).__name__}, not named tensors",
            where=str(path),
            fix="save model.state_dict()",
        )
    others = [str(key) for key, value in inner.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"holds {len(others)} entries that are not tensors ({_first(others)})",
            where=str(path),
            fix="save model.state_dict() alone, or under the key state_dict",
        )
    return dict(inner)


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}{'…' if len(text) > 120 else ''}"
