"""`edgesafe report`: reads a study, hands it to the report package, writes what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgesafe.commands import gate
from edgesafe.errors import UsageError
from edgesafe.files import atomic_write
from edgesafe.measure import evidence as evidence_files
from edgesafe.records import Evidence
from edgesafe.study.study import StudyReader

__all__ = ["write"]


def write(study_path: Path, target: Path, policy: Path | None = None) -> list[Path]:
    """Write index.html, report.md, results.csv and results.json; returns their paths.

    Args:
        study_path: the study.
        target: directory of the report.
        policy: if given, the page opens with the gate's verdict.

    Raises:
        StoreError: not a study, or the target cannot be written.
        IntegrityError: a file of the study was changed.
        UsageError: the extra `report` is not installed.
    """
    try:
        from edgesafe import report
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgesafe"):
            raise
        raise UsageError(f"{error.name} is not installed", fix="pip install 'edgesafe[report]'") from None
    study = StudyReader(study_path)
    ids = study.done()
    for variant in ids:
        study.verify(variant)
    view = report.StudyView(
        study=study.record,
        variants=tuple(study.variant(variant) for variant in ids),
        measurements={variant: study.measurements(variant) for variant in ids},
        evidence=_Evidences(study, ids),
        verdict=gate.judge(gate.Request(study_path, policy)) if policy is not None else None,
        path=str(study_path),
        samples=study.samples(),
    )
    files = report.build(view)
    contents = {
        "index.html": files.html,
        "report.md": files.markdown,
        "results.csv": files.csv,
        "results.json": files.json,
    }
    for name, text in contents.items():
        atomic_write(target / name, text.encode("utf-8"))
    return [target / name for name in contents]


class _Evidences(Mapping[str, Evidence]):
    """The evidence of each variant, read when it is asked for: a full study holds tens of MB per variant."""

    def __init__(self, study: StudyReader, ids: tuple[str, ...]) -> None:
        self._study, self._ids = study, ids

    def __getitem__(self, variant: str) -> Evidence:
        if variant not in self._ids:
            raise KeyError(variant)
        return evidence_files.from_bytes(self._study.evidence_bytes(variant))

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
