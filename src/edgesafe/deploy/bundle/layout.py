"""Where things lie in a bundle, and what it is made of before it is written.

manifest.json         facts, and every other file with its hash        manifest.json.sig   Ed25519 over it, if signed
README.md             the model card                                    config.json         classes, preprocessing
model*.onnx, *.ort    the files                                         sbom.cdx.json       bill of materials
evidence/             study.json, and the records of the variant, its baseline and its fp32 sibling
verdict.json, policy.toml, edgesafe.lock                                if a policy was given
samples/images.bin    images as the model takes them                    samples/outputs.bin what it must put out
examples/             run.py, run.cpp, sha256.h, requirements.txt       LICENCES.md, licences/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesafe.records import BundleFacts, Measurements, StudyRecord, VariantEntry, VariantRecord, Verdict

__all__ = [
    "CARD",
    "CONFIG",
    "EXAMPLES",
    "IMAGES",
    "LICENCES",
    "LICENCE_TEXT",
    "LOCK",
    "MANIFEST",
    "OUTPUTS",
    "POLICY",
    "PYTHON_EXAMPLE",
    "SBOM",
    "SIGNATURE",
    "STUDY",
    "VERDICT",
    "Contents",
    "ort_paths",
    "record_path",
    "recorded",
]

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
CARD, CONFIG, LICENCES, SBOM = "README.md", "config.json", "LICENCES.md", "sbom.cdx.json"
LICENCE_TEXT = "licences/Apache-2.0.txt"
STUDY = "evidence/study.json"
VERDICT, POLICY, LOCK = "verdict.json", "policy.toml", "edgesafe.lock"
IMAGES, OUTPUTS = "samples/images.bin", "samples/outputs.bin"
PYTHON_EXAMPLE = "examples/run.py"
EXAMPLES = (PYTHON_EXAMPLE, "examples/run.cpp", "examples/sha256.h", "examples/requirements.txt")


def ort_paths(platform: str) -> tuple[str, str]:
    """The file in onnxruntime's format for a platform, and the operators that it needs."""
    return f"model.{platform}.ort", f"model.{platform}.operators.config"


def record_path(variant: str, name: str) -> str:
    """Where a record of a variant lies: "evidence/filter-r0.50-s0/variant.json"."""
    return f"evidence/{variant}/{name}"


def recorded(entry: VariantEntry) -> tuple[str, ...]:
    """Ids of the variants whose records are in a bundle: the variant, its baseline, its fp32 sibling."""
    return tuple(dict.fromkeys(name for name in (entry.id, entry.baseline, entry.sibling) if name is not None))


@dataclass(frozen=True)
class Contents:
    """What the written parts of a bundle are functions of.

    Attributes:
        facts: of the manifest.
        study: the study's index.
        records, measured: of the variants that `recorded` names, by id.
        verdict: None: no policy was given.
        models: hash and size of each model file, by path.
    """

    facts: BundleFacts
    study: StudyRecord
    records: Mapping[str, VariantRecord]
    measured: Mapping[str, Measurements]
    verdict: Verdict | None
    models: Mapping[str, tuple[str, int]]

    @property
    def record(self) -> VariantRecord:
        """variant.json of the variant."""
        return self.records[self.facts.variant]

    @property
    def measurements(self) -> Measurements:
        """measurements.json of the variant."""
        return self.measured[self.facts.variant]
