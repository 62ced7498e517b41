"""Finite perturbation sets: an id such as "contrast=5%,brightness=2" becomes all distinct images of an image.

shape   = parse("brightness=2")        what the id says; UsageError if it says nothing
members = shape.members(image)         the distinct images of one image: how many, how far, and any of them
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates.faults import Fault, Shape
from edgesafe.certificates.tables import Tables, distinct_rows
from edgesafe.errors import DataError, UsageError

__all__ = ["KEEP_BYTES", "FaultSet", "FiniteSet", "Members", "PointSet", "require_room"]

KEEP_BYTES = 8 << 20  #: images of one image that are kept after they were compared, instead of being made again
_BLOCK_BYTES = 4 << 20  # images made at a time when they are compared


@dataclass(frozen=True)
class Members:
    """The distinct images that a set makes of one image.

    Attributes:
        number: int64 (n,), rising: the set's number of each image, by which it can be made again.
        distance: float64 (n,): the least range at which it occurs; zeros where the set has no range.
        clean: position of the untouched image among them, or -1.
        make: images at some positions (k,): uint8 (k, H, W, C).
    """

    number: NDArray[np.int64]
    distance: NDArray[np.float64]
    clean: int
    make: Callable[[NDArray[np.int64]], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.number)


class FiniteSet(Protocol):
    """A definition that makes finitely many images of any image."""

    id: str  #: as written in policies and metric ids
    unit: str  #: of distances, as words; empty: the set has no range, so no radius
    sha256: str  #: of what it makes

    def size(self, shape: Shape) -> int:
        """How many images it makes of one of that shape, at most: some may be equal.

        Raises:
            DataError: it does not fit the shape.
        """

    def reach(self, shape: Shape) -> float:
        """The whole range: the largest distance; 0 where there is none."""

    def members(self, image: NDArray[np.uint8]) -> Members:
        """The distinct images of one image, uint8 (H, W, C)."""

    def image(self, image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """The image of that number: uint8 (H, W, C)."""

    def describe(self, number: int, shape: Shape) -> str:
        """In words, which image of the set has that number, for messages and the report."""


class PointSet:
    """Point operations: one look-up table per image.

    Args:
        id: canonical.
        tables: all distinct ones.
        stages: the names of the operations, for `describe`.
    """

    def __init__(self, id: str, tables: Tables, stages: tuple[str, ...]) -> None:  # noqa: A002
        self.id, self.unit, self._tables, self._stages = id, tables.unit, tables, stages
        digest = hashlib.sha256(f"edgesafe.set/1 {id}\n".encode())
        digest.update(np.ascontiguousarray(tables.luts).tobytes())
        self.sha256 = "sha256:" + digest.hexdigest()

    @property
    def tables(self) -> Tables:
        """The distinct look-up tables of the set."""
        return self._tables

    def size(self, shape: Shape) -> int:  # noqa: ARG002
        """The number of tables, for any shape."""
        return len(self._tables)

    def reach(self, shape: Shape) -> float:  # noqa: ARG002
        """The largest distance of a table."""
        return float(self._tables.distance.max())

    def members(self, image: NDArray[np.uint8]) -> Members:
        """Tables that differ in a pixel value that occurs make different images; no other two do."""
        luts, distance = self._tables.luts, self._tables.distance
        values = np.flatnonzero(np.bincount(image.ravel(), minlength=256))
        first, kind = distinct_rows(luts[:, values])
        nearest = np.full(len(first), np.inf)
        np.minimum.at(nearest, kind, distance)
        same = (luts[first][:, values] == values).all(axis=1)
        clean = int(np.flatnonzero(same)[0]) if same.any() else -1
        return Members(first, nearest, clean, lambda positions: np.take(luts[first[positions]], image, axis=1))

    def image(self, image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """The image with every pixel value looked up in table `number`: uint8 (H, W, C)."""
        made: NDArray[np.uint8] = self._tables.luts[number][image]
        return made

    def describe(self, number: int, shape: Shape) -> str:  # noqa: ARG002
        """The parameter of each stage, nearest to "no change"."""
        return ", ".join(
            _STAGE_TEXT[stage](value) for stage, value in zip(self._stages, self._tables.parameter[number], strict=True)
        )


_STAGE_TEXT: dict[str, Callable[[float], str]] = {
    "brightness": lambda v: f"brightness {v:+.0f}",
    "contrast": lambda v: f"contrast {v:+.3g} %",
    "exposure": lambda v: f"exposure {v:+.3g} %",
    "gamma": lambda v: f"gamma {v:.4g}",
}


class FaultSet:
    """A fault's images; equal ones are counted once.

    Args:
        id: canonical.
        fault: what makes the images.
    """

    def __init__(self, id: str, fault: Fault) -> None:  # noqa: A002
        self.id, self.unit, self._fault = id, fault.unit, fault
        self.sha256 = "sha256:" + hashlib.sha256(f"edgesafe.set/1 {id}\n{fault.definition}".encode()).hexdigest()

    def size(self, shape: Shape) -> int:
        """How many images the fault makes of one of that shape, equal ones counted apart.

        Raises:
            DataError: it does not fit the shape.
        """
        return self._fault.size(shape)

    def reach(self, shape: Shape) -> float:
        """The largest distance of an image; 0 without a range."""
        return float(self._distance(shape).max())

    def _distance(self, shape: Shape) -> NDArray[np.float64]:
        return np.zeros(self.size(shape)) if self._fault.distance is None else self._fault.distance(shape)

    def members(self, image: NDArray[np.uint8]) -> Members:
        """All images are made once and compared by a 128-bit hash."""
        shape: Shape = image.shape
        size = self.size(shape)
        block = max(1, _BLOCK_BYTES // image.nbytes)
        seen: dict[bytes, int] = {}
        kind, kept = np.empty(size, np.int64), []
        for start in range(0, size, block):
            numbers = np.arange(start, min(start + block, size))
            made = self._fault.make(image, numbers)
            for number, pixels in zip(numbers.tolist(), made, strict=True):
                kind[number] = seen.setdefault(_key(pixels), len(seen))
            if size * image.nbytes <= KEEP_BYTES:
                kept.append(made)
        first = np.unique(kind, return_index=True)[1]
        nearest = np.full(len(first), np.inf)
        np.minimum.at(nearest, kind, self._distance(shape))
        clean = seen.get(_key(image), -1)
        if kept:
            images = np.concatenate(kept)[first]
            return Members(first, nearest, clean, lambda positions: images[positions])
        return Members(first, nearest, clean, lambda positions: self._fault.make(image, first[positions]))

    def image(self, image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """The image of that number, made anew: uint8 (H, W, C)."""
        made: NDArray[np.uint8] = self._fault.make(image, np.array([number]))[0]
        return made

    def describe(self, number: int, shape: Shape) -> str:
        """In words, which place and value the image of that number has."""
        return self._fault.describe(number, shape)


def _key(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def require_room(sets: list[FiniteSet], shape: Shape, most: int) -> None:
    """Refuse sets that do not fit the images, or are too large to be run.

    Args:
        sets: all that will be run.
        shape: (H, W, C) of the images.
        most: images that a set may make of one image.

    Raises:
        DataError: a set does not fit the shape.
        UsageError: a set is too large; its count is named.
    """
    for finite in sets:
        try:
            size = finite.size(shape)
        except DataError as error:
            raise DataError(error.what, where=f"{finite.id}, {error.where}", fix=error.fix) from None
        if size > most:
            raise UsageError(
                f"{size:,} images of each image, the limit is {most:,}",
                where=finite.id,
                fix=f"give a smaller range, or raise the limit (--max-images {size})",
            )
