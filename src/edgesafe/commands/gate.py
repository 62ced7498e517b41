"""`edgesafe gate`: a study whose files are what they were when they were measured, decided by a policy."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesafe.files import atomic_write
from edgesafe.policy import lock as locks
from edgesafe.policy import outputs
from edgesafe.policy import policy as policies
from edgesafe.policy.decision import Options, decide
from edgesafe.recipe import shipped
from edgesafe.recipe.shipped import Kind
from edgesafe.records import (
    Comparison,
    Measurements,
    Task,
    Verdict,
)
from edgesafe.study import signature
from edgesafe.study.study import Study, Variant, read

__all__ = ["GateRequest", "judge", "text", "workflow_commands", "write"]


@dataclass(frozen=True)
class GateRequest:
    """How a study is decided.

    Attributes:
        policy: the policy's file, or the name of one that ships.
        variants: exact ids to judge instead of the policy's choice.
        baseline: id to compare with; None: for each variant the one that it was measured against.
        lock: a lock file that goes before the one that the policy names.
        no_baseline: leave out gates that compare, on purpose.
        signed_by: the study must carry a signature by the owner of this public key (a PEM file).
        today: for waivers; None: the day in UTC.
    """

    policy: Path
    variants: tuple[str, ...] = ()
    baseline: str | None = None
    lock: Path | None = None
    no_baseline: bool = False
    signed_by: Path | None = None
    today: datetime.date | None = None


def judge(study: Study | Path, request: GateRequest) -> Verdict:
    """Decide a study from its stored evidence: no inference, no torch. Every file is compared with its hash first.

    Args:
        study: as it was read; or its directory, which is read after the policy and the lock, the cheaper to check.
        request: the policy, and how it is applied.

    Raises:
        EdgesafeError: policy, lock or key cannot be used; the study was changed or is not signed (IntegrityError).
    """
    path = shipped.find(Kind.POLICY, request.policy)
    policy = policies.load(path)
    lock = locks.load(request.lock) if request.lock is not None else locks.for_policy(policy, path)
    study = read(study) if isinstance(study, Path) else study
    if request.signed_by is not None:
        signature.require(study, request.signed_by)
    study.verify()
    measurements = study.measurements()
    if request.baseline is not None and request.baseline in measurements:
        measurements = _against(study, request.baseline)
    return decide(
        policy,
        study.record,
        measurements,
        study.records(),
        baseline=request.baseline,
        today=request.today or datetime.datetime.now(datetime.UTC).date(),
        options=Options(variants=request.variants, no_baseline=request.no_baseline, lock=lock),
    )


def _against(study: Study, baseline: str) -> dict[str, Measurements]:
    """The same measurements with paired differences to another baseline, computed from the stored evidence.

    What was measured against that baseline stays as it is. Agreement of certificates with another baseline than the one
    that they were made beside is not stored, and so is not among the differences: a gate that asks for it is missing.
    """
    from edgesafe.measure import evidence as evidence_files
    from edgesafe.measure import summary

    reference = evidence_files.from_bytes(study[baseline].evidence_bytes())
    compared: dict[str, Measurements] = {}
    for variant, measured in study.measurements().items():
        if measured.baseline == baseline:
            compared[variant] = measured
            continue
        differences: dict[str, Comparison] = {}
        if variant != baseline:
            differences = summary.compare(evidence_files.from_bytes(study[variant].evidence_bytes()), reference)
            differences |= _certified_differences(study[variant], study[baseline], study.record.data.task)
        against = baseline if variant != baseline else None
        metrics = {k: v for k, v in measured.metrics.items() if k != "latency.ratio"}
        compared[variant] = measured.model_copy(
            update={"baseline": against, "differences": differences, "metrics": metrics}
        )
    return compared


def _certified_differences(candidate: Variant, baseline: Variant, task: Task | None) -> dict[str, Comparison]:
    """Paired differences of the shares of certificates, for each set that both were certified for."""
    contents = candidate.certificates_bytes(), baseline.certificates_bytes()
    if contents[0] is None or contents[1] is None:
        return {}
    from edgesafe.certificates import archive
    from edgesafe.certificates import summary as certified

    ours, theirs = archive.from_bytes(contents[0]), archive.from_bytes(contents[1])
    differences: dict[str, Comparison] = {}
    for part in ours.sets:
        population = candidate.metrics[f"certified_accuracy.{part.id}"].population
        if population is not None and theirs.of(part.id) is not None:
            alone = dataclasses.replace(ours, sets=(part,))
            differences |= certified.compare(alone, theirs, population, task=task, agreement=False)
    return differences


def write(verdict: Verdict, targets: Mapping[str, Path]) -> None:
    """Write the verdict in the kinds asked for: json, junit, markdown, openmetrics.

    Raises:
        StoreError: a file cannot be written.
    """
    kinds: dict[str, Callable[[Verdict], str]] = {
        "json": outputs.to_json,
        "junit": outputs.to_junit,
        "markdown": outputs.to_markdown,
        "openmetrics": outputs.to_openmetrics,
    }
    for kind, path in targets.items():
        atomic_write(path, kinds[kind](verdict).encode("utf-8"))


def text(verdict: Verdict) -> str:
    """The verdict as plain lines, see `outputs.to_text`; without a newline at the end."""
    return outputs.to_text(verdict).removesuffix("\n")


def workflow_commands(verdict: Verdict) -> str:
    """At most ten workflow commands that GitHub shows beside a change."""
    return outputs.annotations(verdict)
