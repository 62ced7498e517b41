"""Aircraft: procedural silhouettes with six keypoints over CIFAR-10 photographs, labels exact by construction.

Train images lie over CIFAR-10's training photographs, test images over its test photographs. Image i of a part is a
function of (seed, part, i) and of the photograph alone: roll, size, aspect, place and shade are drawn from a stream of
its own, drawn again while a keypoint would lie outside of the frame. It is synthetic, and says nothing of how well a
network finds real aircraft; it says what pruning does to a network that has learnt places.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from edgesafe.data.options import validated
from edgesafe.records import Task

__all__ = ["MIRROR", "NAMES", "AircraftOptions", "options_of", "part", "pictured", "task_of"]

NAMES = ("nose", "tail", "left wing tip", "right wing tip", "left stabiliser tip", "right stabiliser tip")
MIRROR = (0, 1, 3, 2, 5, 4)  #: in a mirrored image, left is right

#: The right half of the outline, nose up, as (x, y) in units of the length; the left half mirrors it.
_RIGHT = (
    (0.0, -0.50), (0.05, -0.40), (0.06, -0.12), (0.50, 0.10), (0.50, 0.17), (0.06, 0.08), (0.045, 0.33), (0.20, 0.44),
    (0.20, 0.49), (0.03, 0.46), (0.0, 0.50),
)  # fmt: skip
_OUTLINE = np.array([*_RIGHT, *((-x, y) for x, y in _RIGHT[-2:0:-1])])
_KEYPOINTS = np.array([(0.0, -0.5), (0.0, 0.5), (-0.5, 0.135), (0.5, 0.135), (-0.2, 0.465), (0.2, 0.465)])
_FINE = 8  # polygons are drawn on pixels this many times as fine, then averaged


class AircraftOptions(BaseModel):
    """data.args of aircraft."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(default=48, ge=24, le=128)  #: side of the images, px
    seed: int = Field(default=0, ge=0)
    train: int = Field(default=20_000, ge=2, le=50_000)  #: images, over as many photographs
    test: int = Field(default=2_000, ge=2, le=10_000)
    tolerance: float = Field(default=2.0, gt=0.0)  #: a keypoint nearer than so many px to its label is right


@dataclass(frozen=True)
class _Pose:
    """How an aircraft lies in the frame: image place = turn @ outline place + centre, in px."""

    turn: NDArray[np.float64]
    centre: NDArray[np.float64]
    shade: NDArray[np.float64]  # (3,)

    def places(self, outline: NDArray[np.float64]) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = outline @ self.turn.T + self.centre
        return moved


def options_of(args: dict[str, object]) -> AircraftOptions:
    """The options that a recipe gives.

    Raises:
        DataError: an unknown option, or a value out of range.
    """
    return validated(AircraftOptions, args, "aircraft takes")


def task_of(options: AircraftOptions) -> Task:
    """The keypoints of these images."""
    return Task.keypoints(NAMES, options.tolerance, (options.size, options.size), MIRROR)


def part(
    photographs: NDArray[np.uint8], name: str, n: int, options: AircraftOptions
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The first n images of a part, made one at a time.

    Args:
        photographs: uint8 (m, H, W, 3), m >= n.
        name: "train" or "test".
        n: images.
        options: size and seed.

    Returns:
        uint8 (n, size, size, 3), and the keypoints float32 (n, 6, 2), px.
    """
    images = np.empty((n, options.size, options.size, 3), np.uint8)
    points = np.empty((n, len(NAMES), 2), np.float32)
    for i in range(n):
        images[i], points[i] = pictured(photographs[i], name, i, options)
    return images, points


def pictured(
    photograph: NDArray[np.uint8], name: str, index: int, options: AircraftOptions
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One image over a photograph: uint8 (size, size, 3), and its keypoints float32 (6, 2), px."""
    size = options.size
    behind = Image.fromarray(photograph).resize((size, size), Image.Resampling.BILINEAR)
    pose = _pose(_stream(name, index, options.seed), size)
    mask = Image.new("L", (size * _FINE, size * _FINE))
    corners = [(float(x), float(y)) for x, y in pose.places(_OUTLINE) * _FINE]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    cover = np.asarray(mask.reduce(_FINE), np.float64)[..., None] / 255
    image = np.asarray(behind, np.float64) * (1 - cover) + pose.shade * cover
    return np.floor(image + 0.5).astype(np.uint8), pose.places(_KEYPOINTS).astype(np.float32)


def _stream(name: str, index: int, seed: int) -> np.random.Generator:
    key = hashlib.sha256(f"edgesafe.aircraft/1 {seed} {name} {index}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))


def _pose(rng: np.random.Generator, size: int) -> _Pose:
    """Drawn until all keypoints lie in the frame, half a pixel from its border or more."""
    while True:
        roll, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 0.95) * size
        aspect, colour = rng.uniform(0.75, 1.15), rng.uniform(40, 230, 3)
        cosine, sine = np.cos(roll), np.sin(roll)
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([aspect, 1.0]) * length
        centre = size / 2 + rng.uniform(-0.12, 0.12, 2) * size
        pose = _Pose(turn, centre, colour * 0.35 + colour.mean() * 0.65)
        places = pose.places(_KEYPOINTS)
        if (places > 0.5).all() and (places < size - 0.5).all():
            return pose
