"""Image folders as data sets: a folder for each part, or one folder that is split by shares or by a table.

root/train/<class>/…  root/test/<class>/…  [root/validation/<class>/…]
root/<class>/…        data.args = {split = [0.8, 0.1, 0.1]}, or {split = "split.csv"}
"""

from __future__ import annotations

from pathlib import Path

from edgesafe.data import folders, parts
from edgesafe.data.cache import Cache
from edgesafe.data.pictures import PictureOptions
from edgesafe.data.raw import RawData
from edgesafe.errors import DataError
from edgesafe.recipe.sections import DataSection

__all__ = ["load"]


def load(section: DataSection, cache: Cache) -> RawData:
    """The parts of an image folder.

    Raises:
        DataError: a part is missing or empty, classes differ, or the split cannot be used.
    """
    root, args = Path(section.root), dict(section.args)
    options = PictureOptions.of(args, ("train", "test", "validation", "split"))
    if "split" in args:
        return parts.divided(folders.read_folder(root, options, cache), args["split"], root, "folder")
    places = {name: folders.require_part(root, name, args.get(name)) for name in ("train", "test")}
    others = folders.find_part(root, ("validation", "val", "valid"), args.get("validation"))
    if others is not None and others not in places.values():
        places["validation"] = others
    read = {name: folders.read_folder(place, options, cache) for name, place in places.items()}
    classes = read["train"].classes
    for name, folder in read.items():
        if folder.classes != classes:
            odd = sorted(set(folder.classes) ^ set(classes))
            raise DataError(
                f"classes differ from train's: {odd[:5]}", where=str(places[name]), fix="use the same class folders"
            )
    notes = (f"{name} images are those of {place.name}/" for name, place in places.items() if place.name != name)
    return parts.joined(read, tuple(notes))
