"""The look-up tables of a range of lighting: training and pruning draw from those that certification enumerates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from edgesafe.certificates import ids
from edgesafe.certificates.sets import PointSet
from edgesafe.errors import RecipeError, UsageError
from edgesafe.files import sha256_bytes
from edgesafe.prune.deviations import Lighting, LitBatch
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Calibration, DataBundle, ImageSet
from edgesafe.train.augmentation import Normalisation, generator, shared
from edgesafe.train.losses import relight

__all__ = ["check", "lighting_of", "tables", "unseen_lighting"]

_BATCH, _BATCH_PIXELS = 32, 1 << 17  # images whose pre-activations in every layer are held at a time, and their pixels


def check(asked: Mapping[str, str]) -> None:
    """The lightings of a recipe, before anything is computed.

    Args:
        asked: a set's id by the key of the recipe that says so.

    Raises:
        RecipeError: see `tables`; it names the key.
    """
    for key, text in asked.items():
        try:
            tables(text)
        except UsageError as error:
            raise RecipeError(f"'{text}': {error.what}", where=key, fix=error.fix) from None


def tables(text: str) -> NDArray[np.uint8]:
    """All distinct look-up tables of a set of point operations.

    Args:
        text: the set's id, such as "contrast=20%,brightness=25".

    Returns:
        uint8 (m, 256): the new value of each pixel value.

    Raises:
        UsageError: no such set, or it does not map each pixel value by itself.
    """
    return _point_set(text).tables.luts


def lighting_of(bundle: DataBundle, section: CompressSection, seed: int) -> Lighting | None:
    """Training images and lit copies of them; None: the block does not rank channels by how lighting moves them.

    Args:
        bundle: the data; images are taken from its training part.
        section: `light`, `calibration_images`, `draws`.
        seed: of the choice of images, and of the table of each copy.
    """
    if not section.ranks_by_lighting:
        return None
    return _lighting(bundle, bundle.train, section, seed, "")


def unseen_lighting(bundle: DataBundle, section: CompressSection, seed: int) -> Lighting:
    """Validation images and lit copies of them, under other lightings than those of `lighting_of`.

    Args:
        bundle: the data; images are taken from its validation part.
        section: as of `lighting_of`; fewer images where there are fewer.
        seed: likewise.
    """
    return _lighting(bundle, bundle.validation, section, seed, "unseen ")


def _lighting(bundle: DataBundle, part: ImageSet, section: CompressSection, seed: int, purpose: str) -> Lighting:
    """Images of a part of the data and lit copies; `purpose` tells apart what is drawn with one seed."""
    finite = _point_set(section.light)
    luts, normalise = shared(finite.tables.luts), Normalisation(bundle.mean, bundle.std)
    order = torch.randperm(len(part), generator=generator(seed, 0, f"{purpose}calibration"))
    chosen = order[: section.calibration_images].sort().values
    images = np.ascontiguousarray(part.images[chosen.numpy()])
    shape = section.draws, len(images)
    which = torch.randint(0, len(luts), shape, generator=generator(seed, 0, f"{purpose}lit copies"))

    size = max(1, min(_BATCH, _BATCH_PIXELS // (images.shape[1] * images.shape[2])))

    def batches() -> Iterator[LitBatch]:
        for start in range(0, len(images), size):
            rows = shared(images[start : start + size])
            drawn = which[:, start : start + size]
            yield normalise(rows), (normalise(relight(rows, luts, table)) for table in drawn)

    calibration = Calibration(
        light=finite.id, light_sha256=finite.sha256, images=len(images), images_sha256=sha256_bytes(images.tobytes()),
        draws=section.draws, seed=seed,
    )  # fmt: skip
    return Lighting(batches, calibration)


def _point_set(text: str) -> PointSet:
    finite = ids.parse(text)
    if not isinstance(finite, PointSet):
        raise UsageError(
            "this set moves pixels or depends on their place, and a lighting maps each pixel value by itself",
            where=finite.id,
            fix='use brightness, contrast, exposure or gamma, such as "contrast=20%,brightness=25"',
        )
    return finite
