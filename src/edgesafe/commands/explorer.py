"""A search under way: trials on the images that decide, confirmation on the others, controls of the winner's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgesafe.commands import estimate, variants
from edgesafe.commands.results import in_words
from edgesafe.commands.trials import Court
from edgesafe.commands.variants import Run
from edgesafe.files import stage_key
from edgesafe.recipe.recipe import Recipe, VariantPlan
from edgesafe.recipe.searching import Objective
from edgesafe.recipe.sections import Allocation
from edgesafe.records import Precision, Role, SearchRecord, SeriesRecord, TrialRecord
from edgesafe.stages.search.ground import Costing, Pruning, Survey, line_of
from edgesafe.stages.search.refine import refined
from edgesafe.stages.search.series import Series, bare_of, control_of, ratios_of, shaped
from edgesafe.stages.search.split import Halves, restricted
from edgesafe.stages.search.strategy import Found, Line, Net, explore
from edgesafe.stages.timing import Timing
from edgesafe.stages.train import weights_hash
from edgesafe.study import naming
from edgesafe.study.study import MODEL

__all__ = ["Explorer", "baseline_of", "plan_of"]


def baseline_of(recipe: Recipe) -> VariantPlan:
    """The plan of the unpruned network of the recipe's first seed."""
    return VariantPlan(name=naming.baseline(recipe.seeds[0]), ratio=0.0)


def plan_of(series: Series, ratio: float, seed: int) -> VariantPlan:
    """The variant of a series at a ratio."""
    section = series.section.model_copy(update={"ratios": (ratio,)})
    name = naming.at_ratio(series.stem, ratio, seed).sparse(section.then_weight)
    return VariantPlan(name=name, ratio=ratio, section=section)


GAIN = 0.001  #: of the unpruned network's, by which a narrower network must be better to be tried


@dataclass
class _Steps:
    """Trials that are left for the refinement, and the cost of the best so far."""

    left: int
    cost: float


class _Spent(Exception):  # noqa: N818 - it ends a search, and is no error
    """The budget is used up; the message says which."""


@dataclass(frozen=True)
class _Made:
    """An fp32 trial: the series that it is of, and its plan."""

    series: Series
    plan: VariantPlan


