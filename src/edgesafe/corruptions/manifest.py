"""manifest.json: what a written directory of corrupted images holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edgesafe.corruptions import tables
from edgesafe.corruptions.files import write_atomically
from edgesafe.errors import DataError
from edgesafe.records import Record

__all__ = ["FILE_NAME", "GENERATOR", "Manifest"]

GENERATOR = "edgesafe.corruptions/1"
"""Name and version of the generator. The number rises whenever a single byte of its output changes."""

FILE_NAME = "manifest.json"

_Severity = Annotated[int, Field(ge=1, le=5)]
_Name = Annotated[str, Field(pattern=f"^({'|'.join(tables.ALL)})$")]


class Manifest(Record):
    """manifest.json. Everything the pixels depend on, and a hash for each file."""

    schema_: Literal["edgesafe.corruptions.manifest/1"] = Field(
        default="edgesafe.corruptions.manifest/1", alias="schema"
    )
    generator: str = GENERATOR
    seed: int = Field(ge=0)
    profile: str
    frost: str  #: "procedural", "photographs" or "images"
    frost_sha256: str
    severities: tuple[_Severity, ...] = Field(min_length=1)
    images: int = Field(ge=1)  #: test images, each once per severity
    shape: tuple[int, int, int]  #: (H, W, C)
    data_sha256: str  #: of the clean pixels (`source.pixel_sha256`)
    files: dict[_Name, str] = Field(default_factory=dict)  #: corruption -> hash of its file
    labels: str = ""  #: hash of labels.npy
    complete: bool = False

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """The directory's manifest; None if it has none (a published CIFAR-10-C).

        Raises:
            DataError: there is one, and it cannot be read.
        """
        file = directory / FILE_NAME
        if not file.is_file():
            return None
        try:
            return cls.model_validate_json(file.read_bytes())
        except (ValidationError, OSError) as error:
            raise DataError("not a readable manifest", where=str(file), fix="make the directory again") from error

    def write(self, directory: Path) -> Path:
        """Write it, whole or not at all; corruptions in the order of the paper."""
        ordered = {name: self.files[name] for name in tables.ALL if name in self.files}
        text = self.model_copy(update={"files": ordered}).model_dump_json(by_alias=True, indent=1)
        write_atomically(directory / FILE_NAME, text.encode() + b"\n", ())
        return directory / FILE_NAME
