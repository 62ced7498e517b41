"""The section [data] of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgesafe.recipe.sections.base import Positive, Section

__all__ = ["PREPROCESSING", "DataSection"]

PREPROCESSING = ("size", "resize", "fit", "crop", "interpolation")
"""Keys of `data.args` that say how image files come to the size of a network (docs/data.md)."""


class DataSection(Section):
    """[data]: the data set, by name or as a directory, how it is read, and how it is split."""

    name: str = Field(min_length=1)
    root: str = "data"
    mean: tuple[float, ...] | None = None  #: per channel, of pixels in [0, 1]; default: the data set's own
    std: tuple[Positive, ...] | None = None
    validation: int | None = Field(default=None, ge=0)  #: images held out; default: the data set's own
    validation_from: Literal["train", "test"] = "train"  #: "test": for given weights, which may know all of train
    train_images: int | None = Field(default=None, ge=1)  #: use only the first so many (after the split); None: all
    test_images: int | None = Field(default=None, ge=1)
    args: dict[str, Any] = Field(default_factory=dict)  #: options of the data set, or of a `module:factory`
    store: Literal["auto", "memory", "disk"] = "auto"  #: where pixels are held; auto: parts up to memory_gb in memory
    memory_gb: Positive = 1.0
    cache_dir: str | None = None  #: of hashes and decoded pixels; None: ~/.cache/edgesafe
    cache_gb: Positive = 50.0  #: decoded pixels of a part take at most so much there
    workers: int = Field(default=0, ge=0, le=1024)  #: threads that decode; 0: one per core

    @staticmethod
    def places() -> tuple[str, ...]:
        """Keys that say where pixels are held, not what they are: evidence does not depend on them."""
        return ("store", "memory_gb", "cache_dir", "cache_gb", "workers")
