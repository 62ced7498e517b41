"""Architectures of others: `torchvision:NAME`, `timm:NAME`, `path/to/file.py:factory`, `package.module:factory`.

A factory is called as `factory(num_classes=K, **args)` and returns an `nn.Module` that maps float32 (n, C, H, W) to
logits (n, K). Its code runs: name only files that you trust.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgesafe.errors import EdgesafeError, UsageError, hint, one_line

__all__ = ["build_external", "is_external", "runs_code"]


def is_external(arch: str) -> bool:
    """Whether `arch` names something outside the built-in families."""
    return ":" in arch


def runs_code(arch: str) -> bool:
    """Whether `arch` names code of the user, which runs when it is built: a file, or a module other than libraries."""
    return is_external(arch) and arch.rpartition(":")[0] not in ("torchvision", "timm")


def build_external(arch: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    """Build `torchvision:NAME`, `timm:NAME`, `file.py:factory` or `package.module:factory`, without weights.

    Raises:
        UsageError: no such library, name, file, module or factory; or the factory failed or gave no module.
    """
    source, _, name = arch.rpartition(":")
    if not source or not name:
        raise UsageError(f"arch {arch!r} is not of the form source:name", where="model.arch", fix=_FORMS)
    if source == "torchvision":
        return _torchvision(name, num_classes, args)
    if source == "timm":
        return _timm(name, num_classes, args)
    module = _module_from_file(source) if source.endswith(".py") else _module_by_name(source)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"{source} has no callable {name!r}", where="model.arch", fix=hint(name, known, "define it"))
    return _call(arch, factory, {"num_classes": num_classes, **args})


_FORMS = 'give "torchvision:NAME", "timm:NAME", "path/to/file.py:factory" or "package.module:factory"'


def _torchvision(name: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(
            "torchvision is not installed", where=f"torchvision:{name}", fix="pip install 'edgesafe[compress]'"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        fix = hint(name, known, "torchvision.models.list_models() lists them")
        raise UsageError(f"torchvision has no classifier {name!r}", where="model.arch", fix=fix)
    options: dict[str, Any] = {"num_classes": num_classes, **args}
    if name in (
        "googlenet",
        "inception_v3",
    ):  # auxiliary heads only serve training; both warn unless told
        options = {"aux_logits": False, "init_weights": True, **options}
    return _call(f"torchvision:{name}", models.get_model, {"name": name, "weights": None, **options})


def _timm(name: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise UsageError(f"timm cannot be imported: {error}", where=f"timm:{name}", fix="repair it") from error
        raise UsageError("timm is not installed", where=f"timm:{name}", fix="pip install timm") from error
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        fix = hint(name, timm.list_models(), "timm.list_models() lists them")
        raise UsageError(f"timm has no model {name!r}", where="model.arch", fix=fix)
    return _call(
        f"timm:{name}", timm.create_model, {"model_name": name, "pretrained": False, "num_classes": num_classes, **args}
    )


def _module_from_file(source: str) -> ModuleType:
    path = Path(source)
    if not path.is_file():
        raise UsageError("no such file", where=source, fix="give the path of a Python file, from the current directory")
    # A name of its own, so that two files called model.py do not meet.
    name = f"edgesafe_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("cannot be loaded as Python code", where=source, fix="give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"failed while loading: {one_line(error)}", where=source, fix="mend the file") from error
    return module


def _module_by_name(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"cannot be imported: {one_line(error)}", where=source, fix=f"install it, or mend it; {_FORMS}"
        ) from error


def _call(arch: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> nn.Module:
    try:
        model = factory(**options)
    except EdgesafeError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"the factory failed: {one_line(error)}", where=arch, fix="check model.args and the number of classes"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the factory returned {type(model).__name__}, not a torch.nn.Module", where=arch, fix="return a module"
        )
    return model
