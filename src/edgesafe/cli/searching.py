"""search: the command that looks for the smallest variant that passes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgesafe.cli.needs import needs
from edgesafe.cli.options import Fresh, Json, Out, Policy, Set
from edgesafe.cli.streams import deliver
from edgesafe.cli.studies import start_over
from edgesafe.errors import ExitCode, UsageError
from edgesafe.recipe.searching import Objective
from edgesafe.records import GateStatus, SearchRecord

__all__ = ["search"]

_BUDGETS = ("trials", "inferences", "hours")


def search(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="TOML file, or the name of one that ships.")],
    policy: Policy,
    minimise: Annotated[Objective, typer.Option(help="What the winner has least of.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=N", help="trials=N, inferences=N or hours=H; may be repeated. None: the recipe's."),
    ] = None,
    set_: Set = None,
    out: Out = None,
    fresh: Fresh = False,
    json: Json = None,
) -> int:
    """Find the smallest variant that passes a policy, and confirm it on test images that no trial saw."""
    from edgesafe import progress
    from edgesafe.commands import printing, results
    from edgesafe.recipe import parsing

    asked = [f"search.policy={_quoted(policy)}", f"search.minimise={minimise.value}", *map(_budget, budget or [])]
    resolved = parsing.load(recipe, [*asked, *(set_ or [])])
    target = out or Path("export") / f"{resolved.name}-{resolved.search.minimise.value}"
    say = progress.for_terminal()
    start_over(fresh, target, say)
    study = needs("edgesafe.commands.search", "compress").search(resolved, target, say)
    record = study.search()
    result = results.of_search(study, exit_code(record))
    deliver(result, json, partial(printing.print_search, study), (recipe, policy, resolved.model.weights, target))
    return result.exit_code


def exit_code(record: SearchRecord | None) -> ExitCode:
    """0: a winner was confirmed; 2: none, and more images might have decided for one; 1: none."""
    if record is not None and record.winner is not None:
        return ExitCode.DONE
    judged = () if record is None else record.finals or record.trials
    open_ = any(trial.status is GateStatus.INCONCLUSIVE for trial in judged)
    return ExitCode.GATE_INCONCLUSIVE if open_ else ExitCode.GATE_FAILED


def _quoted(path: Path) -> str:
    from edgesafe.recipe import toml

    return toml.toml_value(str(path))


def _budget(text: str) -> str:
    """KIND=N as a recipe key.

    Raises:
        UsageError: another kind, or not a positive number.
    """
    kind, _, number = text.partition("=")
    try:
        positive = float(number) > 0 and (kind == "hours" or float(number) == int(float(number)))
    except ValueError:
        positive = False
    if kind not in _BUDGETS or not positive:
        fix = "for example --budget trials=12, --budget inferences=200000 or --budget hours=1.5"
        raise UsageError(f"'{text}' is no budget", where="--budget", fix=fix)
    return f"search.{kind}={number if kind == 'hours' else int(float(number))}"
