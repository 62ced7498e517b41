"""Whether a sample that is still growing is large enough: the gate is asked, as `edgesafe gate` asks it later."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesafe.errors import NothingEvaluated
from edgesafe.metrics import is_of_certificates
from edgesafe.policy import lock as locks
from edgesafe.policy import policy as policies
from edgesafe.policy import subjects
from edgesafe.policy.decision import Options, decide, gates_that_compare
from edgesafe.policy.lock import Lock
from edgesafe.policy.policy import Policy
from edgesafe.records import (
    GateResult,
    GateStatus,
    Measurements,
    StudyRecord,
    TaskKind,
    VariantRecord,
    Verdict,
)

__all__ = ["Judge", "check", "load", "require_task", "undecided"]


def load(path: Path) -> tuple[Policy, Lock | None]:
    """A policy and the lock that it names.

    Raises:
        PolicyError: it cannot be read, or is not one.
    """
    policy = policies.load(path)
    return policy, locks.for_policy(policy, path)


def check(policy: Path | None, *, compared: bool = True) -> None:
    """Refuses a policy that could not be judged by, before hours of measuring.

    Args:
        policy: its file; None: there is none.
        compared: there is a baseline to compare with, or gates that compare are left out on purpose.

    Raises:
        PolicyError: it cannot be read, or is not one.
        NothingEvaluated: it has gates that compare, and there is nothing to compare with.
    """
    if policy is None:
        return
    comparing = gates_that_compare(load(policy)[0])
    if comparing and not compared:
        raise NothingEvaluated(
            f"gates that compare with a baseline, and none is given: {', '.join(comparing)}",
            where=str(policy),
            fix="give --baseline BASE, or leave these gates out on purpose with --no-baseline",
        )


def require_task(policy: Path | None, kind: TaskKind) -> None:
    """Refuses a policy with gates on metrics that data of this kind do not have.

    Raises:
        PolicyError: it has some; or it cannot be read.
    """
    if policy is not None:
        subjects.require_task(load(policy)[0], kind)


@dataclass(frozen=True)
class Judge:
    """Asks the gate about a variant that is being measured.

    Attributes:
        policy: what must hold.
        lock: the baseline that it pins, or None.
        study: lists the variant.
        records: variant.json of the variant, of its baseline and of its fp32 sibling.
        baseline: the baseline's measurements; None: there is none.
        no_baseline: gates that compare are left out on purpose.
        told: told what is still open after a look.
        sibling: the fp32 sibling's measurements; None: the variant is fp32.
    """

    policy: Policy
    lock: Lock | None
    study: StudyRecord
    records: Mapping[str, VariantRecord]
    baseline: Measurements | None
    no_baseline: bool
    told: Callable[[str], None]
    sibling: Measurements | None = None

    def __call__(self, measured: Measurements) -> bool:
        """Whether no more images are needed: everything that blocks is decided, or one gate has surely failed."""
        verdict = self.verdict(measured)
        open_ = undecided(verdict)
        blocking = {r.status for r in verdict.gates if r.blocking}
        settled = not open_ or GateStatus.MISSING in blocking  # which no number of images mends
        if GateStatus.FAIL in blocking and not any(r.status is GateStatus.REFUSED for r in open_):
            settled = True
        seen = f"{measured.metrics['accuracy'].n:,} clean"
        if "mpc" in measured.metrics:
            seen += f" and {measured.metrics['mpc'].n:,} corrupted images"
        certified = {m.n for metric, m in measured.metrics.items() if is_of_certificates(metric)}
        if certified:
            seen += f", {max(certified):,} certified or not"
        if not settled:
            self.told(f"  {seen}: open: {', '.join(dict.fromkeys(r.id for r in open_))}")
            return False
        missing = ", ".join(dict.fromkeys(r.id for r in verdict.gates if r.status is GateStatus.MISSING and r.blocking))
        self.told(
            f"  {seen}: {verdict.overall.value}{f' (more images do not mend that): {missing}' if missing else ''}"
        )
        return True

    def names(self, *suffixes: str) -> bool:
        """Whether the policy has a gate on another file's metrics, such as `ece_em10_top1.calibrated`."""
        return any(gate.metric.endswith(suffixes) for gate in self.policy.gates)

    @property
    def compares_with_sibling(self) -> bool:
        """Whether the policy asks how a file differs from the fp32 one that it was converted from."""
        return any(subjects.compares_with_sibling(gate) for gate in self.policy.gates)

    @property
    def asks_for_certificates(self) -> bool:
        """Whether the policy has a gate on certificates."""
        return any(is_of_certificates(gate.metric) for gate in self.policy.gates)

    def verdict(self, measured: Measurements) -> Verdict:
        """What the gate says of the measurements."""
        beside = {one.variant: one for one in (self.sibling, self.baseline) if one is not None}
        measurements = {**beside, measured.variant: measured}
        return decide(
            self.policy,
            self.study,
            measurements,
            self.records,
            baseline=None,
            today=datetime.datetime.now(datetime.UTC).date(),
            options=Options(
                variants=(measured.variant,),
                no_baseline=self.no_baseline,
                lock=self.lock,
            ),
        )


def undecided(verdict: Verdict) -> list[GateResult]:
    """Gates that more images may decide: inconclusive, or refused for their number of images."""
    return [
        result
        for result in verdict.gates
        if result.level == "error" and result.status in (GateStatus.INCONCLUSIVE, GateStatus.REFUSED)
    ]
