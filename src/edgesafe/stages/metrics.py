"""From evidence to measurements: every metric of a file, and its paired differences to a baseline."""

from __future__ import annotations

from edgesafe.errors import ParityError
from edgesafe.measure import summary
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.records import (
    Evidence,
    Measurement,
    Measurements,
)
from edgesafe.stages.observe import Bench, clean

__all__ = ["assemble", "other_file"]


REPORT = "this is a defect of edgesafe: please report it"


def assemble(
    variant: str,
    evidence: Evidence,
    evidence_sha256: str,
    bench: Bench,
    reference: tuple[str, Evidence] | None = None,
) -> Measurements:
    """Every metric of the evidence with its interval, and the paired differences to a baseline's.

    Args:
        variant: id.
        evidence: of the variant's file.
        evidence_sha256: of the evidence as it was written.
        bench: what it was measured on.
        reference: id and evidence of the baseline, or None for a baseline.
    """
    base = reference[1] if reference is not None else None
    return Measurements(
        variant=variant,
        baseline=reference[0] if reference is not None else None,
        onnx_sha256=evidence.provenance.onnx_sha256,
        evidence_sha256=evidence_sha256,
        test_sha256=bench.test.sha256,
        corruptions=evidence.provenance.corruptions,
        sample=evidence.provenance.sample,
        target=bench.target,
        host=bench.host,
        metrics=summary.summarise(evidence, population=bench.population, baseline=base),
        differences=summary.compare(evidence, reference[1]) if reference is not None else {},
    )


def other_file(classifier: OnnxClassifier, bench: Bench, suffix: str, beside: Evidence) -> dict[str, Measurement]:
    """Clean metrics of a file beside model.onnx, measured on that file and the same images: `accuracy.<suffix>`, ….

    Args:
        classifier: the open file.
        bench: what to run it on.
        suffix: "calibrated" or "int8".
        beside: of model.onnx; a "calibrated" file must keep the arg max on every image.

    Raises:
        ParityError: a prediction changed that must not.
    """
    cell, logits = clean(classifier, bench, beside.clean.index)
    changed = int((logits.argmax(1) != beside.logits.argmax(1)).sum()) if suffix == "calibrated" else 0
    if changed:
        raise ParityError(f"{changed} predictions changed", where=f"model.{suffix}.onnx", fix=REPORT)
    metrics = summary.summarise(Evidence(cell, logits, beside.provenance), population=bench.population)
    wanted = ("accuracy", "ece_em10_top1", "nll", "brier", "high_conf_error@0.9")
    return {
        f"{name}.{suffix}": metrics[name].model_copy(update={"metric": f"{name}.{suffix}"})
        for name in wanted
        if suffix != "calibrated" or name != "accuracy"  # which is model.onnx's, prediction by prediction
    }
