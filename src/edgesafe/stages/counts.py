"""What is counted and not estimated: bytes, parameters, MACs, sparsity."""

from __future__ import annotations

from edgesafe import metrics
from edgesafe.records import (
    IntervalMethod,
    Measurement,
    Population,
    PopulationKind,
    VariantRecord,
)

__all__ = ["exact", "sizes"]


def exact(metric: str, value: float, about: str = "this file") -> Measurement:
    """A number that is counted, not estimated, in the unit of its metric; `about` says of what."""
    population = Population(kind=PopulationKind.FILE, description=about)
    return Measurement(
        metric=metric,
        estimate=float(value),
        n=1,
        method=IntervalMethod.EXACT,
        unit=metrics.get(metric).unit,
        population=population,
    )


def sizes(record: VariantRecord) -> dict[str, Measurement]:
    """What is counted, not estimated: bytes, parameters, MACs, sparsity; and the parity that was proven."""
    counted: dict[str, Measurement] = {}
    for file, metric in metrics.FILE_SIZES.items():
        artefact = record.artefact(file)
        if artefact is not None:
            counted[metric] = exact(metric, artefact.bytes)
    if record.params is not None:
        counted["size.params"] = exact("size.params", record.params)
    if record.sparsity is not None:
        counted["sparsity"] = exact("sparsity", record.sparsity)
    if record.macs is not None:
        counted["macs"] = exact("macs", record.macs)
    proven = [check for check in record.parity if check.file == "model.onnx"]
    if proven:
        who = f"the {min(check.n for check in proven):,} images that it was compared on"
        largest = max(check.max_abs_logit for check in proven)
        counted["parity.max_abs_logit"] = exact("parity.max_abs_logit", largest, who)
    return counted
