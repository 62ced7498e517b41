"""`module:factory`: data sets that a function of the user's gives, as arrays or as objects that are asked for images.

The function returns a mapping, of x_train, y_train, x_test, y_test (and x_val, y_val, classes), or of train and test
(and val): data sets of pairs, as torch.utils.data.Dataset has them. An x_ that is no array only has to have __len__ and
__getitem__.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from edgesafe.data import items, mappings
from edgesafe.data.cache import Cache
from edgesafe.data.raw import RawData
from edgesafe.errors import DataError, EdgesafeError, one_line
from edgesafe.recipe.sections import DataSection

__all__ = ["load"]

_PARTS = ("train", "test", "val")


def load(section: DataSection, cache: Cache) -> RawData:
    """What the function that `data.name` names gives for `data.args`.

    Raises:
        DataError: it cannot be imported, fails, or gives something else.
    """
    module_name, _, attribute = section.name.partition(":")
    where = f"data.name = '{section.name}'"
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a user's module may raise anything, or exit
        raise DataError(f"cannot import it ({one_line(error)})", where=where, fix="check PYTHONPATH") from error
    try:
        result = factory(**section.args)
    except EdgesafeError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"the factory failed: {one_line(error)}", where=where, fix="check data.args") from error
    if not isinstance(result, Mapping):
        raise DataError(
            f"gave a {type(result).__name__}", where=where,
            fix="return a mapping with x_train, y_train, x_test, y_test (and classes)",
        )  # fmt: skip
    return mappings.raw_data(_as_arrays(dict(result), section.name, cache), section.name)


def _as_arrays(given: dict[str, Any], where: str, cache: Cache) -> Mapping[str, Any]:
    """The mapping with images and labels apart, and images that have to be asked for as sets that are read by rows."""
    if "train" in given and "x_train" not in given:
        classes = getattr(given["train"], "classes", None)
        if isinstance(classes, list | tuple) and "classes" not in given:
            given["classes"] = [str(name) for name in classes]
        for part in _PARTS:
            if part in given:
                place = f"{where}, {part}"
                given[f"y_{part}"] = items.labels_of(given[part], place, cache)
                given[f"x_{part}"] = items.First(given.pop(part), place)
    for part in _PARTS:
        name = f"x_{part}"
        if name in given and items.is_asked_for(given[name], cache):
            given[name] = items.images_of(given[name], f"{where}, {name}", cache)
    return given
