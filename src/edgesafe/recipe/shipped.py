"""Finding the files that ship with edgesafe: the quickstart recipe, targets, policies, the support table.

In a wheel they lie in `edgesafe/configs`, in a checkout in `configs` at the repository root.
"""

from __future__ import annotations

from pathlib import Path

from edgesafe.errors import UsageError
from edgesafe.files import is_file

__all__ = ["available", "find", "support_table"]

_HERE = Path(__file__).resolve().parents[1]
_ROOTS = (_HERE / "configs", _HERE.parents[1] / "configs")


def find(kind: str, name: str) -> Path:
    """The file `configs/<kind>/<name>.toml`, or `name` itself if it is a path to a TOML file.

    Args:
        kind: folder: "targets", "policies", or "" for recipes.
        name: a name without ending, or a path that ends in ".toml".

    Raises:
        UsageError: there is no such file.
    """
    if name.endswith(".toml"):
        if is_file(Path(name)):
            return Path(name)
        raise UsageError("no such file", where=name, fix=f"give a path to a TOML file, or one of: {_names(kind)}")
    for root in _ROOTS:
        path = root / kind / f"{name}.toml"
        if is_file(path):
            return path
    raise UsageError(f"unknown {kind.rstrip('s') or 'recipe'} '{name}'", fix=f"use one of: {_names(kind)}")


def available(kind: str) -> tuple[str, ...]:
    """Names that `find` knows, sorted."""
    return tuple(sorted({path.stem for root in _ROOTS for path in (root / kind).glob("*.toml")}))


def _names(kind: str) -> str:
    return ", ".join(available(kind)) or "(none installed)"


def support_table() -> Path:
    """The committed support table as JSON.

    Raises:
        UsageError: it is not installed.
    """
    for path in (_HERE / "support.json", _HERE.parents[1] / "docs" / "support.json"):
        if path.is_file():
            return path
    raise UsageError("the support table is not installed", fix="read docs/support.md of the repository")
