"""A study as it lies on disk: read once, checked, frozen.

Every file is read exactly once where it is needed, and what is parsed or handed out is the very bytes that were hashed:
a writer at work beside the reader leads to an error, never to numbers that nobody measured.

    study.json     bound by its own last field (see `study.index`); holds the hashes of
    variant.json, measurements.json    which are read with it, and hold the hashes of
    model.onnx, evidence.npz, …        which are large, and read and checked when they are asked for, or by `verify`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesafe.errors import IntegrityError, NothingEvaluated, StoreError, UnknownNameError, hint
from edgesafe.files import is_file, read_bounded, sha256_bytes, sha256_file
from edgesafe.records import (
    Comparison,
    Measurement,
    Measurements,
    SearchRecord,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.study.index import from_json, open_index

__all__ = [
    "CERTIFICATES",
    "EVIDENCE",
    "MEASUREMENTS",
    "MODEL",
    "SAMPLES",
    "SEARCH",
    "STUDY",
    "VARIANT",
    "Study",
    "Variant",
    "checked_bytes",
    "read",
    "search_of",
    "variant",
]

STUDY, VARIANT, MEASUREMENTS, EVIDENCE = "study.json", "variant.json", "measurements.json", "evidence.npz"
CERTIFICATES, SAMPLES, MODEL = "certificates.npz", "samples.png", "model.onnx"
SEARCH = "search.json"

RECORD_LIMIT = 64_000_000  #: bytes of a JSON record: a study of thousands of variants has fewer
_EVIDENCE_LIMIT = 8_000_000_000  # bytes: 50,000 images, 1,000 classes, 75 cells have 0.4 GB

_REMAKE = "run the command that wrote it again; if that does not help, remove the variant's directory first"


@dataclass(frozen=True)
class Variant:
    """One variant of a study.

    Attributes:
        entry: its line in the index: id, label, role, ratio, seed, status.
        folder: its directory.
        recorded: variant.json; None unless it is done.
        measured: measurements.json; None unless it is done.
    """

    entry: VariantEntry
    folder: Path
    recorded: VariantRecord | None = field(default=None, repr=False)
    measured: Measurements | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The name of its directory, for example "filter-r0.50-s0"."""
        return self.entry.id

    @property
    def status(self) -> VariantStatus:
        """Whether it is done, pending or refused; `entry.reason` says why it was refused."""
        return self.entry.status

    @property
    def record(self) -> VariantRecord:
        """What was made: surgery, files, parameters, MACs, sparsity, lineage.

        Raises:
            NothingEvaluated: it is not done.
        """
        if self.recorded is None:
            raise self._not_done()
        return self.recorded

    @property
    def measurements(self) -> Measurements:
        """What was measured, and on which file.

        Raises:
            NothingEvaluated: it is not done.
        """
        if self.measured is None:
            raise self._not_done()
        return self.measured

    @property
    def metrics(self) -> Mapping[str, Measurement]:
        """Its metrics by id, each with estimate, interval, n, method and unit.

        Raises:
            NothingEvaluated: it is not done.
        """
        return self.measurements.metrics

    @property
    def differences(self) -> Mapping[str, Comparison]:
        """Its paired differences to the baseline (candidate minus baseline) by metric id.

        Raises:
            NothingEvaluated: it is not done.
        """
        return self.measurements.differences

    def path(self, name: str) -> Path:
        """Where a file of it lies. Its bytes may have changed since they were measured: `file_bytes` checks them."""
        return self.folder / name

    def file_bytes(self, name: str) -> bytes:
        """A file of it, for example "model.onnx", compared with its recorded hash.

        Raises:
            StoreError: it has no such file.
            IntegrityError: the file was changed, or cannot be read.
        """
        artefact = self.record.artefact(name)
        if artefact is None:
            raise StoreError(f"variant '{self.id}' has no {name}", where=str(self.folder), fix="see variant.json")
        return checked_bytes(self.folder / name, artefact.sha256, limit=artefact.bytes)

    def evidence_bytes(self) -> bytes:
        """evidence.npz, compared with its recorded hash.

        Raises:
            IntegrityError: the file was changed, or cannot be read.
        """
        return checked_bytes(self.folder / EVIDENCE, self.measurements.evidence_sha256, limit=_EVIDENCE_LIMIT)

    def certificates_bytes(self) -> bytes | None:
        """certificates.npz, compared with its recorded hash; None: it was not certified.

        Raises:
            IntegrityError: the file was changed, or cannot be read.
        """
        expected = self.measurements.certificates_sha256
        return checked_bytes(self.folder / CERTIFICATES, expected, limit=_EVIDENCE_LIMIT) if expected else None

    def verify(self) -> None:
        """Compare every file with its recorded hash; a variant that is not done has none.

        Raises:
            IntegrityError: a file was changed or is missing.
        """
        if self.status is not VariantStatus.DONE:
            return
        hashes = {EVIDENCE: self.measurements.evidence_sha256}
        hashes |= {artefact.file: artefact.sha256 for artefact in self.record.artefacts}
        if self.measurements.certificates_sha256 is not None:
            hashes[CERTIFICATES] = self.measurements.certificates_sha256
        for name, expected in hashes.items():
            path = self.folder / name
            try:
                digest = sha256_file(path)
            except StoreError as error:
                raise IntegrityError(f"recorded, but {error.what}", where=str(path), fix=_REMAKE) from None
            if digest != expected:
                raise _changed(path)

    def _not_done(self) -> NothingEvaluated:
        why = f"{self.status.value}: {self.entry.reason}" if self.entry.reason else self.status.value
        return NothingEvaluated(f"has no results ({why})", where=self.id, fix="run edgesafe compress to the end")


