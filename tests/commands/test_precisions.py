"""A precision is a dimension of a variant: each has its own evidence, compared with baseline and fp32 sibling."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import date
from pathlib import Path

import pytest

import edgesafe
from edgesafe import data
from edgesafe.commands import certify, compress, report
from edgesafe.display import slower
from edgesafe.errors import RecipeError, StoreError
from edgesafe.policy import policy
from edgesafe.policy.decision import decide
from edgesafe.policy.proposal import init
from edgesafe.recipe import parsing, recipe
from edgesafe.recipe.sections import CertifySection
from edgesafe.records import GateStatus, Measurements, Precision, Role, VariantRecord, VariantStatus
from edgesafe.study.study import Study

from .conftest import TINY

LEAST = [
    *TINY, "train.epochs=1", "recover.epochs=0", "evaluate.corruptions=['fog']", "evaluate.severities=[3]",
    "compress=[{method='weight', ratios=[0.8]}, {method='filter', ratios=[0.5]}]",
]  # fmt: skip
FP32 = ("baseline-s0", "weight-r0.80-s0", "filter-r0.50-s0")
CONVERTED = ("baseline-int8-s0", "weight-r0.80-int8-s0", "filter-r0.50-int8-s0")
GATES = """
schema = "edgesafe.policy/1"
[[gate]]
id = "parity"
metric = "parity.max_abs_logit"
max = 1e-4
"""
SIBLING = """
schema = "edgesafe.policy/1"
[[gate]]
id = "conversion"
metric = "mpc"
max_drop = "90pp"
against = "sibling"
"""
FLIPS = """
[[gate]]
id = "flips"
metric = "flips.sibling"
max = "90%"
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("precisions") / "s"
    return compress.compress(parsing.load(None, [*LEAST, "export.precisions=['int8','fp32']"]), root)


def test_each_precision_is_a_variant_after_its_fp32_sibling(mixed: Study) -> None:
    assert list(mixed) == [name for pair in zip(FP32, CONVERTED, strict=True) for name in pair]
    for name in CONVERTED:
        entry = mixed[name].entry
        assert entry.role is Role.CANDIDATE
        assert entry.baseline == "baseline-s0"
        assert entry.sibling == f"{entry.group.removesuffix('-' + entry.precision)}-s0"
        assert entry.label.endswith(entry.precision)
        assert mixed[entry.sibling].entry.precision is Precision.FP32


@pytest.mark.slow
def test_fp32_variants_are_what_they_are_without_the_others(mixed: Study, tmp_path: Path) -> None:
    alone = compress.compress(parsing.load(None, LEAST), tmp_path / "s")
    assert list(alone) == list(FP32)
    for name in FP32:
        assert mixed[name].entry.digest == alone[name].entry.digest


@pytest.mark.slow
def test_half_precision_is_a_variant_too(tmp_path: Path) -> None:
    few = ["evaluate.corruptions=none", "evaluate.latency=false", "compress=[{method='weight', ratios=[0.8]}]"]
    found = compress.compress(parsing.load(None, [*LEAST, *few, "export.precisions=['fp32','fp16']"]), tmp_path / "s")
    assert list(found) == ["baseline-s0", "baseline-fp16-s0", "weight-r0.80-s0", "weight-r0.80-fp16-s0"]
    record, sibling = found["weight-r0.80-fp16-s0"].record, found["weight-r0.80-s0"].record
    assert record.conversion is not None
    assert record.conversion.images_sha256 is record.conversion.ranges is None
    assert [(check.file, check.bit_equal) for check in record.parity] == [("model.sparse.onnx", True)]
    for file in ("model.onnx", "model.sparse.onnx"):
        halves, floats = record.artefact(file), sibling.artefact(file)
        assert halves is not None
        assert floats is not None
        assert halves.bytes < 0.75 * floats.bytes


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_variant_has_full_evidence_and_is_paired_twice(mixed: Study, name: str) -> None:
    variant = mixed[name]
    sibling = mixed[variant.entry.sibling or ""]
    measured = variant.measurements
    assert {"mpc", "mpc.corruption.fog", "accuracy.fog.3", "ece_em10_top1", "latency.ratio", "nll.calibrated"} <= set(
        measured.metrics
    )
    assert measured.sibling == sibling.id
    for differences, other in ((measured.differences, mixed["baseline-s0"]), (measured.sibling_differences, sibling)):
        assert {"accuracy", "mpc", "flips", "ece_em10_top1"} <= set(differences)
        assert differences["mpc"].baseline == pytest.approx(other.metrics["mpc"].estimate)
        assert differences["mpc"].candidate == pytest.approx(measured.metrics["mpc"].estimate)
    assert measured.metrics["flips.sibling"].estimate == measured.sibling_differences["flips"].estimate
    twice = measured.metrics["latency.ratio"].estimate, measured.metrics["latency.ratio.sibling"].estimate
    assert (twice[0] == twice[1]) == (sibling.id == "baseline-s0")


