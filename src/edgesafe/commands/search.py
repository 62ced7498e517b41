"""`edgesafe search`: the smallest variant that passes a policy.

    baseline -> screen -> trials, decided on one part of the test images -> the winner, confirmed on the other

Every trial is a variant of an ordinary study: pruned, recovered, exported, measured until the policy is decided. A
search that is killed goes on: trials that are done are not made again, and the next ones follow from them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgesafe import data
from edgesafe.commands import compress, variants
from edgesafe.commands.explorer import Explorer, baseline_of
from edgesafe.errors import UsageError
from edgesafe.metrics import is_of_certificates
from edgesafe.progress import Progress, Silent
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.searching import Objective
from edgesafe.records import (
    DataBundle,
    Host,
    SearchRecord,
    StudyRecord,
    VariantStatus,
)
from edgesafe.stages import foresight, observe
from edgesafe.stages.search.series import series_of
from edgesafe.stages.search.split import Halves, halves
from edgesafe.stages.sequential import judge
from edgesafe.study.host import host
from edgesafe.study.study import Study, read
from edgesafe.study.writer import StudyWriter

__all__ = ["search"]


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
    bundle = data.load(recipe.data, progress)
    judge.require_task(policy, bundle.task.kind)
    parts = halves(bundle.test, recipe.search.share, recipe.search.seed)
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, here)
    with StudyWriter(out, _begun(recipe, bundle, here)) as study:
        record = study.search() or _record(recipe, policy, parts)
        more = record.stopped and record.budget != recipe.search.budget
        if record.finished and not more and _is_whole(study):
            progress.note("searched before")
            return read(out)
        study.put_samples(observe.samples(bench))
        work = Explorer(variants.begin(recipe, bundle, bench, study, progress), policy, parts, series, record)
        work.decide()
        work.confirm()
        work.control()
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
    certified = [gate.id for gate in gates if is_of_certificates(gate.metric)]
    if certified:
        what = f"the gate '{certified[0]}' is about certificates, which a search does not make"
        fix = "search under a policy without it, then certify the winner and gate it by the whole policy"
        raise UsageError(what, where=str(policy), fix=fix)
    if recipe.evaluate.hours is not None:
        fix = "give search.hours for the whole, or evaluate.budget for each file"
        raise UsageError("is for a known number of files, not for a search", where="evaluate.hours", fix=fix)
    if len(recipe.seeds) != 1:
        raise UsageError(f"{len(recipe.seeds)} seeds", where="seeds", fix="search with one, for example seeds = [0]")
    if recipe.search.minimise is Objective.LATENCY and not recipe.evaluate.latency:
        raise UsageError("latency is not measured", where="evaluate.latency", fix="leave it on, or minimise macs")
    foresight.require_machine({**({} if recipe.model.weights else {"train": recipe.train}), **recipe.recoveries})
    return policy


def _begun(recipe: Recipe, bundle: DataBundle, here: Host) -> StudyRecord:
    """study.json of a search that has not begun: the baseline alone is sure to be made."""
    whole = compress.begun(recipe, bundle, here, policy=recipe.search_policy)
    return whole.model_copy(update={"variants": (compress.entry_of(baseline_of(recipe)),)})


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
