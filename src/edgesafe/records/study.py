"""study.json: a study and its list of variants."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.data import DataIdentity

__all__ = ["Host", "StudyRecord", "VariantEntry"]


STUDY_SCHEMA = "edgesafe.study/1"


class Host(Record):
    """Where it ran."""

    cpu: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


class VariantEntry(Record):
    """A line of the study's list of variants."""

    id: str
    method: str
    ratio: float
    seed: int
    status: Literal["pending", "done", "refused"]
    reason: str = ""  #: refused: the error message
    digest: str = ""  #: hash over the variant's reproducible files
    records: dict[str, str] = Field(default_factory=dict)  #: hashes of variant.json and measurements.json, once done


class StudyRecord(Record):
    """study.json."""

    schema_: Literal["edgesafe.study/1"] = Field(default="edgesafe.study/1", alias="schema")
    name: str
    edgesafe: str  #: version
    recipe: dict[str, Any]  #: resolved: every default filled in
    recipe_sha256: str
    inputs: dict[str, str] = Field(default_factory=dict)  #: hashes of the files it started from (weights, model file)
    data: DataIdentity
    host: Host
    variants: tuple[VariantEntry, ...]
    digest: str = ""  #: over all variants' digests, once all are done