@pytest.mark.parametrize("name", CONVERTED)
def test_the_record_says_from_what_and_by_which_images(mixed: Study, name: str) -> None:
    record = mixed[name].record
    conversion = record.conversion
    assert conversion is not None
    assert conversion.onnx_sha256 == mixed[conversion.sibling].measurements.onnx_sha256
    assert record.recovery is record.training is record.surgery is None
    assert record.artefact("model.safetensors") is None
    assert 0.9 <= conversion.agreement.argmax_agreement <= 1.0
    train = data.load(parsing.load(None, TINY).data).train
    assert (conversion.images, conversion.images_sha256) == (400, data.first(train, 512).sha256)
    assert conversion.ranges == "min-max"


def test_the_sparse_file_of_a_converted_variant_equals_it_bit_for_bit(mixed: Study) -> None:
    record = mixed["weight-r0.80-int8-s0"].record
    (proven,) = record.parity
    assert (proven.file, proven.reference, proven.bit_equal) == ("model.sparse.onnx", "model.onnx", True)
    sizes = [artefact.bytes for artefact in record.artefacts if artefact.file in ("model.sparse.onnx", "model.onnx")]
    assert sizes[1] < sizes[0]


def test_a_network_is_loaded_from_the_fp32_sibling(mixed: Study) -> None:
    with pytest.raises(StoreError, match=r"is int8: .*load .*filter-r0.50-s0"):
        edgesafe.load(mixed["filter-r0.50-int8-s0"].folder)


def judged(study: Study, text: str, *variants: str) -> list[tuple[str, str, GateStatus]]:
    found = edgesafe.Study(study.root).records(), study.measurements()
    records: dict[str, VariantRecord] = found[0]
    measurements: dict[str, Measurements] = found[1]
    verdict = decide(policy.loads(text), study.record, measurements, records, baseline=None, today=date(2026, 1, 1))
    return [(gate.variant, gate.id, gate.status) for gate in verdict.gates if gate.variant in variants]


def test_parity_is_asked_of_fp32_alone_and_flips_against_a_sibling_of_the_others(mixed: Study) -> None:
    found = judged(mixed, GATES + FLIPS, "filter-r0.50-s0", "filter-r0.50-int8-s0")
    assert found == [
        ("filter-r0.50-s0", "parity", GateStatus.PASS),
        ("filter-r0.50-int8-s0", "flips", GateStatus.PASS),
    ]


def test_a_variant_that_nothing_is_asked_of_does_not_pass(mixed: Study) -> None:
    assert judged(mixed, GATES, "filter-r0.50-int8-s0") == [("filter-r0.50-int8-s0", "parity", GateStatus.MISSING)]
    alone = GATES.partition("[[gate]]")[0] + FLIPS
    assert judged(mixed, alone, "filter-r0.50-s0") == [("filter-r0.50-s0", "flips", GateStatus.MISSING)]


