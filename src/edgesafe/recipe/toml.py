"""Plain values and whole recipes as TOML text."""

from __future__ import annotations

import json
import re
from typing import Any

from edgesafe.recipe.recipe import Recipe

__all__ = ["dump_toml", "toml_value"]


def dump_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; keys whose default is "none" are shown as comments."""
    plain = recipe.resolved()
    lines = [f"{key} = {toml_value(plain[key])}" for key in ("schema", "name", "seeds")]
    for key, value in plain.items():
        blocks = value if key == "compress" else [value] if isinstance(value, dict) else []
        for block in blocks:
            lines += ["", f"[[{key}]]" if key == "compress" else f"[{key}]"]
            lines += [f"# {k} = (not set)" if v is None else f"{k} = {toml_value(v)}" for k, v in block.items()]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A plain value as TOML text; TOML has no "none", so such a key of a table is left out."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
