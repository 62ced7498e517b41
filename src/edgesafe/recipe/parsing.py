"""The recipe: what to compress, how, on what data, for which target. TOML in, one frozen record out.

Unknown keys are errors that name the nearest key; every default is filled in before anything runs.
"""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgesafe import files
from edgesafe.errors import RecipeError, hint, hint_of_choice
from edgesafe.recipe import shipped
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.sections import (
    CompressSection,
    RecoverSection,
    TargetSection,
)
from edgesafe.recipe.shipped import Kind

__all__ = ["from_flags", "from_values", "load", "parse", "target"]


#: Keys of earlier versions, and what to write now.
_RETIRED = {
    "export.int8": 'an int8 file is a variant of its own now: write export.precisions = ["fp32", "int8"]',
    "compress.ranking": 'write allocation = "uniform" for "layer", or allocation = "global"',
    "search.rankings": 'write allocations = ["uniform", "global"] for ["layer", "global"]',
}
_ALL_KEYS = "edgesafe compress --show-recipe prints every key"


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a path, or the name of one that ships; None: the quickstart) and apply `KEY=VALUE` overrides.

    A file with `extends = "OTHER.toml"` (relative to itself) holds only what differs from that recipe: tables are
    merged key by key, `[[compress]]` blocks by position, everything else is replaced.

    Raises:
        RecipeError: the file is missing, is not TOML, or does not say something that can be run.
    """
    source = shipped.find(Kind.RECIPE, path if path is not None else "quickstart")
    plain, _ = files.read_toml(source, "a recipe", RecipeError)
    if "extends" in plain:
        plain = _merged(_extended(source, plain.pop("extends")), plain)
    for item in overrides:
        _override(plain, item)
    return parse(plain, where=str(path) if path is not None else "quickstart")


def from_values(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its tables as a mapping, as a TOML file would hold them, and `KEY=VALUE` overrides.

    Raises:
        RecipeError: see `parse`.
    """
    plain = copy.deepcopy(dict(values))
    for item in overrides:
        _override(plain, item)
    return parse(plain)


def _extended(source: Path, base: object) -> dict[str, Any]:
    """The recipe that `source` extends."""
    where = f"{source}: extends"
    if not isinstance(base, str) or not base.endswith(".toml"):
        raise RecipeError("must be a path to a TOML file", where=where, fix='for example extends = "../study.toml"')
    plain, _ = files.read_toml(source.parent / base, "a recipe", RecipeError)
    if "extends" in plain:
        raise RecipeError(f"'{base}' extends another recipe itself", where=where, fix="extend that one directly")
    return plain


def _merged(base: Any, change: Any) -> Any:
    """Tables key by key, lists of tables by position; anything else is what the change says."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: _merged(base[key], value) if key in base else value for key, value in change.items()}
    tables = [*base, *change] if isinstance(base, list) and isinstance(change, list) else []
    if tables and all(isinstance(item, dict) for item in tables):
        shared = min(len(base), len(change))
        return [_merged(a, b) for a, b in zip(base, change, strict=False)] + base[shared:] + change[shared:]
    return change


def from_flags(flags: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe for the common case, without a file.

    Args:
        flags: any of model, weights, data, root, method, ratios; what is absent is smallnet, digits, filter, 0.5.
        overrides: as in `load`.

    Raises:
        RecipeError: see `parse`.
    """
    model, data = flags.get("model", "smallnet"), flags.get("data", "digits")
    method = flags.get("method", "filter")
    plain: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{data}-{method}").strip("-."),
        "model": {"arch": model, **({"weights": flags["weights"]} if "weights" in flags else {})},
        "data": {"name": data, **({"root": flags["root"]} if "root" in flags else {})},
        "compress": [{"method": method, "ratios": list(flags.get("ratios", [0.5]))}],
    }
    for item in overrides:
        _override(plain, item)
    return parse(plain, where="flags")


