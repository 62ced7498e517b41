"""The study directory being made. Only this module, and `outpost` with what workers sent, write into it.

Every file gets its final name by an atomic rename after an fsync, so that a killed process leaves either the old file
or the new one. Stage results (`.work/`) carry a key over their inputs and a hash over their bytes; one that does not
match is not used. One process at a time holds a study (`flock` on `.lock`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from edgesafe.errors import EdgesafeError, IntegrityError, StoreError
from edgesafe.files import atomic_write, digest, sha256_bytes, sha256_file, trouble
from edgesafe.records import (
    Artefact,
    Measurements,
    Record,
    Role,
    SampleSize,
    SearchRecord,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.study import study as studies
from edgesafe.study.index import bound, to_json
from edgesafe.study.study import CERTIFICATES, EVIDENCE, MEASUREMENTS, SAMPLES, SEARCH, STUDY, VARIANT, Variant

__all__ = ["REPRODUCIBLE", "Files", "StudyWriter", "set_aside"]

REPRODUCIBLE = (
    "model.safetensors",
    "model.onnx",
    "model.sparse.onnx",
    "model.calibrated.onnx",
    EVIDENCE,
    CERTIFICATES,
)
"""Files whose bytes depend on recipe, data, seed and machine alone. Timings are in measurements.json, not here."""

_STAGE_MAGIC = b"edgesafe-stage/1\n"
_AMENDED = (VARIANT, MEASUREMENTS, CERTIFICATES)  # what is replaced where a finished variant is certified later


class StudyWriter:
    """A study being made. Use as a context manager: it holds the study's lock.

    Attributes:
        root: the study directory.
        record: study.json as it is on disk.
    """

    def __init__(self, root: Path, record: StudyRecord) -> None:
        """Create the study, or open the one that is there if it was made by the same recipe from the same inputs.

        Raises:
            StoreError: the directory cannot be used, or holds something else.
            IntegrityError: what is there was changed.
        """
        self.root, self.record = root, record
        self._variants: dict[str, Variant] = {}  # what was written or read in this run
        self._hashes: dict[str, dict[str, str]] = {}  # of the records written in this run
        self._made = not root.exists()  # by this run: then it is removed again if nothing comes of it
        self._lock = _hold(root)
        try:
            if (root / STUDY).is_file():
                self.record, _ = studies.read_index(root)
                self._restore()
                if self._begun():
                    self._same(record)
                else:
                    self._save(record)
            else:
                self._empty(root)
                self._save(record)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pending = all(entry.status is VariantStatus.PENDING for entry in self.record.variants)
        if isinstance(error, EdgesafeError) and self._made and pending and not self._begun():
            for name in (STUDY, SAMPLES, ".lock"):
                (self.root / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies in it
                self.root.rmdir()
        self._lock.close()

    # ------------------------------------------------------------------------------------------------ stages

    def stage(self, owner: str, name: str, key: str) -> bytes | None:
        """What a stage left, if its inputs were the same and its bytes are whole; else None."""
        try:
            data = (self.root / ".work" / owner / name).read_bytes()
        except OSError:
            return None
        head, payload = data[: len(_STAGE_MAGIC) + 130], data[len(_STAGE_MAGIC) + 130 :]
        expected = _STAGE_MAGIC + f"{key}\n{hashlib.sha256(payload).hexdigest()}\n".encode()
        return payload if head == expected else None

    def put_stage(self, owner: str, name: str, key: str, payload: bytes) -> None:
        """Keep the result of a stage, which `stage` gives back in a later run; `key` hashes all that it depends on."""
        head = _STAGE_MAGIC + f"{key}\n{hashlib.sha256(payload).hexdigest()}\n".encode()
        atomic_write(self.root / ".work" / owner / name, head + payload)

    def drop_stages(self, owner: str | None = None) -> None:
        """Forget the stages of one owner, or all."""
        target = self.root / ".work" if owner is None else self.root / ".work" / owner
        shutil.rmtree(target, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- variants

    def path(self, variant_id: str, name: str) -> Path:
        """Where a file of a variant lies."""
        return self.root / variant_id / name

    def variant(self, variant_id: str) -> VariantRecord:
        """The record of a variant: as it was put, or as an earlier run left it."""
        return self._variant(variant_id).record

    def measurements(self, variant_id: str) -> Measurements:
        """The measurements of a variant: as they were put, or as an earlier run left them."""
        return self._variant(variant_id).measurements

    def evidence_bytes(self, variant_id: str) -> bytes:
        """evidence.npz of a measured variant, compared with its hash."""
        return self._variant(variant_id).evidence_bytes()

    def certificates_bytes(self, variant_id: str) -> bytes | None:
        """certificates.npz of a measured variant, compared with its hash; None: it was not certified."""
        return self._variant(variant_id).certificates_bytes()

    def file_bytes(self, variant_id: str, name: str) -> bytes:
        """A file of a variant, compared with its hash."""
        return self._variant(variant_id).file_bytes(name)

    def put_samples(self, png: bytes | None) -> None:
        """Keep a picture of the corruptions for the report, unless it is there."""
        if png is None or sha256_bytes(png) == self.record.samples_sha256:
            return
        atomic_write(self.root / SAMPLES, png)
        self._save(self.record.model_copy(update={"samples_sha256": sha256_bytes(png)}))

    def put_sample_size(self, size: SampleSize) -> None:
        """Write down how many images were chosen; an opened study gives what was chosen first."""
        self._save(self.record.model_copy(update={"sample_size": size}))

    def put_search(self, record: SearchRecord) -> None:
        """Write what a search has tried so far, and its hash into the index."""
        content = to_json(record)
        atomic_write(self.root / SEARCH, content)
        self._save(self.record.model_copy(update={"search_sha256": sha256_bytes(content)}))

    def search(self) -> SearchRecord | None:
        """What an earlier run of the search tried; None: nothing yet, or it was killed while it wrote that down."""
        try:
            return studies.search_of(self.root, self.record)
        except IntegrityError:
            return None

    def add(self, entry: VariantEntry) -> None:
        """List a further variant at the end, unless it is listed; a variant that is done stays as it is."""
        if self.record.entry(entry.id) is None:
            self._save(self.record.model_copy(update={"variants": (*self.record.variants, entry)}))

    def appoint(self, variant_id: str, role: Role) -> None:
        """Say what a variant is to the others."""
        self._replace(self._entry(variant_id).model_copy(update={"role": role}))

    def keep_previous(self, variant_id: str) -> None:
        """Keep a copy of what will be replaced in a finished variant, until `finish` has replaced all of it.

        A process that is killed in between leaves files that the index does not know; the next one to open the study
        puts the copies back.
        """
        for name in _AMENDED:
            path = self.path(variant_id, name)
            if path.is_file():
                atomic_write(self._previous(variant_id) / name, path.read_bytes())

    def put_file(self, variant_id: str, name: str, data: bytes) -> Artefact:
        """Write a file of a variant in one step, so that no half of it is ever seen; its name, hash and size."""
        artefact = Artefact(file=name, sha256=sha256_bytes(data), bytes=len(data))
        atomic_write(self.path(variant_id, name), data)
        return artefact

    def put_variant(self, record: VariantRecord) -> None:
        """Write variant.json; its hash stands in the index once the variant is finished."""
        self._put(record.id, VARIANT, record)
        self._variants[record.id] = dataclasses.replace(self._started(record.id), recorded=record)

    def put_measurements(self, record: Measurements) -> None:
        """Write measurements.json; its hash stands in the index once the variant is finished."""
        self._put(record.variant, MEASUREMENTS, record)
        self._variants[record.variant] = dataclasses.replace(self._started(record.variant), measured=record)

    def finish(self, variant_id: str) -> None:
        """Mark a variant as done and record the digest of its reproducible files.

        Raises:
            IntegrityError: its numbers were measured on another file.
        """
        hashes = {
            name: sha256_file(self.path(variant_id, name))
            for name in REPRODUCIBLE
            if self.path(variant_id, name).exists()
        }
        entry = self._entry(variant_id).model_copy(
            update={"status": VariantStatus.DONE, "reason": "", "digest": digest(hashes)}
            | {"records": self._hashes[variant_id]}
        )
        self._variants[variant_id] = studies.variant(self.root, entry)
        self._replace(entry)
        self.drop_stages(variant_id)

    def refuse(self, variant_id: str, reason: str) -> None:
        """Mark a variant as refused, with the error message as the reason; it has no digest."""
        changes = {"status": VariantStatus.REFUSED, "reason": reason, "digest": "", "records": {}}
        self._replace(self._entry(variant_id).model_copy(update=changes))

    def is_done(self, variant_id: str) -> bool:
        """Whether a variant is finished and all its files still are what was recorded.

        One whose directory was removed is not: it is made again.

        Raises:
            IntegrityError: a file of a finished variant was changed.
        """
        if self._entry(variant_id).status is not VariantStatus.DONE or not (self.root / variant_id).exists():
            return False
        self._variant(variant_id).verify()
        return True

    def close_study(self) -> str:
        """Record the digest over all variants; the study's identity. Stage results are dropped."""
        value = digest({entry.id: entry.digest or entry.status.value for entry in self.record.variants})
        self._save(self.record.model_copy(update={"digest": value}))
        self.drop_stages()
        return value

    # ----------------------------------------------------------------------------------------------- details

    def _previous(self, variant_id: str) -> Path:
        return self.root / ".work" / variant_id / "previous"

    def _restore(self) -> None:
        """Put back what a killed process was replacing, where the index still knows the old files."""
        for entry in self.record.variants:
            kept = self._previous(entry.id)
            copies = {path.name: path.read_bytes() for path in kept.glob("*.*") if path.name in _AMENDED}
            if copies and all(sha256_bytes(copies.get(name, b"")) == digest for name, digest in entry.records.items()):
                for name, content in copies.items():
                    atomic_write(self.path(entry.id, name), content)
            shutil.rmtree(kept, ignore_errors=True)

    def _entry(self, variant_id: str) -> VariantEntry:
        entry = self.record.entry(variant_id)
        if entry is None:
            raise ValueError(f"the study has no variant '{variant_id}'")
        return entry

    def _started(self, variant_id: str) -> Variant:
        """What is known of a variant that is being made."""
        return self._variants.get(variant_id) or Variant(self._entry(variant_id), self.root / variant_id)

    def _variant(self, variant_id: str) -> Variant:
        if variant_id not in self._variants:
            self._variants[variant_id] = studies.variant(self.root, self._entry(variant_id))
        return self._variants[variant_id]

    def _put(self, variant_id: str, name: str, record: Record) -> None:
        content = to_json(record)
        atomic_write(self.path(variant_id, name), content)
        self._hashes.setdefault(variant_id, {})[name] = sha256_bytes(content)

    def _replace(self, entry: VariantEntry) -> None:
        entries = tuple(entry if old.id == entry.id else old for old in self.record.variants)
        self._save(self.record.model_copy(update={"variants": entries}))

    def _save(self, record: StudyRecord) -> None:
        self.record, content = bound(StudyRecord.model_validate(record.model_dump(by_alias=True)))
        path = self.root / STUDY
        if not path.is_file() or path.read_bytes() != content:
            atomic_write(path, content)

    def _begun(self) -> bool:
        """Whether the study holds a finished stage or variant; if not, another recipe may start in its directory."""
        return (self.root / ".work").exists() or any(
            entry.status is VariantStatus.DONE for entry in self.record.variants
        )

    def _same(self, record: StudyRecord) -> None:
        if self.record.recipe_sha256 != record.recipe_sha256:
            key = _first_difference(self.record.recipe, record.recipe)
            raise StoreError(
                f"holds a study made by another recipe ('{self.record.name}'; differs at {key})",
                where=str(self.root),
                fix="choose another --out, or start over with --fresh (the old one is kept aside)",
            )  # fmt: skip
        changed = [
            k
            for k in ("train_sha256", "validation_sha256", "test_sha256")
            if getattr(self.record.data, k) != getattr(record.data, k)
        ]
        changed += [name for name, value in record.inputs.items() if self.record.inputs.get(name) != value]
        if changed:
            raise IntegrityError(
                f"what the study started from has changed since: {', '.join(changed)}",
                where=str(self.root), fix="restore it, or start over with --fresh",
            )  # fmt: skip

    @staticmethod
    def _empty(root: Path) -> None:
        strangers = [
            path.name
            for path in root.iterdir()
            if path.name not in (".lock", ".work") and not path.name.startswith(f".{STUDY}")
        ]
        if strangers:
            raise StoreError(
                f"not empty and not a study (holds {', '.join(sorted(strangers)[:3])})",
                where=str(root),
                fix="choose another --out",
            )


