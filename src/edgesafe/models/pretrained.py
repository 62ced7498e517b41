"""Where trained weights are: a file, the caches of torchvision and timm, or a local folder of Hugging Face.

`model.weights` may say `"torchvision"` or `"timm"`: the weights that the library has for that architecture, from its
own cache, or downloaded by its own client. A folder holds `model.safetensors` and `config.json`, as timm and
`save_pretrained` write them; only these two files are read, and no code. Where the configuration names an architecture
or the classes, they must be the recipe's and the data's: the same classes in another order would be measured as wrong
answers.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesafe.errors import WeightsError
from edgesafe.files import is_file, is_folder, read_bounded

__all__ = ["find_weights"]

_MOST_BYTES = 16 << 20  #: of a configuration
_STATES = ("model.safetensors", "pytorch_model.bin")
_LIBRARIES = ("torchvision", "timm")


def find_weights(said: str, arch: str, classes: Sequence[str] = ()) -> Path:
    """The weights file that `model.weights` means.

    Args:
        said: a file (also `FILE#KEY`), a folder, "torchvision" or "timm".
        arch: as the recipe names it.
        classes: names of the data's classes, to compare with a folder's; empty: not compared.

    Raises:
        WeightsError: the library has none or cannot get them, the folder is not whole, or it was made for another
            architecture or for other classes.
    """
    if said in _LIBRARIES and not is_file(Path(said)):
        source, _, name = arch.rpartition(":")
        if source != said:
            raise WeightsError(
                f'weights = "{said}" goes with an architecture of {said}, not {arch}',
                where="model.weights",
                fix=f'give arch = "{said}:NAME", or a weights file',
            )
        return _of_torchvision(name) if said == "torchvision" else _of_timm(name)
    folder = Path(said)
    return _of_folder(folder, arch, classes) if is_folder(folder) else folder


def _of_torchvision(name: str) -> Path:
    from torchvision import models

    try:
        best = list(models.get_model_weights(name))
    except ValueError:
        best = []
    if not best:
        raise WeightsError(f"torchvision has no weights for {name}", where="model.weights", fix="give a file")
    default = models.get_model_weights(name).DEFAULT
    return _cached_by_torch(str(default.url))


def _of_timm(name: str) -> Path:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise WeightsError("timm is not installed", where="model.weights", fix="pip install timm") from error
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(f"timm has no weights for {name}", where="model.weights", fix="give a file")
    if not config.hf_hub_id:
        return _cached_by_torch(str(config.url))
    hub: Any = importlib.import_module("huggingface_hub")
    for file in _STATES:
        cached = hub.try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    try:
        return Path(hub.hf_hub_download(config.hf_hub_id, _STATES[0]))
    except Exception as error:  # the client raises errors of its own and of several libraries
        raise _unreachable(f"{config.hf_hub_id}/{_STATES[0]}", error) from error


def _cached_by_torch(url: str) -> Path:
    """The file of an address in torch's cache; downloaded and compared with the hash in its name if it is not there."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if is_file(path):
        return path
    prefix = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hashed = prefix if prefix != path.stem else None
        torch.hub.download_url_to_file(url, str(path), hash_prefix=hashed, progress=False)
    except (OSError, RuntimeError) as error:
        raise _unreachable(url, error, path) from error
    return path


def _unreachable(what: str, error: Exception, path: Path | None = None) -> WeightsError:
    place = f"put the file at {path}" if path is not None else "get it on another machine"
    return WeightsError(
        f"{what} is not in the cache and cannot be downloaded: {' '.join(str(error).split())[:160]}",
        where="model.weights",
        fix=f"{place}, or give weights = FILE",
    )


# ---------------------------------------------------------------------------------------------- folders


def _of_folder(folder: Path, arch: str, classes: Sequence[str]) -> Path:
    if is_file(folder / "model.safetensors.index.json"):
        raise WeightsError(
            "its weights are in several files", where=str(folder), fix="save them as one model.safetensors"
        )
    state = next((folder / name for name in _STATES if is_file(folder / name)), None)
    if state is None:
        raise WeightsError(
            "the folder holds no model.safetensors", where=str(folder), fix="give the folder of one model, or a file"
        )
    if is_file(folder / "config.json"):
        config = _read(folder / "config.json")
        _require_architecture(config, arch, folder)
        _require_classes(_classes_of(config), classes, folder)
    return state


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(read_bounded(path, _MOST_BYTES, "a model's configuration", WeightsError))
    except (ValueError, RecursionError) as error:
        raise WeightsError("is not JSON", where=str(path), fix="copy or download it again") from error
    if not isinstance(config, dict):
        raise WeightsError("is not a configuration", where=str(path), fix="copy or download it again")
    return config


def _require_architecture(config: Mapping[str, Any], arch: str, folder: Path) -> None:
    said = config.get("architecture")
    source, _, name = arch.rpartition(":")
    if isinstance(said, str) and source == "timm" and name.partition(".")[0] != said.partition(".")[0]:
        raise WeightsError(f"it holds {said}, not {name}", where=str(folder), fix=f'give arch = "timm:{said}"')


def _classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes, in the order of the scores; empty where the configuration does not say them."""
    inner = config.get("pretrained_cfg")
    for holder in (config, inner if isinstance(inner, dict) else {}):
        names = holder.get("label_names")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        numbered = holder.get("id2label")
        if isinstance(numbered, dict) and set(numbered) == {str(i) for i in range(len(numbered))}:
            return tuple(str(numbered[str(i)]) for i in range(len(numbered)))
    return ()


def _require_classes(given: Sequence[str], classes: Sequence[str], folder: Path) -> None:
    if not given or not classes or tuple(given) == tuple(classes):
        return
    if sorted(given) == sorted(classes):
        first = next(i for i, (a, b) in enumerate(zip(given, classes, strict=True)) if a != b)
        pair = f"class {first} is {given[first]!r} there and {classes[first]!r} in the data"
        raise WeightsError(
            f"its classes are in another order: {pair}",
            where=str(folder / "config.json"),
            fix="number the data's classes in its order (an npz with classes, or folders that sort so)",
        )
    odd = sorted(set(given) ^ set(classes))
    raise WeightsError(
        f"it was made for other classes: {len(given)} there, {len(classes)} in the data; not in both: "
        f"{', '.join(odd[:4])}{', …' if len(odd) > 4 else ''}",
        where=str(folder / "config.json"),
        fix="take the data that it was made for, or leave config.json out if only the names differ",
    )
