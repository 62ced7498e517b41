"""What evidence was seen on: which file, which pixels, how they were sampled; and on which target it is measured."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from edgesafe.records.base import Record

__all__ = [
    "CorruptionIdentity",
    "DirectoryCorruptions",
    "GeneratedCorruptions",
    "Provenance",
    "Sample",
    "SampleDesign",
    "Target",
]


class GeneratedCorruptions(Record):
    """Corruptions made on the fly: everything that their pixels depend on."""

    source: Literal["generated"] = "generated"
    generator: str  #: name and version
    profile: str  #: table of strengths: "cifar", "imagenet"
    seed: int
    frost: str  #: "procedural", "photographs" or "images"
    frost_sha256: str  #: of the textures
    data_sha256: str  #: of the clean test set
    not_meaningful: tuple[str, ...] = ()  #: corruptions that say little at this image size


class DirectoryCorruptions(Record):
    """Corruptions read from a directory in CIFAR-10-C's layout."""

    source: Literal["directory"] = "directory"
    made_by: str  #: the manifest's generator; "unknown" without a manifest
    fingerprint: str  #: of some images of each file, and of all shapes
    frost: str
    seed: int | None = None  #: None: no manifest says
    profile: str | None = None


CorruptionIdentity = Annotated[GeneratedCorruptions | DirectoryCorruptions, Field(discriminator="source")]
"""What corrupted pixels depend on: equal identities, equal pixels."""


class SampleDesign(StrEnum):
    """How the images of the corrupted cells were drawn."""

    CELL = "cell"  #: each cell drew its own images at random
    MARGIN = "margin"  #: (cell, image) pairs were drawn in strata of the baseline's margin


class Sample(Record):
    """How a part of the images was drawn, where a file did not see them all."""

    design: SampleDesign | None = None  #: None: there are no corrupted cells
    seed: int
    benchmark: int | None = Field(default=None, ge=1)  #: images that each cell was drawn from; None: no cells
    looks: int = Field(default=1, ge=1, strict=True)  #: how often the growing sample could have been judged
    look: int = Field(default=1, ge=1, strict=True)  #: after which of them it ended
    rivals: int = Field(default=1, ge=1, strict=True)  #: files that a search could have judged on these images
    frame_sha256: str | None = None  #: design margin: of the units and strata that it was drawn from
    cells: tuple[tuple[str, int], ...] = ()  #: design margin: the cells that could be drawn from


class Provenance(Record):
    """Which file saw which pixels, and how they were chosen."""

    test_sha256: str  #: of the test images and labels
    onnx_sha256: str  #: of the file that ran
    provider: str = ""  #: execution provider of onnxruntime
    corruptions: CorruptionIdentity | None = None  #: None: clean images only
    sample: Sample | None = None  #: None: nothing was drawn at random


class Target(Record):
    """What latency is measured for: the recipe's [target]."""

    name: str
    threads: int = Field(ge=1)
    provider: str
