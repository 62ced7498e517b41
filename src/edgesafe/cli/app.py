"""The commands by name. Each parses, calls, prints, and returns an exit code (see `errors.ExitCode`).

Heavy imports happen inside the commands: `edgesafe gate` never imports torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from edgesafe.cli import bundles, machine, policies, searching, studies, tools

__all__ = ["app"]

app = typer.Typer(
    name="edgesafe",
    help="Make a trained CNN small, export it to ONNX, and prove on that file that it is still safe to ship.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
policy_app = typer.Typer(help="Write and check policies for the gate.", no_args_is_help=True, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001 - read by `run`
) -> None:
    if version:
        from edgesafe.study.host import version as installed

        print(installed())
        raise typer.Exit


app.command()(machine.init)
app.command()(studies.compress)
app.command()(searching.search)
app.command()(studies.report)
app.command()(studies.gate)
app.command()(policies.sign)
app.command()(studies.evaluate)
app.command()(studies.certify)
app.command()(tools.bench)
app.command()(bundles.bundle)
app.command()(bundles.verify)
app.command()(tools.fetch)
app.command()(tools.corrupt)
app.command()(tools.models)
app.command()(machine.doctor)
policy_app.command("init")(policies.init)
policy_app.command("check")(policies.check)
policy_app.command("pin")(policies.pin)
app.add_typer(policy_app, name="policy")
