"""Policy and records in, verdict out: no inference, no randomness, no clock (the date is an argument).

For each variant, gate and rule: PASS where the bound on the bad side meets the limit (non-inferiority at the policy's
one-sided confidence), FAIL where the limit is surely broken (after Holm's correction, see `multiplicity`), otherwise
INCONCLUSIVE. A number that is not there is MISSING, one that may not be judged is REFUSED: neither is ever a pass.

Several troubles at once, worst first: refused 3, missing 5, failed 1, inconclusive 2. A verdict on evidence that is not
valid would say nothing about the model, so what is wrong with the evidence comes before what is wrong with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from statistics import NormalDist

from edgesafe.display import WORST_FIRST, cautions, worst
from edgesafe.errors import ExitCode, NothingEvaluated, RefusedError
from edgesafe.metrics import members
from edgesafe.policy import looks, sentences, waivers
from edgesafe.policy.lock import Lock, verify
from edgesafe.policy.multiplicity import holm
from edgesafe.policy.policy import Against, Clause, Gate, Level, Policy
from edgesafe.policy.readings import (
    Problem,
    Reading,
    Subject,
    metrics_of,
    read,
    valid,
)
from edgesafe.policy.subjects import applicable, check, require_task, select, subject_of
from edgesafe.records import (
    GateResult,
    GateStatus,
    Measurements,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
    Verdict,
)

__all__ = ["Options", "decide", "gates_that_compare"]

_DECIDED = (GateStatus.PASS, GateStatus.FAIL, GateStatus.INCONCLUSIVE, GateStatus.WAIVED)
_CODES = {
    GateStatus.REFUSED: ExitCode.REFUSED,
    GateStatus.MISSING: ExitCode.NOTHING_EVALUATED,
    GateStatus.FAIL: ExitCode.GATE_FAILED,
    GateStatus.INCONCLUSIVE: ExitCode.GATE_INCONCLUSIVE,
}


@dataclass(frozen=True)
class Options:
    """What the command line adds to a policy.

    Attributes:
        variants: exact ids to judge instead of the policy's choice.
        no_baseline: leave out every gate that needs a baseline, on purpose (a first run). Without it they are MISSING.
        lock: the pinned baseline.
    """

    variants: tuple[str, ...] = ()
    no_baseline: bool = False
    lock: Lock | None = None


@dataclass(frozen=True)
class _Judgement:
    """One rule of one gate for one variant, with a reading or a problem for each member of its family."""

    gate: Gate
    clause: Clause
    items: tuple[Reading | Problem, ...]
    p_values: tuple[float | None, ...] = ()  #: of the items, corrected; None where there is no alarm to correct

    @property
    def level(self) -> Level:
        return self.gate.level


_PLAIN = Options()


def decide(
    policy: Policy,
    study: StudyRecord,
    measurements: Mapping[str, Measurements],
    variants: Mapping[str, VariantRecord],
    *,
    baseline: str | None,
    today: date,
    options: Options = _PLAIN,
) -> Verdict:
    """Judges the variants of a study by every gate of a policy, from stored records alone.

    Args:
        policy: what must hold.
        study: its list of variants and the identity of its data.
        measurements: by variant id, baselines included.
        variants: by variant id; counted metrics and file hashes are checked against them.
        baseline: id to compare with; None: for each variant the one that it was measured against.
        today: date of the decision, on which waivers hold or have expired.
        options: what the command line adds to the policy.

    Returns:
        A verdict for every gate and variant, and the exit code they mean.

    Raises:
        UsageError: `options.variants` or `baseline` names a variant that is not in the study.
        PolicyError: a pattern of the policy matches no variant, or a metric is none of the task.
        NothingEvaluated: no variant or no gate is left to judge.
        IntegrityError: a hash differs from the recorded or the pinned one; records contradict each other.
        NonFiniteError: a stored number is not finite.
        RefusedError: the policy names a lock and none was given.
    """
    require_task(policy, study.data.kind)
    entries, notes = select(policy, study, options.variants)
    if baseline is not None:
        select(policy, study, (baseline,))
    gates, left_out = _gates(policy, options.no_baseline)
    results: list[GateResult] = []
    used: set[tuple[str, str]] = set()
    hashes: dict[str, str] = {}
    judged: list[tuple[Subject, Policy]] = []
    for entry in entries:
        subject = subject_of(entry, measurements, variants, baseline, study.data)
        if subject is None:
            results += _unmeasured(entry, gates)
            continue
        check(subject, study, policy)
        _check_lock(subject, policy, options)
        hashes[subject.id] = subject.candidate.onnx_sha256
        each = looks.each(policy, subject)
        judged.append((subject, each))
        rules, spared = applicable(subject, gates)
        left_out += spared
        results += _judge(subject, rules, each, today, used)
    overall, code = _overall(results)
    return Verdict(
        study=study.name,
        policy_sha256=policy.sha256,
        profile=policy.profile,
        variants=tuple(entry.id for entry in entries),
        gates=tuple(results),
        overall=overall,
        exit_code=int(code),
        notes=(
            *notes,
            *left_out,
            *looks.notes(judged, policy),
            *waivers.notes(policy, used, today),
            *(f"warning: {text}" for subject, _ in judged for text in cautions(subject.candidate)),
            *_warnings(policy, results),
        ),
        candidates=hashes,
    )


def _check_lock(subject: Subject, policy: Policy, options: Options) -> None:
    """The baseline must be the pinned one, if one is pinned and baselines count at all."""
    if options.no_baseline:
        return
    if options.lock is not None:
        verify(options.lock, subject.baseline_id, subject.baseline)
    elif policy.data.lock is not None:
        what = f"the policy pins its baseline in '{policy.data.lock}'"
        raise RefusedError(what, where="data.lock", fix="give that lock")


def _gates(policy: Policy, no_baseline: bool) -> tuple[list[tuple[Gate, Clause]], list[str]]:
    """Every rule to judge; without a baseline, on purpose, those that need one are left out and named."""
    pairs = [(gate, clause) for gate in policy.gates for clause in gate.clauses]
    if not no_baseline:
        return pairs, []
    kept = [pair for pair in pairs if not _compares(*pair)]
    if not kept:
        raise NothingEvaluated("every gate of the policy needs a baseline", fix="give one with --baseline")
    comparing = gates_that_compare(policy)
    return kept, [f"left out, no baseline asked for: {', '.join(comparing)}"] if comparing else []


def gates_that_compare(policy: Policy) -> tuple[str, ...]:
    """Ids of the gates that need a baseline, in the order of the policy."""
    ids = (gate.id for gate in policy.gates for clause in gate.clauses if _compares(gate, clause))
    return tuple(dict.fromkeys(ids))


def _compares(gate: Gate, clause: Clause) -> bool:
    """Whether a rule needs a baseline: it compares, and not with the fp32 sibling, which every conversion has."""
    if gate.against is Against.SIBLING:
        return False
    return clause.rule.relative or any(metric.paired for metric in members(gate.metric))


def _unmeasured(entry: VariantEntry, gates: list[tuple[Gate, Clause]]) -> list[GateResult]:
    """A variant without measurements: every gate is refused if the variant was, and missing otherwise."""
    if entry.status is VariantStatus.REFUSED:
        status = GateStatus.REFUSED
        why = f"'{entry.id}' was refused when it was made ({' '.join(entry.reason.split()) or 'no reason recorded'})"
    else:
        status, why = GateStatus.MISSING, f"'{entry.id}' has no measurements ({entry.status.value}); finish compress"
    return [
        GateResult(
            id=gate.id,
            variant=entry.id,
            metric=gate.metric,
            level=gate.level,
            status=status,
            rule=str(clause),
            message=sentences.of_problem(gate.id, Problem(gate.metric, status, why)),
            blocking=True,
        )
        for gate, clause in gates
    ]


# ------------------------------------------------------------------------------------------------------ one variant


def _judge(
    subject: Subject, gates: list[tuple[Gate, Clause]], policy: Policy, today: date, used: set[tuple[str, str]]
) -> list[GateResult]:
    z = NormalDist().inv_cdf(policy.stats.confidence)
    judgements = [_Judgement(gate, clause, _items(subject, gate, clause, policy, z)) for gate, clause in gates]
    judgements = _corrected(judgements, policy)
    results = []
    for judgement in judgements:
        result = _settle(judgement, subject, policy, z)
        waiver = waivers.find(policy, judgement.gate.id, subject.candidate.onnx_sha256)
        if waiver is not None and result.status in (GateStatus.FAIL, GateStatus.INCONCLUSIVE):
            used.add((waiver.gate, waiver.candidate))
            within = list(_items(subject, judgement.gate, waiver.clause, policy, z))
            status, why = waivers.settle(waiver, within, z, today)
            result = _waived(result, status, why, policy)
        results.append(result)
    if any(result.status in _DECIDED for result in results):
        return results
    return [result.model_copy(update={"blocking": True}) for result in results]  # warnings alone, and none decided


def _items(subject: Subject, gate: Gate, clause: Clause, policy: Policy, z: float) -> tuple[Reading | Problem, ...]:
    subject = subject.compared(gate.against)
    infos = metrics_of(subject, gate.metric)
    if not infos:
        return (Problem(gate.metric, GateStatus.MISSING, f"no metric of the family '{gate.metric}' was measured"),)
    least = policy.data.min_samples
    return tuple(valid(read(subject, info, clause, z), least, subject.distinct) for info in infos)


def _corrected(judgements: list[_Judgement], policy: Policy) -> list[_Judgement]:
    """Gives each estimated member the p-value of its alarm, corrected over the variant's gates of the same level."""
    done: list[_Judgement] = []
    p_of: dict[tuple[int, int], float] = {}
    for level in ("error", "warn"):
        where = [
            (i, k)
            for i, judgement in enumerate(judgements)
            for k, item in enumerate(judgement.items)
            if judgement.level == level and isinstance(item, Reading) and not item.exact
        ]
        raw = [_alarm(judgements[i].items[k]) for i, k in where]
        p_of.update(zip(where, holm(raw) if policy.stats.correction == "holm" else raw, strict=True))
    for i, judgement in enumerate(judgements):
        done.append(replace(judgement, p_values=tuple(p_of.get((i, k)) for k in range(len(judgement.items)))))
    return done


