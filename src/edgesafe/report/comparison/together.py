"""Which studies may stand on one page: what each measured, what it is called there, and what of it is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgesafe.errors import UsageError
from edgesafe.records import Precision, Role, TaskKind, VariantEntry, VariantStatus
from edgesafe.study.study import Study

__all__ = ["Conditions", "conditions", "is_shown", "left_out", "named", "require_alike", "unfinished"]

_CORRUPTION, _SEVERITY = "mpc.corruption.", "mpc.severity."


@dataclass(frozen=True)
class Conditions:
    """What a study's mPC is a mean of.

    Attributes:
        corruptions: sorted; none: nothing was corrupted.
        severities: rising.
        seed: of the corruptions.
        source: where the corrupted images or the photographs for frost come from; empty: generated.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    source: str

    def __str__(self) -> str:
        """For people: "fog, snow at severities 1, 3, seed 0"; all fifteen corruptions are counted, not named."""
        names = "15 corruptions" if len(self.corruptions) == 15 else ", ".join(self.corruptions)
        severities = ", ".join(map(str, self.severities))
        several = "severity" if len(self.severities) == 1 else "severities"
        more = f", from {self.source}" if self.source else f", seed {self.seed}"
        return f"{names} at {several} {severities}{more}"


def conditions(study: Study) -> Conditions | None:
    """What the study's mPC is a mean of, from what its finished variants measured; None: they measured none."""
    measured = {metric for variant in study.finished() for metric in variant.metrics}
    corruptions = sorted(m.removeprefix(_CORRUPTION) for m in measured if m.startswith(_CORRUPTION))
    if not corruptions:
        return None
    severities = sorted(int(m.removeprefix(_SEVERITY)) for m in measured if m.startswith(_SEVERITY))
    asked = study.record.recipe.get("evaluate", {})
    given = str(asked.get("corruptions", ""))
    source = given if given.startswith("dir:") else str(asked.get("frost_dir") or "")
    return Conditions(tuple(corruptions), tuple(severities), int(asked.get("seed", 0)), source)


def named(studies: Sequence[Study]) -> tuple[str, ...]:
    """What each study is called beside the others: its name, or its directory where two have one name.

    Raises:
        UsageError: a study is given twice.
    """
    places = {str(study.root.resolve()) for study in studies}
    contents = {study.record.digest or str(study.root.resolve()) for study in studies}
    if min(len(places), len(contents)) < len(studies):
        where = ", ".join(str(study.root) for study in studies)
        raise UsageError("a study is given twice, or a copy of it", where=where, fix="give each study once")
    names = Counter(study.record.name for study in studies)
    folders = Counter(study.root.name for study in studies)
    taken = {name for name, count in names.items() if count == 1}
    return tuple(
        study.record.name if names[study.record.name] == 1
        else study.root.name if folders[study.root.name] == 1 and study.root.name not in taken
        else str(study.root)
        for study in studies
    )  # fmt: skip


def require_alike(studies: Sequence[Study], names: Sequence[str]) -> None:
    """Refuse studies whose numbers are not of the same thing.

    Raises:
        UsageError: other test images, keypoints, or an mPC over other corruptions.
    """
    for study, name in zip(studies, names, strict=True):
        if study.record.data.kind is not TaskKind.CLASSIFICATION:
            what = f"its networks answer {study.record.data.noun}: the figures are of accuracy, calibration and mPC"
            raise UsageError(what, where=name, fix="compare classifiers; give this study a report of its own")
    if len({study.record.data.test_sha256 for study in studies}) > 1:
        what = "measured on different test images: nothing can be compared"
        raise UsageError(what, where=", ".join(names), fix="compare studies of one data set and data.test_images")
    measured = {n: found for s, n in zip(studies, names, strict=True) if (found := conditions(s)) is not None}
    if len(set(measured.values())) > 1:
        first, other = next((a, b) for a in measured for b in measured if measured[a] != measured[b])
        what = f"their mPC is not of the same corruptions: {measured[first]}, and {measured[other]}"
        fix = 'give evaluate the same corruptions, severities and seed, or compare them without: corruptions = "none"'
        raise UsageError(what, where=f"{first}, {other}", fix=fix)


def is_shown(entry: VariantEntry) -> bool:
    """Whether a variant has a place on a curve: an fp32 network with a share of it removed."""
    return entry.precision is Precision.FP32 and entry.role is Role.CANDIDATE and entry.ratio > 0


def left_out(study: Study) -> tuple[str, ...]:
    """What of a study no figure and no row shows, and why."""
    said = []
    for entry in study.record.variants:
        curved = is_shown(entry) or (entry.is_baseline and entry.precision is Precision.FP32)
        if curved and entry.status is not VariantStatus.DONE:
            said.append(unfinished(entry))
    other = [e.id for e in study.record.variants if e.precision is not Precision.FP32]
    plain = [e for e in study.record.variants if e.precision is Precision.FP32 and not e.is_baseline]
    unplaced = [e.id for e in plain if not is_shown(e)]
    if other:
        said.append(f"{_several(other)} (another precision)")
    if unplaced:
        said.append(f"{_several(unplaced)} (no ratio: a budget, a trial of a search, or an audited file)")
    return tuple(said)


def unfinished(entry: VariantEntry) -> str:
    """A variant without numbers, and why: "filter-r0.50-s0 (refused: the reason)"."""
    return f"{entry.id} ({entry.status.value}{': ' + entry.reason if entry.reason else ''})"


def _several(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
