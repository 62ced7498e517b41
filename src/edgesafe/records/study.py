"""study.json: a study and its list of variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgesafe.records.base import Record
from edgesafe.records.data import DataIdentity
from edgesafe.records.names import Name
from edgesafe.records.precision import Precision
from edgesafe.records.sizes import SampleSize
from edgesafe.records.steps import Steps

__all__ = ["Host", "Role", "StudyRecord", "VariantEntry", "VariantStatus"]


class Role(StrEnum):
    """What a variant is to the others of its study."""

    BASELINE = "baseline"  #: what others are compared with
    CANDIDATE = "candidate"  #: what is judged
    TRIAL = "trial"  #: what a search tried and did not confirm; judged only if it is named


class VariantStatus(StrEnum):
    """Whether a variant is still to be made, is done, or was refused."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"  #: it cannot be made or measured validly; the entry says why


class Host(Record):
    """The machine and the versions of what computes."""

    cpu: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


class VariantEntry(Record):
    """A line of the study's list of variants."""

    id: Name  #: made by `study.naming`
    role: Role
    label: str  #: of its series, for people: its method, or the recipe's label
    group: Name  #: shared by the variants that differ by seed only
    method: str  #: "baseline", a method of the recipe, or "candidate"
    ratio: float
    seed: int
    baseline: Name | None = None  #: id of the variant that it is compared with
    precision: Precision = Precision.FP32
    sibling: Name | None = None  #: not fp32: id of the fp32 variant that it was converted from
    status: VariantStatus
    reason: str = ""  #: refused: the error message
    digest: str = ""  #: hash over the variant's reproducible files
    records: dict[str, str] = Field(default_factory=dict)  #: hashes of variant.json and measurements.json, once done

    @property
    def is_baseline(self) -> bool:
        """Whether other variants are compared with this one."""
        return self.role is Role.BASELINE


class StudyRecord(Record):
    """study.json: the index of a study. Its last field binds all others (see `study.index`)."""

    schema_: Literal["edgesafe.study/2"] = Field(default="edgesafe.study/2", alias="schema")
    name: Name
    edgesafe: str  #: version
    recipe: dict[str, Any]  #: resolved: every default filled in
    recipe_sha256: str
    inputs: dict[str, str] = Field(default_factory=dict)  #: hashes of the files it started from (weights, model file)
    data: DataIdentity
    host: Host
    steps: Steps | None = None  #: of channels, as the target says or as timed; None: nothing is pruned or converted
    #: chosen for evaluate.hours; None, and not stored: the recipe gives the numbers
    sample_size: SampleSize | None = Field(default=None, exclude_if=lambda size: size is None)
    variants: tuple[VariantEntry, ...]
    samples_sha256: str = ""  #: of samples.png, if there is one
    search_sha256: str = ""  #: of search.json, if a search made this study
    digest: str = ""  #: over all variants' digests, once all are done: the same on every run; no timing is in it
    index_sha256: str = ""  #: over the bytes of study.json itself, without this value

    @model_validator(mode="after")
    def _ids_agree(self) -> Self:
        by_id = {entry.id: entry for entry in self.variants}
        if len(by_id) < len(self.variants):
            twice, _ = Counter(entry.id for entry in self.variants).most_common(1)[0]
            raise ValueError(f"two variants are called '{twice}'")
        baselines = {entry.id for entry in self.variants if entry.is_baseline}
        for entry in self.variants:
            if entry.baseline is not None and entry.baseline not in baselines:
                raise ValueError(f"'{entry.id}' is compared with '{entry.baseline}', which is no baseline of the study")
            _require_sibling(entry, by_id)
        return self

    def entry(self, variant_id: str) -> VariantEntry | None:
        """The entry of that id, or None."""
        return next((entry for entry in self.variants if entry.id == variant_id), None)


def _require_sibling(entry: VariantEntry, by_id: Mapping[str, VariantEntry]) -> None:
    """An fp32 variant has no sibling; any other has one, which is fp32 and has its seed."""
    if entry.sibling is None and entry.precision is Precision.FP32:
        return
    sibling = by_id.get(entry.sibling) if entry.sibling is not None else None
    paired = sibling is not None and sibling.precision is Precision.FP32 and sibling.seed == entry.seed
    if not paired or entry.precision is Precision.FP32:
        raise ValueError(f"'{entry.id}' is {entry.precision.value} and its fp32 sibling '{entry.sibling}'")