def parse(plain: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Build a recipe from plain values, with the target's values filled in from its file, and a block's from [recover].

    Raises:
        RecipeError: with the dotted key and, for an unknown key, the nearest known one.
    """
    values = dict(plain)
    if str(values.get("schema", "edgesafe.recipe/1")) != "edgesafe.recipe/1":
        raise RecipeError(
            f"schema '{values['schema']}' is not known",
            where=f"{where}: schema",
            fix='this version reads "edgesafe.recipe/1"',
        )
    _check_numbers(values, where)
    values["target"] = _resolve_target(values.get("target", {}))
    try:
        made = Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, Recipe, where) from None
    return made.model_copy(update={"compress": tuple(_with_recovery(block, made.recover) for block in made.compress)})


def target(name: str) -> TargetSection:
    """A target by itself: a TOML file, or the name of one that ships.

    Raises:
        RecipeError: there is no such file, or it does not say what a target must.
    """
    try:
        return TargetSection.model_validate(_resolve_target({"name": name}))
    except ValidationError as error:
        raise _explain(error, TargetSection, name) from None


def _check_numbers(value: object, where: str) -> None:
    """Refuse whole numbers beyond 64 bits: no seed, size or count can be meant.

    Raises:
        RecipeError: names the key.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RecipeError("a number beyond 64 bits", where=where, fix="give a smaller one")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        _check_numbers(inner, f"{where}: {key}" if ":" not in where else f"{where}.{key}")


def _with_recovery(block: CompressSection, shared: RecoverSection) -> CompressSection:
    """A block whose own recovery, if it has one, is whole: keys that it does not give are those of [recover]."""
    if block.recover is None:
        return block
    own = {key: getattr(block.recover, key) for key in block.recover.model_fields_set}
    return block.model_copy(update={"recover": shared.model_copy(update=own)})


def _resolve_target(section: object) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        raise RecipeError("must be a table", where="target", fix='write [target] and name = "host-1t"')
    name = section.get("name", TargetSection().name)
    if not isinstance(name, str):
        raise RecipeError(
            "must be a string", where="target.name", fix=f"one of: {', '.join(shipped.available(Kind.TARGET))}"
        )
    if {"threads", "round_to", "provider"} <= set(section) and name not in shipped.available(Kind.TARGET):
        return dict(section)  # whole by itself, as a study keeps it: the file that it came from may be gone
    path = shipped.find(Kind.TARGET, name)
    file, _ = files.read_toml(path, "a target", RecipeError)
    if file.pop("schema", None) != "edgesafe.target/1":
        raise RecipeError("not a target file", where=str(path), fix='it must say schema = "edgesafe.target/1"')
    file.pop("description", None)
    return {**file, **section, "name": file.get("name", name)}


def _override(plain: dict[str, Any], item: str) -> None:
    key, separator, raw = item.partition("=")
    key, raw = key.strip(), raw.strip()
    if not separator or not key or not raw:
        raise RecipeError(f"--set {item}: not KEY=VALUE", fix="for example --set recover.epochs=2")
    if not item.isprintable():  # a newline would be a second key; a lone surrogate cannot be stored
        raise RecipeError(f"--set {item!a}: holds a control character", fix="for example --set recover.epochs=2")
    if key.count(".") > 20:
        raise RecipeError(f"--set {item[:60]}…: nested too deeply", fix="for example --set recover.epochs=2")
    try:
        value = files.parse_toml(f"v = {raw}", f"--set {item[:60]}", RecipeError)["v"]
    except RecipeError:
        if raw[0] in "[{\"'":
            raise RecipeError(f"--set {item}: the value is not TOML", fix="for example ratios=[0.3,0.5]") from None
        value = raw  # a bare word is a string
    _assign(plain, key.split("."), value, item)


def _assign(plain: dict[str, Any], parts: list[str], value: Any, item: str) -> None:
    """Set a dotted key; missing tables and lists on the way are made."""
    node: Any = plain
    for position, part in enumerate(parts):
        here, last = ".".join(parts[:position]), position == len(parts) - 1
        if isinstance(node, list):
            if not _is_position(part) or int(part) > len(node):
                raise RecipeError(
                    f"--set {item}: no entry '{part}'", where=here, fix=f"count from 0; there are {len(node)}"
                )
            index: int | str = int(part)
            if index == len(node):
                node.append({})
        elif isinstance(node, dict):
            index = part
            if not last:
                node.setdefault(part, [] if _is_position(parts[position + 1]) else {})
        else:
            raise RecipeError(f"--set {item}: '{here}' is a value, not a table", fix="shorten the key")
        if last:
            node[index] = value
        else:
            node = node[index]


def _is_position(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 5


def _explain(error: ValidationError, root: type[BaseModel], where: str) -> RecipeError:
    """The first problem of a validation error as one helpful line (unknown keys first: they cause others)."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    place = f"{where}: {key}" if key else where
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    if retired := _RETIRED.get(re.sub(r"\.\d+", "", key)):
        return RecipeError(f"no longer a key{more}", where=place, fix=retired)
    if first["type"] == "extra_forbidden":
        fix = hint(str(first["loc"][-1]), _keys_at(root, first["loc"][:-1]), _ALL_KEYS)
        return RecipeError(f"unknown key{more}", where=place, fix=fix)
    if first["type"] == "missing":
        return RecipeError(f"missing{more}", where=place, fix=f"add {key} to the recipe")
    message, _, own_fix = str(first["msg"]).removeprefix("Value error, ").partition("; ")
    given = "" if isinstance(first["input"], Mapping) or not key else f" (given: {first['input']!r})"
    if first["type"] == "model_type":
        message = "must be a table"
    fix = own_fix or hint_of_choice(first, _ALL_KEYS)
    if ".ratios" in key:
        fix = "a ratio lies between 0 and 1, both excluded, for example 0.5"
    return RecipeError(f"{message}{given}{more}", where=place, fix=fix)


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        inner = [
            a for a in (annotation, *typing.get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        if not inner:
            return []
        model = inner[0]
    return [field.alias or name for name, field in model.model_fields.items()]
