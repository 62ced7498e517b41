"""`edgesafe report`: reads a study, hands it to the report package, writes what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgesafe.certificates import archive
from edgesafe.commands import gate
from edgesafe.errors import UsageError
from edgesafe.files import atomic_write, refuse_inputs
from edgesafe.measure import evidence as evidence_files
from edgesafe.records import Evidence
from edgesafe.study.study import Study

__all__ = ["compare", "write"]


def write(study: Study, target: Path, policy: Path | None = None) -> list[Path]:
    """Write index.html, report.md, results.csv and results.json; returns their paths.

    Args:
        study: the study; every file of it is compared with its hash first.
        target: directory of the report.
        policy: if given, the page opens with the gate's verdict.

    Raises:
        NothingEvaluated: no variant is finished.
        StoreError: the target cannot be written.
        IntegrityError: a file of the study was changed.
        UsageError: the extra `report` is not installed, or the target lies in the study.
    """
    names = ("index.html", "report.md", "results.csv", "results.json")
    refuse_inputs((target / name for name in names), (study.root, *([policy] if policy is not None else [])))
    try:
        from edgesafe import report
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgesafe"):
            raise
        raise UsageError(f"{error.name} is not installed", fix="pip install 'edgesafe[report]'") from None
    if policy is None:
        study.verify()
    verdict = gate.judge(study, gate.GateRequest(policy)) if policy is not None else None
    certificates = {
        variant.id: archive.from_bytes(content)
        for variant in study.finished()
        if (content := variant.certificates_bytes()) is not None
    }
    files = report.build(report.View(study, _Evidences(study), verdict, study.samples(), certificates))
    for name, text in zip(names, (files.html, files.markdown, files.csv, files.json), strict=True):
        atomic_write(target / name, text.encode("utf-8"))
    return [target / name for name in names]


def compare(studies: Sequence[Study], target: Path) -> list[Path]:
    """Write index.html, report.md, results.json and the figures of several studies; returns their paths.

    Args:
        studies: two or more, of one data set; every file of them is compared with its hash first.
        target: directory of the report.

    Raises:
        UsageError: they cannot be compared, the extra `report` is not installed, or the target lies in a study.
        NothingEvaluated: no pruned variant is finished.
        StoreError: the target cannot be written.
        IntegrityError: a file of a study was changed.
    """
    for study in studies:
        study.verify()
    try:
        from edgesafe.report.comparison import pages
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgesafe"):
            raise
        raise UsageError(f"{error.name} is not installed", fix="pip install 'edgesafe[report]'") from None
    files = pages.compared(studies)
    refuse_inputs((target / name for name in files), tuple(study.root for study in studies))
    for name, text in files.items():
        atomic_write(target / name, text.encode("utf-8"))
    return [target / name for name in files]


class _Evidences(Mapping[str, Evidence]):
    """The evidence of each finished variant, read when asked for: a full study holds tens of MB per variant."""

    def __init__(self, study: Study) -> None:
        self._done = {variant.id: variant for variant in study.finished()}

    def __getitem__(self, variant: str) -> Evidence:
        return evidence_files.from_bytes(self._done[variant].evidence_bytes())

    def __iter__(self) -> Iterator[str]:
        return iter(self._done)

    def __len__(self) -> int:
        return len(self._done)