@dataclass(frozen=True, eq=False, repr=False)
class Study(Mapping[str, Variant]):
    """A study: its index, and its variants by id in the index's order. `read` opens one.

    Attributes:
        root: its directory.
        record: study.json.
        variants: all of them, also those that are pending or refused.
        index: the bytes of study.json that `record` was read from.
    """

    root: Path
    record: StudyRecord
    variants: tuple[Variant, ...]
    index: bytes = b""

    def __getitem__(self, variant_id: str) -> Variant:
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        fix = hint(variant_id, self, f"list(study) names its {len(self)} variants")
        raise UnknownNameError(f"no variant '{variant_id}'", where=self.record.name, fix=fix)

    def __iter__(self) -> Iterator[str]:
        return (variant.id for variant in self.variants)

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def name(self) -> str:
        """The name that its recipe gives it."""
        return self.record.name

    @property
    def digest(self) -> str:
        """Over the files that recipe, data, seed and machine alone decide: equal studies have equal digests."""
        return self.record.digest

    def finished(self) -> tuple[Variant, ...]:
        """The variants that are done, in the order of the study.

        Raises:
            NothingEvaluated: there are none.
        """
        done = tuple(variant for variant in self.variants if variant.status is VariantStatus.DONE)
        if not done:
            raise NothingEvaluated(
                "no variant is finished", where=str(self.root), fix="run edgesafe compress to the end"
            )
        return done

    def records(self) -> dict[str, VariantRecord]:
        """The records of the finished variants, by id."""
        return {variant.id: variant.recorded for variant in self.variants if variant.recorded is not None}

    def measurements(self) -> dict[str, Measurements]:
        """The measurements of the finished variants, by id."""
        return {variant.id: variant.measured for variant in self.variants if variant.measured is not None}

    def verify(self) -> None:
        """Compare every file of every finished variant with its recorded hash.

        Raises:
            IntegrityError: a file was changed or is missing.
        """
        for variant in self.variants:
            variant.verify()

    def samples(self) -> bytes | None:
        """The picture of the corruptions (PNG), or None.

        Raises:
            IntegrityError: the file was changed, or cannot be read.
        """
        expected = self.record.samples_sha256
        return checked_bytes(self.root / SAMPLES, expected, limit=RECORD_LIMIT) if expected else None

    def search(self) -> SearchRecord | None:
        """What a search tried, what passed and what it cost; None: no search made this study.

        Raises:
            StoreError: it was made by another version.
            IntegrityError: the file was changed, or cannot be read.
        """
        return search_of(self.root, self.record)


def search_of(root: Path, record: StudyRecord) -> SearchRecord | None:
    """The content of search.json, compared with the hash in the study's index; None: there is none.

    Raises:
        StoreError, IntegrityError: see `Study.search`.
    """
    if not record.search_sha256:
        return None
    path = root / SEARCH
    return from_json(checked_bytes(path, record.search_sha256, limit=RECORD_LIMIT), SearchRecord, path)


def read(root: Path) -> Study:
    """Open a study: its index and the records of its finished variants, each read once and checked.

    Args:
        root: the directory that `edgesafe compress` or `edgesafe evaluate` wrote.

    Raises:
        StoreError: not a study, damaged, or made by another version.
        IntegrityError: the index or a record is not what was written, or a file that it names is missing.
    """
    record, content = read_index(root)
    return Study(root, record, tuple(variant(root, entry) for entry in record.variants), content)


def read_index(root: Path) -> tuple[StudyRecord, bytes]:
    """The index of a study alone, and the bytes that it was read from.

    Raises:
        StoreError, IntegrityError: see `read`.
    """
    path = root / STUDY
    if not is_file(path):
        raise StoreError("no study here", where=str(root), fix="give the directory that `edgesafe compress` wrote")
    content = read_bounded(path, RECORD_LIMIT, "a study", StoreError)
    return open_index(content, path), content


def variant(root: Path, entry: VariantEntry) -> Variant:
    """A variant as its entry in the index says, its records compared with the hashes that stand there.

    Raises:
        StoreError: a record is damaged or made by another version.
        IntegrityError: a record was changed or is missing, or is about another variant or another file.
    """
    folder = root / entry.id
    if entry.status is not VariantStatus.DONE:
        return Variant(entry, folder)
    contents = {
        name: checked_bytes(folder / name, entry.records.get(name, ""), limit=RECORD_LIMIT)
        for name in (VARIANT, MEASUREMENTS)
    }
    record = from_json(contents[VARIANT], VariantRecord, folder / VARIANT)
    measured = from_json(contents[MEASUREMENTS], Measurements, folder / MEASUREMENTS)
    onnx = record.artefact(MODEL)
    if record.id != entry.id or measured.variant != entry.id:
        raise IntegrityError("holds the record of another variant", where=str(folder), fix=_REMAKE)
    if onnx is None or onnx.sha256 != measured.onnx_sha256:
        raise IntegrityError(
            "the numbers were measured on another file",
            where=str(folder / MEASUREMENTS),
            fix="run edgesafe compress again",
        )
    return Variant(entry, folder, record, measured)


def checked_bytes(path: Path, expected: str, *, limit: int) -> bytes:
    """The bytes of a file, compared with the hash that was recorded of it.

    Raises:
        IntegrityError: they differ, or the file cannot be read.
    """
    try:
        content = read_bounded(path, limit, "the file that was recorded", StoreError)
    except StoreError as error:
        raise IntegrityError(f"recorded, but {error.what}", where=str(path), fix=_REMAKE) from None
    if sha256_bytes(content) != expected:
        raise _changed(path)
    return content


def _changed(path: Path) -> IntegrityError:
    return IntegrityError("changed after it was measured (its hash differs)", where=str(path), fix=_REMAKE)
