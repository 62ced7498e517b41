"""What a command found, as the record that its `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgesafe.errors import ExitCode
from edgesafe.progress import clock
from edgesafe.records import (
    Estimate,
    ModelsResult,
    SearchResult,
    SensitivityRow,
    StudyResult,
    StudyRow,
    VariantStatus,
    Verdict,
)

if TYPE_CHECKING:
    from edgesafe.prune.schedule import Sensitivity
    from edgesafe.study.study import Study

__all__ = ["in_words", "of_layers", "of_models", "of_search", "of_study"]


def of_study(command: str, study: Study, verdict: Verdict | None = None) -> StudyResult:
    """Every variant with its metrics. The exit code is the verdict's; without one, 3 if a variant was refused."""
    measured = study.measurements()
    rows = tuple(
        StudyRow(
            id=entry.id, method=entry.method, ratio=entry.ratio, seed=entry.seed,
            precision=entry.precision, status=entry.status, reason=entry.reason,
            metrics=measured[entry.id].metrics if entry.id in measured else {},
        )
        for entry in study.record.variants
    )  # fmt: skip
    refused = any(row.status is VariantStatus.REFUSED for row in rows)
    code = verdict.exit_code if verdict is not None else ExitCode.REFUSED if refused else ExitCode.DONE
    return StudyResult(
        command=command, exit_code=code, study=str(study.root), digest=study.record.digest, variants=rows,
        verdict=verdict,
    )  # fmt: skip


def of_search(study: Study, exit_code: int) -> SearchResult:
    """What a search tried, and every variant with its metrics."""
    plain = of_study("search", study)
    return SearchResult(
        command="search", exit_code=exit_code, study=plain.study, digest=plain.digest, variants=plain.variants,
        search=study.search(),
    )  # fmt: skip


def of_layers(rows: Sequence[Sensitivity]) -> ModelsResult:
    """What narrowing each layer alone costs, in the order of the network."""
    return ModelsResult(
        command="models",
        sensitivity=tuple(
            SensitivityRow(
                layer=row.layer, layers=tuple(row.layers), ratio=row.ratio, accuracy=row.score, drop=row.drop,
                macs_saved=row.macs,
            )
            for row in rows
        ),
    )  # fmt: skip


def of_models(models: Any, name: str | None) -> ModelsResult:
    """The architectures; or one of them, built for 10 classes at its usual size."""
    known = {each.name: each.summary for each in models.ARCHITECTURES.values()}
    if name is None:
        return ModelsResult(command="models", architectures=known)
    from edgesafe.models import count

    net = models.build(name, 10, {})
    return ModelsResult(
        command="models",
        architectures={name: known.get(name, "")},
        params=count.params(net),
        macs=count.macs(net, (224, 224, 3) if name.startswith("torchvision:") else (32, 32, 3)),
    )


def in_words(ahead: Estimate, workers: int | None = None) -> str:
    """The estimate in one line, the total first, and how many workers it is for, where there are any."""
    parts = {
        "training": ahead.train_s,
        "recovery": ahead.recover_s,
        "export and proofs": ahead.export_s,
        f"measuring {ahead.images:,} images a file": ahead.measure_s,
        f"certifying, at most {ahead.certify_images:,} images a file": ahead.certify_s,
    }
    listed = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items() if seconds >= 0.5)
    by = f" by {workers} workers" if workers is not None else ""
    return (
        f"about {clock(ahead.seconds)} and {ahead.disk_bytes / 1e6:,.0f} MB for {ahead.variants} variants{by}: "
        f"{listed} (a rough figure from a short measurement on this machine)"
    )
