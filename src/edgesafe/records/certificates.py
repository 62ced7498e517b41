"""Certificates: what became of each image when every image of a finite perturbation set went through one ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from edgesafe.records.base import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CertificateEngine", "CertificateProvenance", "Certificates", "SetCertificates", "Standing", "Witnesses"]


class Standing(IntEnum):
    """What is known of one image under one set. A right answer is a margin above 0: a tie is wrong."""

    CERTIFIED = 0  #: right on the untouched image and on every image of the set
    FALSIFIED = 1  #: right on the untouched image, wrong on an image of the set (the witness)
    UNKNOWN = 2  #: right on the untouched image, not decided (engine "line": a margin below its tolerance)
    WRONG = 3  #: wrong on the untouched image


class CertificateEngine(StrEnum):
    """The way in which images were decided under a set, and so what a certificate covers."""

    ENUMERATION = "enumeration"  #: every image was run: covers the file, its rounding and its runtime
    LINE = "line"  #: exact margins of the real-valued function along the unquantised range


class CertificateProvenance(Record):
    """The ONNX file, the test images and the runtime that certificates hold for."""

    onnx_sha256: str
    test_sha256: str
    provider: str
    runtime: str  #: name and version: "onnxruntime 1.20.0"
    input: str = ""  #: how pixels are handed to a file that edgesafe did not make; empty: as they are


@dataclass(frozen=True)
class Witnesses:
    """A few falsified images, as pixels, for the report.

    Attributes:
        row: int64 (w,): rows of the set's certificates.
        clean: uint8 (w, H, W, C).
        changed: uint8 (w, H, W, C): the witnesses.
        prediction: int64 (w,): what the file says of the witnesses.
        text: which image of the set each is.
    """

    row: NDArray[np.int64]
    clean: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    prediction: NDArray[np.int64]
    text: tuple[str, ...]


@dataclass(frozen=True)
class SetCertificates:
    """One set on n images. All arrays have n rows unless said otherwise.

    Attributes:
        id: of the set ("brightness=2").
        sha256: of the set's definition.
        unit: of distances, as words; empty: the set has no range.
        reach: the whole range, in `unit`.
        engine: how it was decided.
        outwards: images were run by rising distance, so that `distance` is that of the nearest violation.
        complete: every image of every row was run.
        index: int64: position in the test set, rising.
        label: int64.
        prediction: int64: on the untouched image.
        standing: uint8: a `Standing`.
        margin: float64: the least that was seen, the untouched image included: logit of the label less the best other.
        distance: float64: of the witness; `reach` where there is none.
        witness: int64: the set's number of an image that is answered wrongly, or -1.
        members: int64: distinct images that the set makes of the image.
        ran: int64: how many of them were run, the untouched image included.
        agrees: int8: 1: the same answer as the baseline on every image; 0: not; -1: there was no baseline.
        answer_count: int64: 0: every image gets the answer `prediction`, or not all were run; else `members`.
        answers: int64 (sum of answer_count): the answers of the others, image after image, by rising number.
        witnesses: a few as pixels.
    """

    id: str
    sha256: str
    unit: str
    reach: float
    engine: CertificateEngine
    outwards: bool
    complete: bool
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    standing: NDArray[np.uint8]
    margin: NDArray[np.float64]
    distance: NDArray[np.float64]
    witness: NDArray[np.int64]
    members: NDArray[np.int64]
    ran: NDArray[np.int64]
    agrees: NDArray[np.int8]
    answer_count: NDArray[np.int64]
    answers: NDArray[np.int64]
    witnesses: Witnesses

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Certificates:
    """Everything that was certified of one ONNX file.

    Attributes:
        sets: in the order they were run.
        provenance: which file, which images, which runtime.
    """

    sets: tuple[SetCertificates, ...]
    provenance: CertificateProvenance

    def of(self, set_id: str) -> SetCertificates | None:
        """The set of that id, or None."""
        return next((certified for certified in self.sets if certified.id == set_id), None)