def _alarm(item: Reading | Problem) -> float:
    return item.alarm_p() if isinstance(item, Reading) else 1.0


def _status(item: Reading | Problem, p_value: float | None, policy: Policy, z: float) -> GateStatus:
    if isinstance(item, Problem):
        return item.status
    if item.passes(z):
        return GateStatus.PASS
    if p_value is None or p_value <= 1.0 - policy.stats.confidence:
        return GateStatus.FAIL  # an exact number beyond its limit, or an alarm that stands
    return GateStatus.INCONCLUSIVE


def _settle(judgement: _Judgement, subject: Subject, policy: Policy, z: float) -> GateResult:
    """A family takes the status of its worst member and tells of that one."""
    statuses = [_status(item, p, policy, z) for item, p in zip(judgement.items, judgement.p_values, strict=True)]
    status = min(statuses, key=WORST_FIRST.index)
    told = max((k for k, s in enumerate(statuses) if s is status), key=lambda k: (_beyond(judgement.items[k], z), -k))
    item, p_value = judgement.items[told], judgement.p_values[told]
    shared = {
        "id": judgement.gate.id,
        "variant": subject.id,
        "metric": item.metric,
        "level": judgement.level,
        "status": status,
        "rule": str(judgement.clause),
        "blocking": _blocks(judgement.level, status, policy),
        "baseline": subject.compared(judgement.gate.against).baseline_id if judgement.clause.rule.relative else None,
    }
    if isinstance(item, Problem):
        return GateResult(**shared, message=sentences.of_problem(judgement.gate.id, item))
    low, high = item.bounds(z)
    extra = f"worst of {len(judgement.items)}" if len(judgement.items) > 1 else ""
    if (
        status is GateStatus.INCONCLUSIVE
        and policy.stats.correction == "holm"
        and item.alarm_p() <= 1.0 - policy.stats.confidence
    ):
        extra = ", ".join(part for part in (extra, f"p={p_value:.3g} after Holm's correction") if part)
    return GateResult(
        **shared,
        limit=item.limit,
        estimate=item.estimate,
        low=None if item.exact else low,
        high=None if item.exact else high,
        n=None if item.exact else item.n,
        method=item.method,
        unit=item.unit,
        message=sentences.of_reading(judgement.gate.id, item, judgement.clause, status, (z, extra)),
        confidence=None if item.exact else policy.stats.confidence,
        p_value=p_value,
        noise_floor=item.noise_floor,
    )