class Explorer:
    """A search under way: the `Ground` of `explore`."""

    def __init__(self, run: Run, policy: Path, parts: Halves, series: Sequence[Series], record: SearchRecord) -> None:
        earlier = {trial.variant: trial for trial in (*record.trials, *record.finals, *record.controls)}
        rivals = run.recipe.search.confirmations
        decision = restricted(run.bench, parts.decision, "those that decide on trials")
        untouched = restricted(run.bench, parts.untouched, "those that no trial saw", rivals)
        self._run, self._series, self._record = run, {each.label: each for each in series}, record
        self._deciding = Court(replace(run, bench=decision), policy, earlier)
        self._confirming = Court(replace(run, bench=untouched), policy, earlier)
        self._trials: list[TrialRecord] = []
        self._made: dict[str, _Made] = {}
        self._looked: dict[str, SeriesRecord] = {}

    # ------------------------------------------------------------------------------------------------- deciding

    def decide(self) -> None:
        """Make the baseline, screen the series, and try variants until the best that passes is found."""
        baseline = baseline_of(self._run.recipe)
        self._announce()
        self._save(finished=False, stopped="", budget=self._run.recipe.search.budget)
        self._deciding.baseline(baseline)
        self._survey = self._surveyed(baseline.id)
        lines = self._screened()
        self._save(baseline_inferences=self._deciding.inferences(baseline.id))
        stopped = ""
        try:
            explore(lines, self, self._ended)
            self._refine()
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
        return self._tried_at(self._series[line.label], line.ratios[position], why)

    def _tried_at(self, series: Series, ratio: float, why: str) -> bool:
        """Make a trial of a series at a ratio."""
        plan = plan_of(series, ratio, self._run.recipe.seeds[0])
        self._made[plan.id] = _Made(series, plan)
        return self._tried(plan, why)

    def _refine(self) -> None:
        """Narrow single groups of layers of the best further, as long as that passes and trials are left for it."""
        run, most = self._run, self._run.recipe.search.refine
        best = next((name for name in self._best_first() if name in self._made), None)
        if not most or best is None:
            return
        made = self._made[best]
        series, ratio = made.series, made.plan.ratio
        if not series.structured or series.section.steps > 1:
            return
        seed, timed = run.recipe.seeds[0], run.recipe.search.minimise is Objective.LATENCY
        by = Allocation.LATENCY if timed else Allocation.SENSITIVITY
        section = series.section.model_copy(update={"allocation": by, "layers": {}})
        context = variants.context_of(run, seed, section)
        curves = () if context.allocation is None else context.allocation.layers
        size = {curve.layer: curve.channels for curve in curves}
        start = {layer: round(share * size[layer]) for layer, share in self._shares(made).items() if layer in size}
        steps = _Steps(most, self._survey.cost(series, ratio))

        def attempt(gone: Mapping[str, int]) -> bool:
            """Whether a network narrower by one step passes, and is smaller than what passed before; no trial: no."""
            if not steps.left:
                return False
            shares = {layer: count / size[layer] for layer, count in gone.items()}
            narrower = shaped(series, shares, f"{series.stem}_step{stage_key(shares=shares)[:6]}")
            cost = self._survey.cost(narrower, ratio)
            if cost >= steps.cost - GAIN:
                return False
            steps.left -= 1
            if passed := self._tried_at(narrower, ratio, f"{best} with one group of layers narrower"):
                steps.cost = cost
            return passed

        refined(curves, start, context.round_to, attempt)

    def _shares(self, made: _Made) -> dict[str, float]:
        """The share of each group's channels that is gone from a trial."""
        return self._pruning.shares(made.series, made.plan.ratio)

    def _convert(self) -> None:
        """Try what passed in the other precisions that the recipe exports, the best first, until one passes in each.

        MACs are the same in every precision, so that there is nothing to try for them.
        """
        recipe = self._run.recipe
        others = [precision for precision in recipe.export.precisions if precision is not Precision.FP32]
        passed = set(self._made)
        for precision in others if recipe.search.minimise is not Objective.MACS else []:
            for name in [each for each in self._best_first() if each in passed]:
                plan = self._made[name].plan
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
        return trial.status.passes

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
        study, winner = self._run.study, None
        finals = {final.variant: final for final in self._record.finals}  # those of a smaller budget count, too
        for name in self._best_first():
            source = study.record.entry(name)
            whole = study.record.entry(baseline_of(self._run.recipe).id)
            if source is None or whole is None:
                raise ValueError(f"'{name}' is no variant of this search")
            if self._confirming.name(source) not in finals and len(finals) >= self._record.rivals:
                continue
            base = self._confirming.baseline_again(whole)
            self._run.progress.note(
                f"[confirmation {len(finals) + 1}] {name}: on {self._confirming.run.bench.population}"
            )
            final = self._confirming.trial_again(source, base)
            finals[final.variant] = final
            self._save(finals=tuple(finals.values()), untouched_inferences=self._confirming.inferences(base.id))
            if final.status.passes:
                winner = final.variant
                break
        for confirmed in finals:
            study.appoint(confirmed, Role.CANDIDATE if confirmed == winner else Role.TRIAL)
        self._save(winner=winner)

    # -------------------------------------------------------------------------------------------------- controls

    def control(self) -> None:
        """Judge networks of the winner's size that should not pass: channels at random, and nothing recovered."""
        controls = list[TrialRecord]()
        for series, ratio, why in self._controls() if self._run.recipe.search.controls else ():
            plan = plan_of(series, ratio, self._run.recipe.seeds[0])
            self._run.progress.note(f"[control {len(controls) + 1}] {plan.id}: {why}")
            controls.append(self._deciding.trial(plan, why))
            self._save(controls=tuple(controls))
        self._save(controls=tuple(controls), finished=True)

    def _controls(self) -> Iterator[tuple[Series, float, str]]:
        """What is judged beside the winner; nothing without one."""
        source = next((name for name in self._made if self._record.winner in self._finals_of(name)), None)
        if source is None:
            return
        made, recipe = self._made[source], self._run.recipe
        gone = self._shares(made) if made.series.structured else {}
        if made.series.structured:
            said = "channels at random, as many of each layer as of the winner, recovered alike"
            yield control_of(made.series, gone), made.plan.ratio, said
        how = recipe.recovery_of(made.series.section)
        if how.epochs or how.bn_images:
            bare = how.model_copy(update={"epochs": 0, "bn_images": 0})
            yield bare_of(made.series, gone, bare), made.plan.ratio, "the winner's cut, not recovered"

    def _finals_of(self, name: str) -> set[str]:
        """Ids under which a trial, or the same network in another precision, may have been confirmed."""
        entries = self._run.study.record.variants
        return {self._confirming.name(entry) for entry in entries if name in (entry.id, entry.sibling)}

    def _best_first(self) -> list[str]:
        """Trials that passed and make the objective smaller, by what it is."""
        passed = [t for t in self._trials if t.status.passes and t.objective is not None and t.objective < 1.0]
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
        said = ", ".join(f"{value:,} {name}" for name, value in section.budget.items()) or "none"
        run.progress.note(
            f"search for the least {section.minimise.value}: {len(self._series)} series of {len(ratios)} ratios, "
            f"likely about {trials} trials; budget: {said}"
        )
        plan = plan_of(next(iter(self._series.values())), ratios[len(ratios) // 2], run.recipe.seeds[0])
        plans = [baseline_of(run.recipe), *[plan] * trials]
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
            recovery=lambda series: recipe.recovery_of(series.section),
        )
        self._pruning = pruning
        target = recipe.target
        protocol = Timing(target, recipe.evaluate.latency_runs, run.bundle.task)
        model = run.study.path(baseline, MODEL)
        costing = Costing(recipe.search.minimise, run.bundle, model, protocol, recipe.export.opset)
        basis = stage_key(what="survey", start=weights_hash(run.baselines.of(seed)), target=target.model_dump())
        return Survey(pruning, costing, run.study, basis)