def _first_difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if key not in ("name", "cache_dir") and old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                return _first_difference(a, b, f"{path}.{position}")
    return f"{path}: {json.dumps(old)[:60]} before, {json.dumps(new)[:60]} now"


def _hold(root: Path) -> IO[bytes]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("wb")
    except OSError as error:
        raise trouble(root, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise StoreError(
            "another process is working on this study", where=str(root), fix="wait for it, or choose another --out"
        ) from None
    return handle


def set_aside(root: Path) -> Path | None:
    """Move a study that is there out of the way (`--fresh`) to `<root>.1`, `.2`, …; None: nothing was there."""
    if not root.exists():
        return None
    with _hold(root):
        number = 1
        while (target := root.with_name(f"{root.name}.{number}")).exists():
            number += 1
        try:
            root.rename(target)
        except OSError as error:
            raise trouble(root, error) from None
    return target


class Files:
    """Writes the files of one variant and remembers what was written."""

    def __init__(self, study: StudyWriter, variant: str) -> None:
        self._study, self._variant = study, variant
        self.artefacts: list[Artefact] = []

    def __call__(self, name: str, data: bytes, *, compressed: tuple[int, str] | None = None) -> None:
        """Write a file; `compressed` is its size for transport and the name of the compressor."""
        artefact = self._study.put_file(self._variant, name, data)
        if compressed is not None:
            artefact = artefact.model_copy(update={"transport_bytes": compressed[0], "compressor": compressed[1]})
        self.artefacts.append(artefact)
