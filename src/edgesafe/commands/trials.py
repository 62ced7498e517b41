"""Variants of a search: made, measured on one part of the test images until a policy is decided, and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgesafe.commands import compress, variants
from edgesafe.commands.variants import Run
from edgesafe.errors import RefusedError
from edgesafe.measure import evidence as evidence_files
from edgesafe.metrics import SHIPPED_BYTES
from edgesafe.policy.counted import exact_values
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.searching import Objective
from edgesafe.recipe.sections import CertifySection, EvaluateSection
from edgesafe.records import (
    GateStatus,
    Measurements,
    Role,
    TrialRecord,
    VariantEntry,
    VariantStatus,
    Verdict,
)
from edgesafe.stages import counts, measure
from edgesafe.stages.sequential import judge
from edgesafe.stages.sequential.judge import Judge
from edgesafe.study import naming
from edgesafe.study.naming import VariantName
from edgesafe.study.study import MODEL

__all__ = ["Court", "objective_of"]


@dataclass(frozen=True)
class Court:
    """Judges variants by a policy on some of the test images.

    Attributes:
        run: what the stages share; its bench shows those images.
        policy: the file.
        earlier: what an earlier run of the search wrote down, by variant.
    """

    run: Run
    policy: Path
    earlier: Mapping[str, TrialRecord]

    def baseline(self, plan: VariantPlan) -> None:
        """Make the unpruned network, unless it is there, and measure it on all images of the bench."""
        if not self.run.study.is_done(plan.id):
            self.run.progress.note(f"{plan.id}: {self.run.bench.population}")
            variants.make(replace(self.run, recipe=_plain(self.run.recipe)), plan)

    def trial(self, plan: VariantPlan, why: str) -> TrialRecord:
        """Make a variant and judge it."""
        entry = compress.entry_of(plan).model_copy(update={"role": Role.TRIAL})
        return self._judged(entry, why, lambda run: variants.make(run, plan))

    def baseline_again(self, source: VariantEntry) -> VariantEntry:
        """Measure the unpruned network, which lies in the study, on all images of this bench, unless that is done."""
        entry = _final(source, Role.BASELINE, None)
        self.run.study.add(entry)
        if not self.run.study.is_done(entry.id):
            self.run.progress.note(f"{entry.id}: {self.run.bench.population}")
            _measure_again(replace(self.run, recipe=_plain(self.run.recipe)), source, entry)
        return entry

    def trial_again(self, source: VariantEntry, baseline: VariantEntry) -> TrialRecord:
        """Judge a trial's files once more, on the images of this bench."""
        entry = _final(source, Role.TRIAL, baseline.id)
        return self._judged(entry, f"confirms {source.id}", lambda run: _measure_again(run, source, entry))

    def name(self, source: VariantEntry) -> str:
        """The id under which a trial's files are judged once more."""
        return _final(source, Role.TRIAL, None).id

    def inferences(self, variant: str) -> int:
        """Images that were run to measure a finished variant."""
        evidence = evidence_files.from_bytes(self.run.study.evidence_bytes(variant))
        return len(evidence.clean.index) + sum(len(cell.index) for cell in evidence.cells.values())

    def _judged(self, entry: VariantEntry, why: str, make: Callable[[Run], None]) -> TrialRecord:
        """Make a variant unless it is there, ask the policy, and say what it took."""
        study, began = self.run.study, time.monotonic()
        study.add(entry)
        known = self.earlier.get(entry.id) if study.is_done(entry.id) else None
        if not study.is_done(entry.id):
            try:
                make(_until_decided(self.run))
            except RefusedError as refusal:
                study.refuse(entry.id, str(refusal))
                self.run.progress.note(f"  refused: {refusal}")
        seconds = known.seconds if known is not None else time.monotonic() - began
        told = {"variant": entry.id, "series": entry.label, "ratio": entry.ratio, "why": why, "seconds": seconds}
        now = study.record.entry(entry.id)
        if now is None or now.status is not VariantStatus.DONE:
            return TrialRecord(**told, objective=None, status=GateStatus.REFUSED, inferences=0)
        verdict = self._verdict(now)
        still = dict.fromkeys(g.id for g in verdict.gates if g.level == "error" and not g.status.passes)
        base = study.measurements(now.baseline) if now.baseline is not None else None
        objective = objective_of(self.run.recipe.search.minimise, study.measurements(entry.id), base)
        return TrialRecord(
            **told, objective=objective, status=verdict.overall, open=tuple(still),
            inferences=self.inferences(entry.id),
        )  # fmt: skip

    def _verdict(self, entry: VariantEntry) -> Verdict:
        """What the gate says of a finished variant, from what is stored."""
        study = self.run.study
        records = {name: study.variant(name) for name in (entry.baseline, entry.id) if name is not None}
        against = study.measurements(entry.baseline) if entry.baseline is not None else None
        asked = Judge(*judge.load(self.policy), study.record, records, against, False, self.run.progress.note)
        return asked.verdict(study.measurements(entry.id))


