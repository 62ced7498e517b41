"""Finding the files that ship with edgesafe by name: recipes, targets, policies; and the support table.

In a wheel they lie in `edgesafe/configs`, in a checkout in `configs` at the repository root.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from edgesafe.errors import PolicyError, RecipeError, UsageError, hint
from edgesafe.files import is_file

__all__ = ["Kind", "available", "device_script", "find", "support_table"]

_HERE = Path(__file__).resolve().parents[1]
_ROOTS = (_HERE / "configs", _HERE.parents[1] / "configs")


class Kind(StrEnum):
    """What ships; the value is what a message calls it."""

    RECIPE = "recipe"
    POLICY = "policy"
    TARGET = "target"


_FOLDERS = {Kind.RECIPE: "", Kind.POLICY: "policies", Kind.TARGET: "targets"}
_ERRORS = {Kind.RECIPE: RecipeError, Kind.POLICY: PolicyError, Kind.TARGET: RecipeError}


def find(kind: Kind, name: str | Path) -> Path:
    """The file of a shipped name such as "quickstart", or the path itself.

    Whatever has a folder in it or ends in ".toml" is a path; a bare name is a shipped one, and only where none is
    called so, a file of that name. A file that lies about never takes the place of a shipped one.

    Raises:
        PolicyError, RecipeError: there is no such file; the nearest name is given.
    """
    text = str(name)
    for root in _ROOTS:
        path = root / _FOLDERS[kind] / f"{text}.toml"
        if Path(text).name == text and is_file(path):
            return path
    if _exists(Path(text)):
        return Path(text)
    shipped = hint(Path(text).name.removesuffix(".toml"), available(kind), "none ships")
    if Path(text).name == text and not text.endswith(".toml"):
        raise _ERRORS[kind](f"unknown {kind} '{text}'", fix=f"{shipped} (a TOML file is given by its path)")
    raise _ERRORS[kind]("no such file", where=text, fix=f"check the path; {shipped}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def available(kind: Kind) -> tuple[str, ...]:
    """The names of the files of this kind that ship with edgesafe, sorted."""
    return tuple(sorted({path.stem for root in _ROOTS for path in (root / _FOLDERS[kind]).glob("*.toml")}))


def device_script() -> Path:
    """The stand-alone script that times ONNX files on a device.

    Raises:
        UsageError: it is not installed.
    """
    places = _HERE / "bench_target.py", _HERE.parents[1] / "export" / "bench_target.py"
    return _installed(places, "the script for devices is not installed", "install edgesafe again")


def support_table() -> Path:
    """The committed support table as JSON.

    Raises:
        UsageError: it is not installed.
    """
    places = _HERE / "support.json", _HERE.parents[1] / "docs" / "support.json"
    return _installed(places, "the support table is not installed", "read docs/support.md of the repository")


def _installed(places: tuple[Path, ...], missing: str, fix: str) -> Path:
    """The first of some places, in a wheel or in a checkout, where a file lies."""
    for path in places:
        if path.is_file():
            return path
    raise UsageError(missing, fix=fix)
