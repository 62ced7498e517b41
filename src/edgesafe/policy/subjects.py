"""Which variants are judged, and whether their records may be believed."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from edgesafe.errors import IntegrityError, NothingEvaluated, PolicyError, UsageError, hint
from edgesafe.metrics import known, members
from edgesafe.policy.lock import corruption_sha256
from edgesafe.policy.policy import Against, Clause, Gate, Policy
from edgesafe.policy.readings import Subject
from edgesafe.records import (
    DataIdentity,
    Measurements,
    Precision,
    Role,
    StudyRecord,
    TaskKind,
    VariantEntry,
    VariantRecord,
)

__all__ = ["applicable", "check", "compares_with_sibling", "require_task", "select", "subject_of"]

Rules = list[tuple[Gate, Clause]]

_PARITY, _SIBLING = "parity.max_abs_logit", ".sibling"


def require_task(policy: Policy, kind: TaskKind) -> None:
    """Refuses gates on metrics that data of this kind do not have, such as the calibration of keypoints.

    Raises:
        PolicyError: it names the first of them.
    """
    for gate in policy.gates:
        found = members(gate.metric)
        if found and not any(kind in metric.tasks for metric in found):
            usual = ", ".join(name for name, metric in known().items() if metric.tasks == {kind} and "." not in name)
            raise PolicyError(
                f"'{gate.metric}' is no metric of {kind.value}",
                where=f"gate '{gate.id}'",
                fix=f"leave the gate out; {kind.value} has {usual}",
            )


def select(policy: Policy, study: StudyRecord, asked: tuple[str, ...]) -> tuple[list[VariantEntry], list[str]]:
    """The variants to judge, in the study's order, and notes about those left out.

    Variants that were refused or are not finished are among them: what a policy names is judged, or stands in the way.

    Args:
        policy: its `variants` patterns choose among all that are not baselines, unless `asked` names some.
        study: holds the list of variants.
        asked: exact ids; a baseline may be named.

    Raises:
        UsageError: an id that the study does not hold (the nearest is named).
        PolicyError: a pattern that matches no variant (the nearest is named).
        NothingEvaluated: the study holds baselines only.
    """
    ids = [entry.id for entry in study.variants]
    for variant in asked:
        if variant not in ids:
            fix = hint(variant, ids, "name one of its variants")
            raise UsageError(f"the study has no variant '{variant}'", where=study.name, fix=fix)
    if asked:
        return [entry for entry in study.variants if entry.id in asked], []
    if any(entry.role is Role.TRIAL for entry in study.variants):
        return _of_search(study)
    candidates = [entry for entry in study.variants if not entry.is_baseline]
    if not candidates:
        raise NothingEvaluated(
            "no variant to judge: the study holds baselines only", where=study.name, fix="name one with --variant"
        )
    for pattern in policy.variants:
        if not any(fnmatchcase(entry.id, pattern) for entry in candidates):
            raise PolicyError(
                f"'{pattern}' matches no variant of the study '{study.name}'",
                where="variants",
                fix=hint(pattern, [entry.id for entry in candidates], "name some of its variants"),
            )
    chosen = [entry for entry in candidates if any(fnmatchcase(entry.id, pattern) for pattern in policy.variants)]
    others = ", ".join(entry.id for entry in candidates if entry not in chosen)
    return chosen, [f"not judged, not among the policy's variants: {others}"] if others else []


def _of_search(study: StudyRecord) -> tuple[list[VariantEntry], list[str]]:
    """The variant that a search confirmed. Patterns are for variants that a recipe names; here the search chose.

    Raises:
        NothingEvaluated: none was confirmed.
    """
    chosen = [entry for entry in study.variants if entry.role is Role.CANDIDATE]
    if not chosen:
        raise NothingEvaluated(
            "the search confirmed no variant",
            where=study.name,
            fix="name a trial with --variant to judge it all the same",
        )
    tried = sum(entry.role is Role.TRIAL for entry in study.variants)
    return chosen, [f"not judged: {tried} trials of the search (name one with --variant)"]


def subject_of(
    entry: VariantEntry,
    measurements: Mapping[str, Measurements],
    variants: Mapping[str, VariantRecord],
    baseline: str | None,
    data: DataIdentity,
) -> Subject | None:
    """A candidate with its baseline: the one asked for, else the one it was measured against. None: not measured."""
    measured = measurements.get(entry.id)
    if measured is None:
        return None
    base, sibling = baseline if baseline is not None else measured.baseline, measured.sibling or ""
    return Subject(
        id=entry.id,
        candidate=measured,
        record=variants.get(entry.id),
        baseline_id=base,
        baseline=measurements.get(base) if base is not None else None,
        baseline_record=variants.get(base) if base is not None else None,
        distinct=1.0 if data.test_distinct is None else data.test_distinct / data.test_n,
        sibling=measurements.get(sibling),
        sibling_record=variants.get(sibling),
    )


def applicable(subject: Subject, rules: Rules) -> tuple[Rules, list[str]]:
    """The rules that a subject is judged by, and a note about those left out.

    Parity says that a file computes what the network computes; a file of another precision is not meant to, and is
    judged by its own evidence. An fp32 variant has no fp32 sibling to be compared with. Where nothing else is asked,
    the rules stay, and are MISSING.
    """
    if subject.record is None:
        return rules, []
    precision = subject.record.precision
    if precision is Precision.FP32:
        left = [rule for rule in rules if not compares_with_sibling(rule[0])]
        why = "fp32 has no sibling to be compared with"
    else:
        left = [rule for rule in rules if rule[0].metric != _PARITY]
        why = f"{precision.value} is not meant to give fp32's logits; its own evidence is judged"
    if not left or len(left) == len(rules):
        return rules, []
    spared = ", ".join(dict.fromkeys(rule[0].id for rule in rules if rule not in left))
    return left, [f"not asked of {subject.id}: {spared} ({why})"]


def compares_with_sibling(gate: Gate) -> bool:
    """Whether a gate asks how a file differs from the fp32 one that it was converted from."""
    return gate.against is Against.SIBLING or gate.metric.endswith(_SIBLING)


def check(subject: Subject, study: StudyRecord, policy: Policy) -> None:
    """Refuses records that are about other files, other data or other corruptions than they claim.

    Raises:
        IntegrityError: naming the record and the hash that differs.
    """
    _check_measured(subject.id, subject.candidate, subject.record, study)
    if policy.data.test_sha256 is not None:
        _same(policy.data.test_sha256, subject.candidate.test_sha256, "the policy's test set", subject.id)
    for beside in (subject, subject.compared(Against.SIBLING)):
        if beside.baseline is None or beside.baseline_id is None:
            continue
        _check_measured(beside.baseline_id, beside.baseline, beside.baseline_record, study)
        ours, theirs = (corruption_sha256(m.corruptions) for m in (beside.candidate, beside.baseline))
        _same(theirs, ours, f"the corruption generator of '{beside.baseline_id}'", subject.id)
    _check_sibling(subject)


def _check_sibling(subject: Subject) -> None:
    """What a converted file was compared with must be the file that it was converted from."""
    measured, record = subject.candidate, subject.record
    if measured.sibling is None or record is None or subject.sibling is None:
        return
    if record.conversion is None or record.conversion.sibling != measured.sibling:
        raise IntegrityError(
            f"was compared with '{measured.sibling}', which it was not converted from", where=subject.id,
            fix="run compress again",
        )  # fmt: skip
    what = f"the file of '{measured.sibling}' that it was converted from"
    if record.conversion.onnx_sha256 != subject.sibling.onnx_sha256:
        raise IntegrityError(
            f"{what} is {record.conversion.onnx_sha256[:19]}…, but {subject.sibling.onnx_sha256[:19]}… was measured",
            where=subject.id, fix="run compress again",
        )  # fmt: skip


def _check_measured(name: str, measured: Measurements, record: VariantRecord | None, study: StudyRecord) -> None:
    if measured.variant != name:
        raise IntegrityError(f"holds the measurements of '{measured.variant}'", where=name, fix="measure again")
    _same(study.data.test_sha256, measured.test_sha256, "the study's test set", name)
    if record is None:
        return
    if record.id != name:
        raise IntegrityError(f"holds the record of '{record.id}'", where=name, fix="run compress again")
    hashes = [artefact.sha256 for artefact in record.artefacts if artefact.file.endswith(".onnx")]
    if hashes and measured.onnx_sha256 not in hashes:
        raise IntegrityError(
            f"the file measured ({measured.onnx_sha256[:19]}…) is none of the variant's ONNX files",
            where=name, fix="measure again: a file was changed after measuring",
        )  # fmt: skip


def _same(expected: str, measured: str, what: str, where: str) -> None:
    if expected != measured:
        raise IntegrityError(
            f"{what} is {expected[:19]}…, but {measured[:19]}… was measured",
            where=where,
            fix="measure again on the same data",
        )
