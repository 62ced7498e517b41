"""A contact sheet: one image under every corruption and severity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgesafe.corruptions import tables
from edgesafe.corruptions.engine import corrupt
from edgesafe.corruptions.source import frost_bank
from edgesafe.corruptions.spec import check_images
from edgesafe.errors import NothingEvaluated

__all__ = ["contact_sheet"]

_TILE = 96  #: pixels of the shorter side of a shown image, at least
_LABEL = 150
_HEAD = 22
_GAP = 4
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def contact_sheet(
    image: NDArray[np.uint8],
    *,
    seed: int = 0,
    index: int = 0,
    corruptions: Sequence[str] = tables.NAMES,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    frost_dir: str | Path | None = None,
) -> Image.Image:
    """One image, clean and under each corruption (rows) and severity (columns).

    Args:
        image: uint8 (H, W, C).
        seed: of the random fields.
        index: the image's position in its test set.
        corruptions: rows.
        severities: columns, after the clean one.
        frost_dir: as in `open_source`; None: procedural.

    Returns:
        An RGB picture; `.save("sheet.png")` writes it, `.convert("P")` makes it small.

    Raises:
        DataError: the image cannot be corrupted.
        NothingEvaluated: no rows or no columns.
    """
    height, width, _ = check_images(image[None] if isinstance(image, np.ndarray) else image)
    if not corruptions or not severities:
        raise NothingEvaluated("no corruption or severity to show", where="contact sheet", fix="give at least one")
    zoom = max(1, round(_TILE / min(height, width)))
    high, wide = height * zoom + _GAP, width * zoom + _GAP
    size = (_LABEL + wide * (1 + len(severities)), _HEAD + high * len(corruptions))
    sheet = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, title in enumerate(["clean", *(f"severity {s}" for s in severities)]):
        pen.text((_LABEL + column * wide, 4), title, _INK, font)
    where = np.array([index], np.int64)
    frost = frost_bank(frost_dir, tables.profile_for(height, width), height, width)
    for row, name in enumerate(corruptions):
        top = _HEAD + row * high
        pen.text((6, top + high // 2 - 10), name.replace("_", " "), _INK, font)
        shown = [image] + [corrupt(image[None], where, name, s, seed=seed, frost=frost)[0] for s in severities]
        for column, picture in enumerate(shown):
            rgb = np.broadcast_to(picture, (height, width, 3))
            tile = Image.fromarray(np.ascontiguousarray(rgb)).resize(
                (width * zoom, height * zoom), Image.Resampling.NEAREST
            )
            sheet.paste(tile, (_LABEL + column * wide, top))
    return sheet
