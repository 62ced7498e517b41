"""manifest.json: what a written directory of corrupted images holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgesafe.corruptions import tables
from edgesafe.corruptions.files import write_atomically
from edgesafe.errors import DataError
from edgesafe.files import read_bounded

__all__ = ["FILE_NAME", "GENERATOR", "SCHEMA", "Manifest"]

GENERATOR = "edgesafe.corruptions/1"
"""Name and version of the generator. The number rises whenever a single byte of its output changes."""

SCHEMA = "edgesafe.corruptions.manifest/1"

FILE_NAME = "manifest.json"

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """manifest.json. Everything the pixels depend on, and a hash for each file."""

    seed: int
    profile: str
    frost: str  #: "procedural", "photographs" or "images"
    frost_sha256: str
    severities: tuple[int, ...]
    images: int  #: test images, each once per severity
    shape: tuple[int, int, int]  #: (H, W, C)
    data_sha256: str  #: of the clean pixels (`source.pixel_sha256`)
    files: Mapping[str, str] = field(default_factory=dict)  #: corruption -> hash of its file
    labels: str = ""  #: hash of labels.npy
    complete: bool = False
    generator: str = GENERATOR

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """The directory's manifest; None if it has none (a published CIFAR-10-C).

        Raises:
            DataError: there is one, and it cannot be read or is not of this schema.
        """
        file = directory / FILE_NAME
        if not file.exists():
            return None
        try:
            content = json.loads(read_bounded(file, _MOST_BYTES, "a manifest", DataError))
        except (ValueError, RecursionError) as error:
            raise _unreadable(file, "is not JSON") from error
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise _unreadable(file, f"is not of schema {SCHEMA}")
        wrong = sorted(content.keys() ^ _CHECKS.keys())
        wrong += [key for key, check in _CHECKS.items() if key in content and not check(content[key])]
        if wrong:
            raise _unreadable(file, f"is wrong at {', '.join(wrong)}")
        return cls(**content | {"severities": tuple(content["severities"]), "shape": tuple(content["shape"])})

    def settings(self) -> dict[str, Any]:
        """All that must agree for two runs to share a directory."""
        return {k: v for k, v in asdict(self).items() if k not in ("files", "labels", "complete")}

    def write(self, directory: Path) -> Path:
        """Write it, whole or not at all; corruptions in the order of the paper."""
        ordered = {name: self.files[name] for name in tables.ALL if name in self.files}
        content = {"schema": SCHEMA, **self.settings(), "files": ordered}
        content |= {"labels": self.labels, "complete": self.complete}
        write_atomically(directory / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode(), ())
        return directory / FILE_NAME


def _unreadable(file: Path, what: str) -> DataError:
    return DataError(what, where=str(file), fix="make the directory again")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _text(value: object) -> bool:
    return isinstance(value, str)


def _hashes(value: object) -> bool:
    return isinstance(value, dict) and all(k in tables.ALL and isinstance(v, str) for k, v in value.items())


def _levels(value: object) -> bool:
    return isinstance(value, list) and bool(value) and value == sorted({*value} & {1, 2, 3, 4, 5})


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "seed": lambda v: _whole(v, 0),
    "profile": _text,
    "frost": _text,
    "frost_sha256": _text,
    "severities": lambda v: isinstance(v, list) and all(_whole(s, 1) for s in v) and _levels(v),
    "images": lambda v: _whole(v, 1),
    "shape": lambda v: isinstance(v, list) and len(v) == 3 and all(_whole(s, 1) for s in v),
    "data_sha256": _text,
    "files": _hashes,
    "labels": _text,
    "complete": lambda v: isinstance(v, bool),
    "generator": _text,
}
