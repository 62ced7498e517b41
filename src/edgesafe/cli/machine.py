"""init and doctor: before the first study."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgesafe.cli.needs import needs
from edgesafe.cli.options import Json
from edgesafe.cli.streams import deliver
from edgesafe.errors import ExitCode

__all__ = ["doctor", "init"]


def init(
    model: Annotated[str, typer.Option(help="Architecture, or path/to/file.py:factory.")],
    data: Annotated[str, typer.Option(help="A name of docs/recipe.md, such as cifar10, or module:factory.")],
    weights: Annotated[str | None, typer.Option(help="Weights file; none: the baseline is trained.")] = None,
    root: Annotated[str | None, typer.Option(help="Where the data lies.")] = None,
    method: Annotated[str, typer.Option(help="weight, filter, channel or random.")] = "filter",
    ratio: Annotated[list[float] | None, typer.Option(help="Share to remove; may be repeated.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")] = Path("recipe.toml"),
    json: Json = None,
) -> int:
    """Write a recipe for a model and a data set, tried and costed."""
    from edgesafe.commands import printing

    flags = {"model": model, "weights": weights, "data": data, "root": root, "method": method, "ratios": ratio}
    given = {key: value for key, value in flags.items() if value}
    result = needs("edgesafe.commands.init", "compress").init(given, out)
    deliver(result, json, partial(printing.print_init, result))
    return ExitCode.DONE


def doctor(
    root: Annotated[Path, typer.Option(help="Where data sets lie.")] = Path("data"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where studies will be written.")] = Path("export"),
    json: Json = None,
) -> int:
    """Say what this machine can do, and what will be slow and why."""
    from edgesafe.commands import doctor, printing

    result = doctor.examine(root, out)
    deliver(result, json, partial(printing.print_facts, result.facts))
    return ExitCode.DONE
