"""What is counted and not estimated: bytes, parameters, MACs, sparsity."""

from __future__ import annotations

from edgesafe.records import (
    IntervalMethod,
    Measurement,
    Population,
    PopulationKind,
    Unit,
    VariantRecord,
)

__all__ = ["exact", "sizes"]


def exact(metric: str, value: float, unit: Unit, about: str = "this file") -> Measurement:
    """A number that is counted, not estimated, and what it is about."""
    population = Population(kind=PopulationKind.FILE, description=about)
    return Measurement(
        metric=metric, estimate=float(value), n=1, method=IntervalMethod.EXACT, unit=unit, population=population
    )


def sizes(record: VariantRecord) -> dict[str, Measurement]:
    """What is counted, not estimated: bytes, parameters, MACs, sparsity; and the parity that was proven."""
    found: dict[str, Measurement] = {}
    for file, metric in (
        ("model.onnx", "size.onnx_bytes"),
        ("model.sparse.onnx", "size.sparse_onnx_bytes"),
        ("model.int8.onnx", "size.int8_onnx_bytes"),
    ):
        artefact = record.artefact(file)
        if artefact is not None:
            found[metric] = exact(metric, artefact.bytes, Unit.BYTES)
    found["size.params"] = exact("size.params", record.params, Unit.COUNT)
    found["sparsity"] = exact("sparsity", record.sparsity, Unit.FRACTION)
    if record.macs is not None:
        found["macs"] = exact("macs", record.macs, Unit.COUNT)
    proven = [check for check in record.parity if check.file == "model.onnx"]
    if proven:
        who = f"the {min(check.n for check in proven):,} images that it was compared on"
        largest = max(check.max_abs_logit for check in proven)
        found["parity.max_abs_logit"] = exact("parity.max_abs_logit", largest, Unit.LOGIT, who)
    return found
