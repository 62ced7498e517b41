"""A study as it lies on disk, read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edgesafe.errors import IntegrityError, NothingEvaluated, StoreError
from edgesafe.files import (
    sha256_bytes,
)
from edgesafe.records import (
    Measurements,
    Record,
    StudyRecord,
    VariantRecord,
)

__all__ = ["StudyReader"]


STUDY, VARIANT, MEASUREMENTS, EVIDENCE = "study.json", "variant.json", "measurements.json", "evidence.npz"


SAMPLES = "samples.png"


_R = TypeVar("_R", bound=Record)


class StudyReader:
    """A study as it lies on disk, checked while it is read."""

    def __init__(self, root: Path) -> None:
        """Open a study.

        Raises:
            StoreError: not a study, damaged, or made by a newer schema.
        """
        self.root = root
        if not (root / STUDY).is_file():
            raise StoreError("no study here", where=str(root), fix="give the directory that `edgesafe compress` wrote")
        self.record = _read(root / STUDY, StudyRecord)

    def done(self) -> tuple[str, ...]:
        """Ids of the finished variants, in the order of the study.

        Raises:
            NothingEvaluated: there are none.
        """
        ids = tuple(entry.id for entry in self.record.variants if entry.status == "done")
        if not ids:
            raise NothingEvaluated(
                "no variant is finished", where=str(self.root), fix="run edgesafe compress to the end"
            )
        return ids

    def variant(self, variant_id: str) -> VariantRecord:
        """variant.json of a variant."""
        return _read(self.root / variant_id / VARIANT, VariantRecord)

    def measurements(self, variant_id: str) -> Measurements:
        """measurements.json of a variant."""
        return _read(self.root / variant_id / MEASUREMENTS, Measurements)

    def evidence_bytes(self, variant_id: str) -> bytes:
        """evidence.npz of a variant, checked against the hash in measurements.json."""
        return self._checked(variant_id, EVIDENCE, self.measurements(variant_id).evidence_sha256)

    def file_bytes(self, variant_id: str, name: str) -> bytes:
        """An artefact of a variant, checked against variant.json."""
        artefact = self.variant(variant_id).artefact(name)
        if artefact is None:
            raise StoreError(f"variant '{variant_id}' has no {name}", where=str(self.root), fix="see variant.json")
        return self._checked(variant_id, name, artefact.sha256)

    def samples(self) -> bytes | None:
        """The picture of the corruptions, or None."""
        path = self.root / SAMPLES
        return path.read_bytes() if path.is_file() else None

    def path(self, variant_id: str, name: str) -> Path:
        """Where a file of a variant lies."""
        return self.root / variant_id / name

    def verify(self, variant_id: str) -> None:
        """Compare every file of a variant with its recorded hash.

        Raises:
            IntegrityError: a file was changed or is missing.
        """
        entry = next((e for e in self.record.variants if e.id == variant_id), None)
        for name in (VARIANT, MEASUREMENTS):
            self._checked(variant_id, name, entry.records.get(name, "") if entry is not None else "")
        record, measured = self.variant(variant_id), self.measurements(variant_id)
        self._checked(variant_id, EVIDENCE, measured.evidence_sha256)
        for artefact in record.artefacts:
            self._checked(variant_id, artefact.file, artefact.sha256)
        onnx = record.artefact("model.onnx")
        if onnx is None or onnx.sha256 != measured.onnx_sha256:
            raise IntegrityError(
                "the numbers were measured on another file",
                where=str(self.path(variant_id, MEASUREMENTS)),
                fix="run edgesafe compress again",
            )

    def _checked(self, variant_id: str, name: str, expected: str) -> bytes:
        path = self.path(variant_id, name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"recorded, but cannot be read ({error.strerror})", where=str(path), fix=_REMAKE
            ) from None
        if sha256_bytes(data) != expected:
            raise IntegrityError("changed after it was measured (its hash differs)", where=str(path), fix=_REMAKE)
        return data


_REMAKE = "remove the variant's directory and run edgesafe compress again"


def _read(path: Path, model: type[_R]) -> _R:
    try:
        plain = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"cannot be read ({error.strerror})", where=str(path), fix="run edgesafe compress again"
        ) from None
    except ValueError:
        raise StoreError(
            "damaged: not JSON", where=str(path), fix="remove it and run edgesafe compress again"
        ) from None
    expected = str(model.model_fields["schema_"].default)
    found = plain.get("schema") if isinstance(plain, dict) else None
    if found != expected:
        if isinstance(found, str) and found.split("/")[0] == expected.split("/", maxsplit=1)[0]:
            what = f"made by another version of edgesafe (schema {found}; this one reads {expected})"
            raise StoreError(what, where=str(path), fix="upgrade edgesafe, or choose another --out")
        raise StoreError(f"not a {expected} file (schema: {found!r})", where=str(path), fix="choose another directory")
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"damaged at '{key}': {first['msg']}", where=str(path), fix="run edgesafe compress again"
        ) from None
