"""`edgesafe search`: the smallest variant that passes a policy.

    baseline -> screen -> trials, decided on one part of the test images -> the winner, confirmed on the other

Every trial is a variant of an ordinary study: pruned, recovered, exported, measured until the policy is decided. A
search that is killed goes on: trials that are done are not made again, and the next ones follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edgesafe import data
from edgesafe.commands import compress, estimate, variants
from edgesafe.commands.results import in_words
from edgesafe.commands.trials import PASSED, Court
from edgesafe.commands.variants import Run
from edgesafe.errors import UsageError
from edgesafe.files import stage_key
from edgesafe.progress import Progress, Silent
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.searching import Objective
from edgesafe.records import (
    DataBundle,
    Host,
    Precision,
    Role,
    SearchRecord,
    SeriesRecord,
    StudyRecord,
    TaskKind,
    TrialRecord,
    VariantStatus,
)
from edgesafe.stages import observe
from edgesafe.stages.search.ground import Costing, Pruning, Survey, line_of
from edgesafe.stages.search.series import Series, ratios_of, series_of
from edgesafe.stages.search.split import Halves, halves, restricted
from edgesafe.stages.search.strategy import Found, Line, Net, explore
from edgesafe.stages.sequential import judge
from edgesafe.stages.timing import Timing
from edgesafe.stages.train import weights_hash
from edgesafe.study import naming
from edgesafe.study.host import host
from edgesafe.study.study import MODEL, Study, read
from edgesafe.study.writer import StudyWriter

__all__ = ["plan_of", "search"]


def search(recipe: Recipe, out: Path, progress: Progress | None = None) -> Study:
    """Search, or go on with a search.

    Args:
        recipe: its [search] says what to minimise, under which policy, where, and how long.
        out: the study directory.
        progress: told what happens; None: nothing is printed.

    Returns:
        The study, read back and checked. `Study.search()` says what was tried and which variant was confirmed, if any.

    Raises:
        EdgesafeError: the recipe, policy, data, weights or directory cannot be used, or the baseline is refused.
    """
    progress, here = progress or Silent(), host()
    policy, series = _checked(recipe), series_of(recipe.compress, recipe.search)
    torch.set_num_threads(recipe.threads or here.cores)
    bundle = data.load(recipe.data)
    if bundle.task.kind is not TaskKind.CLASSIFICATION:
        what, fix = f"a search is for classifiers, not for {bundle.task.kind.value}", "compress, and gate each variant"
        raise UsageError(what, where="data", fix=fix)
    parts = halves(bundle.test, recipe.search.share, recipe.search.seed)
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, here)
    with StudyWriter(out, _begun(recipe, bundle, here)) as study:
        record = study.search() or _record(recipe, policy, parts)
        if record.finished and _is_whole(study):
            progress.note("searched before")
            return read(out)
        study.put_samples(observe.samples(bench))
        work = _Search(variants.begin(recipe, bundle, bench, study, progress), policy, parts, series, record)
        work.decide()
        work.confirm()
        study.close_study()
    return read(out)


def _checked(recipe: Recipe) -> Path:
    """The policy, after everything has been looked at that would fail later.

    Raises:
        UsageError: no policy, one with gates on certificates, several seeds, or latency that is not measured.
    """
    policy = recipe.search_policy
    if policy is None:
        raise UsageError("no policy to search under", where="search.policy", fix="give --policy FILE")
    judge.check(policy)
    gates = judge.load(policy)[0].gates
    certified = [gate.id for gate in gates if gate.metric.startswith(("certified_", "falsified", "unknown"))]
    if certified:
        what = f"the gate '{certified[0]}' is about certificates, which a search does not make"
        fix = "search under a policy without it, then certify the winner and gate it by the whole policy"
        raise UsageError(what, where=str(policy), fix=fix)
    if len(recipe.seeds) != 1:
        raise UsageError(f"{len(recipe.seeds)} seeds", where="seeds", fix="search with one, for example seeds = [0]")
    if recipe.search.minimise is Objective.LATENCY and not recipe.evaluate.latency:
        raise UsageError("latency is not measured", where="evaluate.latency", fix="leave it on, or minimise macs")
    return policy


def _begun(recipe: Recipe, bundle: DataBundle, here: Host) -> StudyRecord:
    """study.json of a search that has not begun: the baseline alone is sure to be made."""
    whole = compress.begun(recipe, bundle, here, policy=recipe.search_policy)
    return whole.model_copy(update={"variants": (compress.entry_of(_baseline(recipe)),)})


def _baseline(recipe: Recipe) -> VariantPlan:
    return VariantPlan(name=naming.baseline(recipe.seeds[0]), ratio=0.0)


def plan_of(series: Series, ratio: float, seed: int) -> VariantPlan:
    """The variant of a series at a ratio."""
    section = series.section.model_copy(update={"ratios": (ratio,)})
    return VariantPlan(name=naming.at_ratio(series.label, ratio, seed), ratio=ratio, section=section)


def _record(recipe: Recipe, policy: Path, parts: Halves) -> SearchRecord:
    """search.json of a search that has not begun."""
    return SearchRecord(
        minimise=recipe.search.minimise.value,
        policy_sha256=judge.load(policy)[0].sha256,
        decision_images=len(parts.decision),
        untouched_images=len(parts.untouched),
        split_sha256=parts.sha256,
        rivals=recipe.search.confirmations,
    )


def _is_whole(study: StudyWriter) -> bool:
    """Whether all that a finished search made is still there."""
    done = [entry.id for entry in study.record.variants if entry.status is VariantStatus.DONE]
    return all(study.is_done(variant) for variant in done)


class _Spent(Exception):  # noqa: N818 - it ends a search, and is no error
    """The budget is used up; the message says which."""


class _Search:
    """A search under way: the `Ground` of `explore`."""

    def __init__(self, run: Run, policy: Path, parts: Halves, series: Sequence[Series], record: SearchRecord) -> None:
        earlier = {trial.variant: trial for trial in (*record.trials, *record.finals)}
        rivals = run.recipe.search.confirmations
        decision = restricted(run.bench, parts.decision, "those that decide on trials")
        untouched = restricted(run.bench, parts.untouched, "those that no trial saw", rivals)
        self._run, self._series, self._record = run, {each.label: each for each in series}, record
        self._deciding = Court(replace(run, bench=decision), policy, earlier)
        self._confirming = Court(replace(run, bench=untouched), policy, earlier)
        self._trials: list[TrialRecord] = []
        self._looked: dict[str, SeriesRecord] = {}

    # ------------------------------------------------------------------------------------------------- deciding

    def decide(self) -> None:
        """Make the baseline, screen the series, and try variants until the best that passes is found."""
        baseline = _baseline(self._run.recipe)
        self._announce()
        self._deciding.baseline(baseline)
        self._survey = self._surveyed(baseline.id)
        lines = self._screened()
        self._save(baseline_inferences=self._deciding.inferences(baseline.id))
        stopped = ""
        try:
            explore(lines, self, self._ended)
            self._convert()
        except _Spent as spent:
            stopped = str(spent)
            self._run.progress.note(f"the budget is spent: {stopped}")
        self._save(trials=tuple(self._trials), stopped=stopped)

    def net(self, line: Line, position: int) -> Net | None:
        """The network of a line at a position, pruned and not recovered; None: it cannot be pruned so far."""
        return self._survey.net(self._series[line.label], line.ratios[position])

    def passes(self, line: Line, position: int, why: str) -> bool:
        """Whether the variant passes on the images that decide: a trial.

        Raises:
            _Spent: no trial is left.
        """
        return self._tried(plan_of(self._series[line.label], line.ratios[position], self._run.recipe.seeds[0]), why)

    def _convert(self) -> None:
        """Try what passed in the other precisions that the recipe exports, the best first, until one passes in each.

        MACs are the same in every precision, so that there is nothing to try for them.
        """
        recipe = self._run.recipe
        others = [precision for precision in recipe.export.precisions if precision is not Precision.FP32]
        passed = {trial.variant: trial for trial in self._trials}
        for precision in others if recipe.search.minimise is not Objective.MACS else []:
            for name in [each for each in self._best_first() if each in passed]:
                trial = passed[name]
                plan = plan_of(self._series[trial.series], trial.ratio, recipe.seeds[0])
                changes = {"name": plan.name.at(precision), "precision": precision, "sibling": plan.id}
                if self._tried(plan.model_copy(update=changes), f"{precision.value} of one that passed"):
                    break

    def _tried(self, plan: VariantPlan, why: str) -> bool:
        """Make a trial, write it down, and say whether it passed."""
        self._require_budget()
        self._run.progress.note(f"[trial {len(self._trials) + 1}] {plan.id}: {why}")
        trial = self._deciding.trial(plan, why)
        self._trials.append(trial)
        if trial.variant not in {known.variant for known in self._record.trials}:
            self._save(trials=tuple(self._trials))
        return trial.status in PASSED

    def _require_budget(self) -> None:
        section, trials = self._run.recipe.search, self._trials
        if section.trials is not None and len(trials) >= section.trials:
            raise _Spent(f"{section.trials} trials")
        run = sum(trial.inferences for trial in trials)
        if section.inferences is not None and run >= section.inferences:
            raise _Spent(f"{run:,} of {section.inferences:,} inferences")
        if section.hours is not None and sum(trial.seconds for trial in trials) >= 3600 * section.hours:
            raise _Spent(f"{section.hours:g} hours")

    def _ended(self, line: Line, found: Found) -> None:
        """A series is searched to its end, or left."""
        record = self._looked[line.label].model_copy(update={"left_out": found.left_out})
        self._looked[line.label] = record
        self._save(series=tuple(self._looked.values()))
        best = "nothing passes" if found.best is None else f"passes up to ratio {line.ratios[found.best]:.2f}"
        self._run.progress.note(f"series {line.label}: {found.left_out or best}")

    # ----------------------------------------------------------------------------------------------- confirming

    def confirm(self) -> None:
        """Judge the best that passed on the untouched images; where it does not pass there, the next best."""
        study, finals, winner = self._run.study, list[TrialRecord](), None
        for name in self._best_first()[: self._record.rivals]:
            source = study.record.entry(name)
            whole = study.record.entry(_baseline(self._run.recipe).id)
            if source is None or whole is None:
                raise ValueError(f"'{name}' is no variant of this search")
            base = self._confirming.baseline_again(whole)
            self._run.progress.note(
                f"[confirmation {len(finals) + 1}] {name}: on {self._confirming.run.bench.population}"
            )
            final = self._confirming.trial_again(source, base)
            finals.append(final)
            self._save(finals=tuple(finals), untouched_inferences=self._confirming.inferences(base.id))
            if final.status in PASSED:
                winner = final.variant
                study.appoint(winner, Role.CANDIDATE)
                break
        self._save(winner=winner, finished=True)

    def _best_first(self) -> list[str]:
        """Trials that passed and make the objective smaller, by what it is."""
        passed = [t for t in self._trials if t.status in PASSED and t.objective is not None and t.objective < 1.0]
        return [trial.variant for trial in sorted(passed, key=lambda t: (t.objective or 1.0, t.variant))]

    # -------------------------------------------------------------------------------------------------- details

    def _save(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._run.study.put_search(self._record)

    def _announce(self) -> None:
        """Say what is ahead before it begins."""
        run, section = self._run, self._run.recipe.search
        ratios = ratios_of(section)
        likely = math.ceil(math.log2(len(ratios) + 1)) + 1 + 2 * (len(self._series) - 1)
        trials = likely if section.trials is None else min(likely, section.trials)
        limits = {"trials": section.trials, "inferences": section.inferences, "hours": section.hours}
        said = ", ".join(f"{value:,} {name}" for name, value in limits.items() if value is not None) or "none"
        run.progress.note(
            f"search for the least {section.minimise.value}: {len(self._series)} series of {len(ratios)} ratios, "
            f"likely about {trials} trials; budget: {said}"
        )
        plan = plan_of(next(iter(self._series.values())), ratios[len(ratios) // 2], run.recipe.seeds[0])
        plans = [_baseline(run.recipe), *[plan] * trials]
        ahead = estimate.estimate(run.recipe, run.bundle, self._deciding.run.bench, plans)
        if ahead is not None:
            run.progress.note(f"at most, if every trial needs every image: {in_words(ahead)}")

    def _screened(self) -> list[Line]:
        """The series as lines, the most promising first."""
        section, lines = self._run.recipe.search, []
        ratios = ratios_of(section)
        self._run.progress.note(f"screening {len(self._series)} series, not recovered")
        for label, series in self._series.items():
            rows = self._survey.screen(series, ratios, section.screen_images)
            self._looked[label] = SeriesRecord(label=label, screened=rows)
            lines.append(line_of(series, ratios, rows, self._survey.accuracy(series, section.screen_images)))
        self._save(series=tuple(self._looked.values()))
        return [line for _, line in sorted(lines, key=lambda pair: (pair[0], pair[1].label))]

    def _surveyed(self, baseline: str) -> Survey:
        """What tells the cost of networks."""
        run, recipe = self._run, self._run.recipe
        seed = recipe.seeds[0]

        pruning = Pruning(
            network=lambda series: variants.start_of(run, seed, series.section),
            context=lambda series: variants.context_of(run, seed, series.section),
            recovery=lambda series: variants.recovery_of(recipe, series.section),
        )
        target = recipe.target
        protocol = Timing(target, recipe.evaluate.latency_runs)
        model = run.study.path(baseline, MODEL)
        costing = Costing(recipe.search.minimise, run.bundle, model, protocol, recipe.export.opset)
        basis = stage_key(what="survey", start=weights_hash(run.baselines.of(seed)), target=target.model_dump())
        return Survey(pruning, costing, run.study, basis)
