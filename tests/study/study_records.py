"""Small studies for the tests of the study directory. No number here was measured on anything."""

from __future__ import annotations

from edgesafe.records import (
    DataIdentity,
    Host,
    Lineage,
    Measurement,
    Measurements,
    Role,
    StudyRecord,
    Target,
    Unit,
    VariantEntry,
    VariantRecord,
)
from edgesafe.study import writer

SHA = "sha256:" + "0" * 64


def entry(name: str, role: Role = Role.CANDIDATE, **changes: object) -> VariantEntry:
    group = name.removesuffix("-s0")
    plain = {"id": name, "role": role, "label": group, "group": group, "method": role, "ratio": 0, "seed": 0}
    return VariantEntry.model_validate({**plain, "status": "pending", **changes})


def study_record(**changes: object) -> StudyRecord:
    data = DataIdentity(
        name="d", classes=("a", "b"), shape=(8, 8, 3), train_n=4, validation_n=2, test_n=2, train_sha256=SHA,
        validation_sha256=SHA, test_sha256=SHA, mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    base = {
        "name": "s", "edgesafe": "0", "recipe": {"name": "s", "recover": {"epochs": 1}}, "recipe_sha256": SHA,
        "data": data, "host": Host(cpu="c", cores=1, system="s", python="3", versions={}),
        "variants": (entry("baseline-s0", Role.BASELINE),),
        "inputs": {"weights": SHA},
    }  # fmt: skip
    return StudyRecord.model_validate(base | changes)


def finish_variant(
    study: writer.StudyWriter, name: str = "baseline-s0", measured: str | None = None, accuracy: float = 0.5
) -> None:
    artefact = study.put_file(name, "model.onnx", b"onnx bytes")
    evidence = study.put_file(name, "evidence.npz", b"evidence bytes")
    study.put_variant(
        VariantRecord(
            id=name, method="baseline", ratio=0, seed=0, arch="x", num_classes=2, input_shape=(8, 8, 3),
            artefacts=(artefact,), params=1, macs=1, sparsity=0,
            lineage=Lineage(recipe_sha256=SHA, baseline_sha256=SHA, data_sha256=SHA, seed=0),
        )
    )  # fmt: skip
    metric = Measurement(
        metric="accuracy", estimate=accuracy, low=accuracy - 0.01, high=accuracy + 0.01, n=10_000, method="wilson",
        unit=Unit.FRACTION,
    )  # fmt: skip
    study.put_measurements(
        Measurements(
            variant=name, onnx_sha256=measured or artefact.sha256, evidence_sha256=evidence.sha256, test_sha256=SHA,
            target=Target(name="t", threads=1, provider="p"), host=study.record.host, metrics={"accuracy": metric},
        )
    )  # fmt: skip
    study.finish(name)