def objective_of(minimise: Objective, measured: Measurements, baseline: Measurements | None) -> float | None:
    """What is minimised, as measured on the file, as a share of the baseline's; None: it was not measured."""
    if minimise is Objective.LATENCY:
        ratio = measured.metrics.get("latency.ratio")
        return None if ratio is None else ratio.estimate
    own, whole = (_amount(minimise, each) for each in (measured, baseline))
    return None if own is None or not whole else own / whole


def _amount(minimise: Objective, measured: Measurements | None) -> float | None:
    """MACs, or the bytes of the file that ships."""
    return exact_values(measured, None).get("macs" if minimise is Objective.MACS else SHIPPED_BYTES)


def _plain(recipe: Recipe) -> Recipe:
    """The recipe without certificates: they would look at test images that are to stay untouched."""
    return recipe.model_copy(update={"certify": CertifySection()})


def _until_decided(run: Run) -> Run:
    """The run with an [evaluate] that measures a growing sample until the search's policy is decided."""
    changes = {"mode": "quick", "policy": run.recipe.search.policy, "budget": run.recipe.search.images}
    rules = EvaluateSection.model_validate(run.recipe.evaluate.model_dump() | changes)
    recipe = _plain(run.recipe).model_copy(update={"evaluate": rules})
    return replace(run, recipe=recipe, bench=replace(run.bench, section=rules))


def _final(source: VariantEntry, role: Role, baseline: str | None) -> VariantEntry:
    """The entry of a variant where it is judged once more."""
    name = naming.final(VariantName(source.label, source.group, source.seed))
    return VariantEntry(
        id=name.id, role=role, label=name.label, group=name.group, method=source.method, ratio=source.ratio,
        seed=source.seed, baseline=baseline, precision=source.precision, sibling=source.sibling,
        status=VariantStatus.PENDING,
    )  # fmt: skip


def _measure_again(run: Run, source: VariantEntry, entry: VariantEntry) -> None:
    """Copy a variant's files, byte for byte, and measure them on the bench of the run."""
    study, record = run.study, run.study.variant(source.id)
    for artefact in record.artefacts:
        study.put_file(entry.id, artefact.file, study.file_bytes(source.id, artefact.file))
    study.put_variant(record.model_copy(update={"id": entry.id}))
    timed = variants.timed_of(run, entry.id, entry.baseline)
    task = measure.MeasureOrder(
        bench=run.bench, study=study, progress=run.progress, variant=entry.id, baseline=entry.baseline,
        policy=run.recipe.policy_file if entry.baseline is not None else None,
        counted=counts.sizes(study.variant(entry.id)) | timed.candidate, device=timed.device,
        is_reference=entry.baseline is None,
    )  # fmt: skip
    measure.measure(task, run.bench.open(study.file_bytes(entry.id, MODEL)))
    study.finish(entry.id)
