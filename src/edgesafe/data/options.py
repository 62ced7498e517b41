"""What a recipe's `data.args` says, as the record of one kind of image set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgesafe.errors import DataError, hint, hint_of_choice

__all__ = ["require_none", "validated"]

_M = TypeVar("_M", bound=BaseModel)


def require_none(args: Mapping[str, Any], what: str) -> None:
    """Refuse options of a data set that has none.

    Args:
        args: `data.args` of the recipe.
        what: the data set, in words.

    Raises:
        DataError: there is one; names the first.
    """
    if args:
        raise DataError(f"{what} takes no options", where=f"data.args.{next(iter(args))}", fix="remove it")


def validated(model: type[_M], args: Mapping[str, Any], takes: str) -> _M:
    """The options of an image set.

    Args:
        model: what the set takes.
        args: `data.args` of the recipe.
        takes: how the message that lists the options begins ("aircraft takes").

    Raises:
        DataError: an unknown option, or a value that cannot be used; names the first.
    """
    try:
        return model.model_validate(dict(args))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        takes_all = f"{takes} {', '.join(model.model_fields)}"
        if first["type"] == "extra_forbidden":
            raise DataError(
                "unknown key", where=f"data.args.{key}", fix=hint(key, model.model_fields, takes_all)
            ) from None
        raise DataError(str(first["msg"]), where=f"data.args.{key}", fix=hint_of_choice(first, takes_all)) from None
