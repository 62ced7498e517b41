"""The records between drawing and applying: what is drawn for, and what was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.corruptions import tables
from edgesafe.corruptions.frost import FrostBank
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError, hint
from edgesafe.records import Images

__all__ = ["FieldSpec", "Fields", "Setting", "check_images", "check_indices"]


@dataclass(frozen=True)
class Setting:
    """One corruption at one severity for one shape of image: everything the deterministic part depends on."""

    corruption: str
    severity: int  #: 1..5
    profile: Profile
    height: int
    width: int
    channels: int  #: 1 or 3

    @property
    def scale(self) -> float:
        """The image's shorter side over the side that the profile is written for; multiplies parameters in pixels."""
        return tables.scale_of(self.profile, self.height, self.width)

    @property
    def values(self) -> int:
        """Values of one image: height * width * channels."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class FieldSpec:
    """What random fields are drawn for.

    Attributes:
        shape: (H, W, C) of the images; C = 1 or 3; H, W >= 8.
        seed: 0 <= seed < 2**63.
        profile: parameter table; None: by the shorter side (`tables.profile_for`).
        frost: textures for frost; None: the procedural ones of the profile.
    """

    shape: tuple[int, int, int]
    seed: int = 0
    profile: Profile | str | None = None
    frost: FrostBank | None = None

    def __post_init__(self) -> None:
        height, width, channels = self.shape
        fitting = tables.profile_for(height, width)
        if channels not in (1, 3):
            raise DataError(f"images have {channels} channels", fix="use RGB (3) or greyscale (1)")
        if isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise DataError(f"seed {self.seed!r} is not in [0, 2**63)", where="seed", fix="use a number such as 0")
        try:
            chosen = fitting if self.profile is None else Profile(self.profile)
        except ValueError as error:
            fix = hint(str(self.profile), Profile)
            raise DataError(f"unknown profile {self.profile!r}", where="profile", fix=fix) from error
        object.__setattr__(self, "profile", chosen)

    def setting(self, corruption: str, severity: int) -> Setting:
        """The setting of one cell.

        Raises:
            DataError: unknown corruption or severity.
        """
        tables.check_name(corruption)
        tables.check_severity(severity)
        return Setting(corruption, int(severity), Profile(str(self.profile)), *self.shape)

    @property
    def textures(self) -> FrostBank:
        """The frost textures: those given, or procedural ones of the profile and the image size."""
        if self.frost is not None:
            return self.frost
        return FrostBank.procedural(Profile(str(self.profile)), self.shape[0], self.shape[1])


@dataclass(frozen=True)
class Fields:
    """The random fields of some images in one cell; all that `apply` needs besides the images.

    Attributes:
        setting: what they were drawn for.
        n: number of images.
        arrays: by name; the first axis of each has n entries. Deterministic corruptions have none.
    """

    setting: Setting
    n: int
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of that name; its first axis has `n` entries."""
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


def check_images(images: Images) -> tuple[int, int, int]:
    """(H, W, C) of a batch that can be corrupted.

    Raises:
        DataError: not uint8 (n, H, W, C) with C = 1 or 3, or below 8 px.
    """
    if not hasattr(images, "dtype") or images.dtype != np.uint8 or images.ndim != 4:
        got = f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else type(images).__name__
        what = f"images are {got}, not uint8 (n, H, W, C)"
        raise DataError(what, where="images", fix="give bytes 0..255, channels last")
    height, width, channels = images.shape[1:]
    tables.profile_for(height, width)
    if channels not in (1, 3):
        raise DataError(f"images have {channels} channels", where="images", fix="use RGB (3) or greyscale (1)")
    return int(height), int(width), int(channels)


def check_indices(indices: NDArray[np.int64], n: int | None = None) -> NDArray[np.int64]:
    """Test-set positions as int64 (n,).

    Raises:
        DataError: not a list of non-negative whole numbers, or not `n` of them.
    """
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"indices are {array.dtype} {array.shape}, not whole numbers (n,)", where="indices")
    if n is not None and len(array) != n:
        raise DataError(f"{len(array)} indices for {n} images", where="indices", fix="give one index for each image")
    if array.size and int(array.min()) < 0:
        raise DataError(f"index {int(array.min())} is negative", where="indices", fix="count test images from 0")
    return array.astype(np.int64)
