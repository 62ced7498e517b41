"""Modules of ours that need an extra."""

from __future__ import annotations

import importlib
from typing import Any

from edgesafe.errors import UsageError

__all__ = ["needs"]


def needs(module: str, extra: str) -> Any:
    """Import a module of ours that needs an extra.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgesafe"):
            raise
        raise UsageError(f"{error.name} is not installed", fix=f"pip install 'edgesafe[{extra}]'") from None
