"""The metrics of a variant that are counted and not estimated: sizes, parameters, MACs, sparsity, parity."""

from __future__ import annotations

import math

from edgesafe.errors import IntegrityError, NonFiniteError
from edgesafe.metrics import FILE_SIZES, SHIPPED_BYTES, Basis, info
from edgesafe.records import Measurements, VariantRecord

__all__ = ["exact_values"]


def exact_values(measured: Measurements | None, record: VariantRecord | None) -> dict[str, float]:
    """The counted metrics of a variant, from its measurements and from its own record; and what follows from them.

    Raises:
        IntegrityError: the two name different values for one metric.
    """
    values = _recorded(record) if record is not None else {}
    if measured is not None:
        _join(values, measured)
    if files := [values[metric] for metric in FILE_SIZES.values() if metric in values]:
        values[SHIPPED_BYTES] = min(files)
    return values


def _join(values: dict[str, float], measured: Measurements) -> None:
    """Add what was measured."""
    for metric, stored in measured.metrics.items():
        if (entry := info(metric)) is None or entry.basis is not Basis.EXACT:
            continue
        if not math.isfinite(stored.estimate):
            raise NonFiniteError(f"{metric} is not finite", where=measured.variant, fix="measure again")
        if metric in values and not math.isclose(values[metric], stored.estimate, rel_tol=1e-9, abs_tol=1e-12):
            raise IntegrityError(
                f"{metric} is {stored.estimate:g} in measurements.json and {values[metric]:g} in variant.json",
                where=measured.variant, fix="measure again: one of the files was edited or is stale",
            )  # fmt: skip
        values[metric] = stored.estimate


def _recorded(record: VariantRecord) -> dict[str, float]:
    """The counted metrics that variant.json holds."""
    counted = {"size.params": record.params, "sparsity": record.sparsity, "macs": record.macs}
    values = {metric: float(value) for metric, value in counted.items() if value is not None}
    for file, metric in FILE_SIZES.items():
        if (artefact := record.artefact(file)) is not None:
            values[metric] = float(artefact.bytes)
    if record.parity:
        values["parity.max_abs_logit"] = max(parity.max_abs_logit for parity in record.parity)
    return values