def _beyond(item: Reading | Problem, z: float) -> float:
    """How far the bound on the bad side is beyond the limit."""
    if isinstance(item, Problem):
        return 0.0
    low, high = item.bounds(z)
    return item.limit - low if item.rule.value == "min" else high - item.limit


def _blocks(level: Level, status: GateStatus, policy: Policy) -> bool:
    if level == "warn" or status.passes:
        return False
    return status is not GateStatus.INCONCLUSIVE or policy.stats.on_inconclusive == "fail"


def _waived(result: GateResult, status: GateStatus | None, why: str, policy: Policy) -> GateResult:
    """The result after its waiver was considered; the message begins with what it is now."""
    now = status or result.status
    told = result.message.split(" ", 1)[1]
    return result.model_copy(
        update={
            "status": now,
            "message": f"{now.name} {told}; {why}",
            "waiver": why if now is GateStatus.WAIVED else "",
            "blocking": _blocks(result.level, now, policy),
        }
    )


# ---------------------------------------------------------------------------------------------------------- overall


def _overall(results: list[GateResult]) -> tuple[GateStatus, ExitCode]:
    blocking = worst(result.status for result in results if result.blocking)
    if blocking in _CODES:
        return blocking, _CODES[blocking]
    shown = {result.status for result in results if result.level == "error"}
    for status in (GateStatus.INCONCLUSIVE, GateStatus.WAIVED):
        if status in shown:
            return status, ExitCode.DONE
    return GateStatus.PASS, ExitCode.DONE


def _warnings(policy: Policy, results: list[GateResult]) -> list[str]:
    warnings = []
    quiet = [r for r in results if not r.blocking and not r.status.passes]
    if quiet:
        warnings.append(
            f"warning: {len(quiet)} result{'' if len(quiet) == 1 else 's'} without effect on the exit code did not pass"
        )
    metrics = {gate.metric for gate in policy.gates}
    if any(m.startswith("ece") for m in metrics) and not ({"accuracy", "mpc"} & metrics and {"nll", "brier"} & metrics):
        warnings.append(
            "warning: an ECE alone can improve while a model breaks; gate accuracy and NLL (or Brier) beside it"
        )
    return warnings
