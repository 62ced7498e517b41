"""A study as a worker has it: a copy of what its task needs, in a directory that goes with the task.

What is put into it is sent, as bytes by path, to the process that holds the study, which alone writes there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from edgesafe.errors import IntegrityError
from edgesafe.files import atomic_write
from edgesafe.records import Artefact, Measurements, Record, StudyRecord, VariantRecord
from edgesafe.records.names import PATTERN
from edgesafe.study.index import from_json
from edgesafe.study.study import MEASUREMENTS, VARIANT
from edgesafe.study.writer import StudyWriter

__all__ = ["Files", "Outpost", "adopt", "stages_of", "variant_files"]

Files = Mapping[str, bytes]
"""Contents by path below the study."""


class Outpost(StudyWriter):
    """A study directory of a worker.

    Args:
        root: an empty directory.
        record: the study's index as it is.
        files: what the task needs of the study. The records of a finished variant are read when they are asked for.
        send: given what is put into it.
    """

    def __init__(self, root: Path, record: StudyRecord, files: Files, send: Callable[[Files], None]) -> None:
        super().__init__(root, record)
        self._send: Callable[[Files], None] = lambda _: None
        done = {entry.id for entry in self.record.variants if entry.records}
        kept = {name: content for name, content in files.items() if name.split("/")[0] in done}
        for name, content in kept.items():
            atomic_write(self.root / name, content)
        adopt(self, {name: content for name, content in files.items() if name not in kept})
        self._send = send

    def put_stage(self, owner: str, name: str, key: str, payload: bytes) -> None:
        """Keep and send what a stage left; see `StudyWriter.put_stage`."""
        super().put_stage(owner, name, key, payload)
        self._send({f".work/{owner}/{name}": (self.root / ".work" / owner / name).read_bytes()})

    def put_file(self, variant_id: str, name: str, data: bytes) -> Artefact:
        """Write and send a file of a variant; see `StudyWriter.put_file`."""
        artefact = super().put_file(variant_id, name, data)
        self._send({f"{variant_id}/{name}": data})
        return artefact

    def _put(self, variant_id: str, name: str, record: Record) -> None:
        super()._put(variant_id, name, record)
        self._send({f"{variant_id}/{name}": (self.root / variant_id / name).read_bytes()})


def adopt(study: StudyWriter, files: Files) -> None:
    """Write into a study what was made elsewhere: files of variants, and what stages left.

    Args:
        study: written to.
        files: by path below the study, such as "filter-r0.50-s0/model.onnx" or ".work/baseline-s0.train/fit".

    Raises:
        IntegrityError: a path that none of them has.
    """
    for name, content in files.items():
        *_, owner, file = ("", *name.split("/"))
        is_stage = name == f".work/{owner}/{file}"
        known = is_stage or (name == f"{owner}/{file}" and study.record.entry(owner) is not None)
        if not known or any(re.fullmatch(PATTERN, part) is None for part in (owner, file)):
            raise IntegrityError("no file of a study", where=name, fix="make the variant again")
        if is_stage:
            atomic_write(study.root / name, content)
        elif file == VARIANT:
            study.put_variant(from_json(content, VariantRecord, study.root / name))
        elif file == MEASUREMENTS:
            study.put_measurements(from_json(content, Measurements, study.root / name))
        else:
            study.put_file(owner, file, content)


def variant_files(root: Path, variant_id: str, *names: str) -> dict[str, bytes]:
    """Files of a variant by path below the study: those of the names that are there; no names: all."""
    return _read(root, root / variant_id, names)


def stages_of(root: Path, owner: str, beginning: str = "") -> dict[str, bytes]:
    """What the stages of an owner left, by path below the study: those whose names begin so."""
    return _read(root, root / ".work" / owner, beginning=beginning)


def _read(root: Path, folder: Path, names: tuple[str, ...] = (), beginning: str = "") -> dict[str, bytes]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
        and not path.name.startswith(".")
        and path.name.startswith(beginning)
        and (not names or path.name in names)
    }
