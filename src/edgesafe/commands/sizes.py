"""As many images as evaluate.hours holds, for an audit: the files are timed as they are. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping

from edgesafe.measure.inference import foreign
from edgesafe.progress import Progress
from edgesafe.recipe.recipe import Recipe
from edgesafe.records import Role
from edgesafe.stages import certify, rates, sizing
from edgesafe.stages.observe import Bench
from edgesafe.study.writer import StudyWriter

__all__ = ["fitted"]


def fitted(
    recipe: Recipe, bench: Bench, contents: Mapping[Role, bytes], stored: bool, study: StudyWriter, progress: Progress
) -> Bench:
    """See `sizing.fitted`: the work is that of the files of an audit.

    Args:
        recipe: what the audit measures.
        bench: what files are measured on.
        contents: the candidate's file, and the baseline's if there is one.
        stored: the baseline's evidence is taken as it is.
        study: written to.
        progress: told what was chosen.

    Raises:
        UsageError: not even a first look fits.
    """
    hours = recipe.evaluate.hours
    return sizing.fitted(hours, bench, study, progress, lambda: _work(recipe, bench, contents, stored))


def _work(recipe: Recipe, bench: Bench, contents: Mapping[Role, bytes], stored: bool) -> sizing.Work:
    section, test = recipe.evaluate, bench.test
    fixed = len(test) + certify.most_images(recipe.certify, test)
    measured = {role: content for role, content in contents.items() if not (stored and role is Role.BASELINE)}
    files = [
        sizing.FileCost(
            inference_s=rates.inferring(bench.open(content, foreign.plain_spec(content, role.value)), bench),
            alone=role is Role.BASELINE or len(contents) == 1,
            fixed=fixed,
        )
        for role, content in measured.items()
    ]
    seen = max((len(indices) for indices in bench.cells.values()), default=0)  # by the stored baseline
    per_cell = seen if stored else min(len(test), section.images_per_cell or len(test))
    most = len(bench.cells) * per_cell
    compared = min(most, section.budget or most)
    corruption_s = rates.corrupting(bench)
    return sizing.Work(files, corruption_s, len(test), len(bench.cells), per_cell, compared, bench.host.cpu)
