"""compress, report, gate, evaluate, certify: the commands that make, show and judge studies."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgesafe.cli.needs import needs
from edgesafe.cli.options import Data, Fresh, Hours, Json, NoBaseline, Out, Policy, Root, Set, Studies, Study, Workers
from edgesafe.cli.streams import TO_STDOUT, deliver
from edgesafe.display import terminal
from edgesafe.errors import ExitCode, RecipeError, UsageError
from edgesafe.executors.crew import Crew, Kind
from edgesafe.files import refuse_inputs
from edgesafe.records import VariantStatus
from edgesafe.study import naming
from edgesafe.study.study import read

if TYPE_CHECKING:
    from edgesafe.progress import Progress
    from edgesafe.recipe.recipe import Recipe
    from edgesafe.records import Verdict

__all__ = ["certify", "compress", "evaluate", "gate", "report", "start_over"]


def compress(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="TOML file, or the name of one that ships. None: the quickstart."),
    ] = None,
    set_: Set = None,
    out: Out = None,
    fresh: Fresh = False,
    model: Annotated[str | None, typer.Option(help="Architecture, if there is no recipe file.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file of that model.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A name of docs/recipe.md, such as cifar10, or module:factory."),
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where the data lies.")] = None,
    method: Annotated[str | None, typer.Option(help="weight, filter, channel or random.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share to remove; may be repeated.")] = None,
    hours: Hours = None,
    workers: Workers = None,
    executor: Annotated[Kind, typer.Option("--executor", help="Where workers run.")] = Kind.LOCAL,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="A", help="Ray cluster: auto, ray://HOST:10001; none: started here."),
    ] = None,
    show_recipe: Annotated[bool, typer.Option("--show-recipe", help="Print the resolved recipe and leave.")] = False,
    json: Json = None,
) -> int:
    """Prune, recover, export, measure: run a study, or go on with it."""
    flags = {"model": model, "weights": weights, "data": data, "root": root, "method": method, "ratios": ratio}
    overrides = [*(set_ or []), *([] if hours is None else [f"evaluate.hours={hours:g}"])]
    resolved = _recipe(recipe, overrides, {key: value for key, value in flags.items() if value})
    if show_recipe:
        return _show(resolved, json)
    from edgesafe import progress
    from edgesafe.commands import printing, results

    target = out or Path("export") / resolved.name
    say = progress.for_terminal()
    crew = Crew(workers, executor, address)
    start_over(fresh, target, say)
    study = needs("edgesafe.commands.compress", "compress").compress(resolved, target, say, crew)
    result = results.of_study("compress", study)
    deliver(result, json, partial(printing.print_study, study), (recipe, resolved.model.weights, target))
    if refused := [row for row in result.variants if row.status is VariantStatus.REFUSED]:
        reasons = "; ".join(f"{row.id} ({row.reason})" for row in refused)
        told = f"edgesafe: refused {len(refused)} of {len(result.variants)} variants: {reasons}"
        print(terminal(told), file=sys.stderr)
    return result.exit_code


def start_over(fresh: bool, target: Path, say: Progress) -> None:
    """Move a study that is there aside, if that was asked for."""
    from edgesafe.study import writer

    if fresh and (aside := writer.set_aside(target)) is not None:
        say.note(f"the study that was there is now {aside}")


def _recipe(path: Path | None, overrides: list[str], flags: dict[str, Any]) -> Recipe:
    from edgesafe.recipe import parsing

    if not flags:
        return parsing.load(path, overrides)
    if path is not None:
        raise RecipeError(
            f"--{next(iter(flags))} goes without a recipe file", where=str(path), fix="use --set to change a recipe"
        )
    return parsing.from_flags(flags, overrides)


def _show(recipe: Recipe, json: str | None) -> int:
    from edgesafe.cli.streams import put
    from edgesafe.recipe import toml
    from edgesafe.records import LinesResult

    text = toml.dump_toml(recipe)
    deliver(LinesResult(command="compress", lines=tuple(text.splitlines())), json, partial(put, text))
    return ExitCode.DONE


def report(
    studies: Studies,
    out: Out = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="P", help="Also show the gate's verdict: a file, or a name.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Also send it to an MLflow tracking store: a server, or a folder.")
    ] = None,
    json: Json = None,
) -> int:
    """Write the HTML page, Markdown, CSV and JSON of a study; of several, one page that compares them."""
    from edgesafe.commands import report
    from edgesafe.records import FilesResult

    for option, given in (("--policy", policy), ("--mlflow", mlflow)):
        if len(studies) > 1 and given is not None:
            raise UsageError("is about one study", where=option, fix="give one study, or leave it out")
    target = out or Path("reports") / ("comparison" if len(studies) > 1 else studies[0].resolve().name)
    tracking = needs("edgesafe.commands.tracking", "mlflow") if mlflow is not None else None
    opened = [read(study) for study in studies]
    written = report.compare(opened, target) if len(opened) > 1 else report.write(opened[0], target, policy)
    if tracking is not None:
        runs = tracking.track(opened[0], mlflow, written, policy)
        print(f"mlflow: {len(runs)} runs, the study's is {runs[0]}", file=sys.stderr)
    files = tuple(map(str, written))
    result = FilesResult(command="report", files=files)
    deliver(result, json, lambda: print("\n".join(map(terminal, files))), (*studies, policy, *files))
    return ExitCode.DONE


def gate(
    study: Study,
    policy: Policy,
    variant: Annotated[list[str] | None, typer.Option(help="Judge only this variant; may be repeated.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this variant instead of the study's baseline.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(help="edgesafe.lock: the baseline must be the pinned one.")] = None,
    no_baseline: NoBaseline = False,
    require_signature: Annotated[
        Path | None, typer.Option(metavar="KEY.pub", help="The study must be signed by the owner of this Ed25519 key.")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="F", help="The verdict; -: on standard output, alone.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="F")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="F")] = None,
    openmetrics: Annotated[Path | None, typer.Option("--openmetrics", metavar="F")] = None,
) -> int:
    """Decide against a policy; the exit code says how it ended."""
    from edgesafe.commands import gate
    from edgesafe.policy.outputs import to_json as verdict_as_json

    request = gate.GateRequest(policy, tuple(variant or ()), baseline, lock, no_baseline, signed_by=require_signature)
    outputs = {"junit": junit, "markdown": markdown, "openmetrics": openmetrics}
    if json not in (None, TO_STDOUT):
        outputs["json"] = Path(str(json))
    targets = {kind: path for kind, path in outputs.items() if path is not None}
    read_too = [path for path in (lock, require_signature) if path is not None]
    refuse_inputs(targets.values(), [study, Path(policy), *read_too])
    verdict = gate.judge(study, request)
    gate.write(verdict, targets)
    if json == TO_STDOUT:
        print(verdict_as_json(verdict), end="")
    else:
        _print_verdict(verdict)
    return verdict.exit_code


def _print_verdict(verdict: Verdict) -> None:
    from edgesafe.commands import gate

    print(gate.text(verdict))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(gate.workflow_commands(verdict))


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    data: Data,
    root: Root = "data",
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="BASE", help="What to compare with: an ONNX file, or a study that measured it before."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="P", help="Measure more and more images until this policy is decided, then decide."),
    ] = None,
    no_baseline: NoBaseline = False,
    budget: Annotated[
        int | None, typer.Option(min=1000, help="Corrupted images to measure at most (mode quick).")
    ] = None,
    hours: Hours = None,
    out: Out = None,
    fresh: Fresh = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="evaluate.*, data.*, target.*")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="nhwc or nchw. None: detected.")] = None,
    outputs: Annotated[str | None, typer.Option(help="logits or probabilities. None: detected.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="float32 pixels are 0 to 255 times this. None: detected; 1/255 with a mean.")
    ] = None,
    mean: Annotated[
        list[float] | None, typer.Option(help="Per channel, of scaled pixels; repeat it. None: detected.")
    ] = None,
    std: Annotated[list[float] | None, typer.Option(help="Likewise.")] = None,
    channels: Annotated[str | None, typer.Option(help="rgb or bgr. None: detected.")] = None,
    json: Json = None,
) -> int:
    """Audit any ONNX classifier, measured as our own are."""
    from edgesafe import progress
    from edgesafe.commands import evaluate, gate, printing, results

    target = out or Path("export") / naming.cleaned(model.stem)
    words = {"layout": layout, "outputs": outputs, "channels": channels}
    statement = evaluate.stated(words, {"scale": scale, "mean": mean, "std": std})
    request = evaluate.AuditRequest(
        model, baseline, data, root, statement, policy, budget, no_baseline, tuple(set_ or ()), hours
    )
    say = progress.for_terminal()
    start_over(fresh, target, say)
    study = evaluate.evaluate(request, target, say)
    verdict = None
    if policy is not None:
        judged = tuple(variant.id for variant in study.values() if not variant.entry.is_baseline)
        verdict = gate.judge(study, gate.GateRequest(Path(policy), judged, no_baseline=no_baseline))
    result = results.of_study("evaluate", study, verdict)

    def show() -> None:
        printing.print_study(study)
        if verdict is not None:
            _print_verdict(verdict)

    deliver(result, json, show, (model, baseline, policy, target))
    return result.exit_code


def certify(
    target: Annotated[Path, typer.Argument(metavar="STUDY|MODEL.onnx", help="A finished study, or an ONNX file.")],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="ID", help='For example "brightness=2"; may be repeated.')
    ],
    data: Annotated[str | None, typer.Option(help="Data set. None: the study's own.")] = None,
    root: Annotated[str | None, typer.Option(help="Where the data lies.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="BASE", help="For a file: an ONNX file to compare with.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Of a study: only this variant; may be repeated.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many test images.")] = None,
    max_images: Annotated[int, typer.Option(min=1, help="Images that a set may make of one test image.")] = 10_000,
    radius: Annotated[
        bool, typer.Option(help="Run by rising range, which gives each image's radius; else extremes first.")
    ] = True,
    workers: Annotated[int, typer.Option(min=0, help="Threads. 0: one per core.")] = 0,
    line: Annotated[
        bool, typer.Option("--line", help="Follow the real-valued function instead, without rounding.")
    ] = False,
    timed: Annotated[int, typer.Option(min=0, help="Of the first so many images, time the certificate.")] = 0,
    out: Out = None,
    fresh: Fresh = False,
    json: Json = None,
) -> int:
    """Run every image of finite perturbation sets."""
    from edgesafe import progress
    from edgesafe.commands import certify, evaluate, printing, results
    from edgesafe.recipe.sections import CertifySection

    engine: Literal["enumeration", "line"] = "line" if line else "enumeration"
    section = CertifySection(
        engine=engine,
        sets=tuple(set_),
        images=images,
        outwards=radius,
        max_images=max_images,
        workers=workers,
        timed=timed,
    )
    request = certify.CertifyRequest(target, section, data, root, baseline, tuple(variant or ()))
    say = progress.for_terminal()
    if target.is_dir():
        if out is not None or fresh:
            where, fix = "--out" if out is not None else "--fresh", "leave it out: sets are added to the study"
            raise UsageError("goes with a file, and this is a study", where=where, fix=fix)
        study = certify.certify_study(request, say)
    else:
        place = out or Path("export") / f"{target.stem}-certificates"
        start_over(fresh, place, say)
        study = evaluate.evaluate(certify.evaluation(request), place, say)
    result = results.of_study("certify", study)
    deliver(result, json, partial(printing.print_certificates, study), (target, baseline, study.root))
    return result.exit_code