def test_a_gate_against_the_sibling_is_judged_from_the_stored_study(mixed: Study) -> None:
    root = mixed.root
    names = ("filter-r0.50-s0", "filter-r0.50-int8-s0")
    assert judged(mixed, SIBLING, *names)[1] == ("filter-r0.50-int8-s0", "conversion", GateStatus.PASS)
    measured = json.loads((root / names[1] / "measurements.json").read_text(encoding="utf-8"))
    assert measured["sibling_differences"]["mpc"]["baseline"] == mixed[names[0]].metrics["mpc"].estimate
    proposed = init(mixed.record, mixed.measurements())
    assert 'against = "sibling"' in proposed
    assert "latency.ratio.sibling" in proposed
    policy.loads(proposed)


def test_certificates_are_the_files_own(mixed: Study, tmp_path: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(mixed.root, root)
    section = CertifySection(sets=("brightness=1",), images=8, workers=1)
    found = certify.certify_study(certify.CertifyRequest(root, section))
    int8, fp32 = found["filter-r0.50-int8-s0"], found["filter-r0.50-s0"]
    assert "certified_agreement.brightness=1" in int8.differences
    paired = int8.measurements.sibling_differences["certified_accuracy.brightness=1"]
    certified = "certified_accuracy.brightness=1"
    assert paired.candidate == int8.metrics[certified].estimate
    assert paired.baseline == fp32.metrics[certified].estimate
    assert not fp32.measurements.sibling_differences
    assert int8.certificates_bytes() != fp32.certificates_bytes()


def test_a_refused_network_has_no_siblings(tmp_path: Path) -> None:
    blocks = "compress=[{method='channel', ratios=[0.3], slim_epochs=0, min_channels=1000}]"
    asked = [*LEAST, blocks, "export.precisions=['fp32','int8']", "evaluate.corruptions=none", "evaluate.latency=false"]
    found = compress.compress(parsing.load(None, asked), tmp_path / "s")
    assert found["channel-r0.30-s0"].status is VariantStatus.REFUSED
    assert "its fp32 sibling 'channel-r0.30-s0' is refused" in found["channel-r0.30-int8-s0"].entry.reason


def test_what_is_slower_than_its_sibling_is_said(mixed: Study) -> None:
    measured = mixed["filter-r0.50-int8-s0"].measurements
    ratio = measured.metrics["latency.ratio.sibling"]
    for low, high, said in ((1.1, 1.3, True), (0.9, 1.1, False), (0.7, 0.9, False)):
        stated = ratio.model_copy(update={"estimate": 1.2, "low": low, "high": high})
        line = slower(measured.model_copy(update={"metrics": {"latency.ratio.sibling": stated}}))
        text = "filter-r0.50-int8-s0 is slower here than its fp32 sibling filter-r0.50-s0: 1.20 times as long"
        assert line == (text if said else "")


def test_the_report_has_a_row_for_each_precision_and_a_table_of_siblings(mixed: Study, tmp_path: Path) -> None:
    report.write(mixed, tmp_path, None)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "minus its fp32 sibling" in page
    assert "filter int8 50 %" in page
    assert "not equal, converted from filter-r0.50-s0" in page
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    found = {variant["id"]: variant for variant in results["variants"]}["filter-r0.50-int8-s0"]
    assert (found["precision"], found["sibling"]) == ("int8", "filter-r0.50-s0")
    assert found["conversion"]["packed_layers"]
    assert "mpc" in found["sibling_differences"]
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()))
    one = [r for r in rows if r["variant"] == "filter-r0.50-int8-s0" and r["kind"] == "sibling difference"]
    assert {(row["precision"], row["baseline"]) for row in one} == {("int8", "filter-r0.50-s0")}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("export.int8=true", "no longer a key.*precisions"),
        ("export.precisions=['int8']", "fp32"),
        ("export.precisions=['fp32','fp32']", "once"),
        ("export.precisions=['fp32','int4']", "int8"),
    ],
)
def test_a_wrong_precision_gets_one_line(given: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parsing.load(None, [given])


def test_the_quickstart_makes_fp32_alone() -> None:
    assert {plan.precision for plan in recipe.variants(parsing.load(None))} == {Precision.FP32}
