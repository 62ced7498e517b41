"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Data",
    "Fresh",
    "Hours",
    "Json",
    "NoBaseline",
    "Out",
    "Policy",
    "Root",
    "Set",
    "Studies",
    "Study",
    "Workers",
]

Study = Annotated[Path, typer.Argument(metavar="STUDY", help="Directory that `edgesafe compress` wrote.")]
Studies = Annotated[
    list[Path],
    typer.Argument(metavar="STUDY", help="What `edgesafe compress` wrote; several are compared."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write.")]
NoBaseline = Annotated[
    bool, typer.Option("--no-baseline", help="Leave out the policy's gates that compare; a first run.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over; a study that is there is moved aside.")]
Hours = Annotated[
    float | None,
    typer.Option(
        "--hours", metavar="H", help="Of measuring and certifying, at most: chooses how many images (mode quick)."
    ),
]
Json = Annotated[
    str | None, typer.Option("--json", metavar="F", help="The result as JSON; -: on standard output, alone.")
]
Policy = Annotated[Path, typer.Option("--policy", metavar="P", help="TOML file, or the name of one that ships.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")]
Data = Annotated[
    str,
    typer.Option("--data", help="A name of docs/recipe.md, such as cifar10, or module:factory."),
]
Root = Annotated[str, typer.Option("--root", help="Where the data lies.")]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Tasks at once: processes here, or tasks of a cluster.")
]
