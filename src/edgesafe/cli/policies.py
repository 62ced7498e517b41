"""The commands policy init, check and pin, and sign."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgesafe.cli.options import Json, Study
from edgesafe.cli.streams import deliver, put
from edgesafe.errors import ExitCode, UsageError
from edgesafe.study.study import read

__all__ = ["check", "init", "pin", "sign"]


def init(
    study: Study, out: Annotated[Path | None, typer.Option("--out", metavar="FILE")] = None, json: Json = None
) -> int:
    """Propose a policy whose limits a study's images can decide."""
    from edgesafe.commands import policy

    return _text_out("policy init", policy.propose(read(study)), out, json)


def check(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="TOML file, or the name of one that ships.")],
    study: Study,
    json: Json = None,
) -> int:
    """Say which gates of a policy a study's images can decide."""
    from edgesafe.commands import policy as policies

    return _text_out("policy check", "".join(f"{line}\n" for line in policies.check(policy, read(study))), None, json)


def pin(
    study: Study,
    variant: Annotated[list[str] | None, typer.Option(help="Baseline to pin; None: all baselines.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="For example edgesafe.lock.")] = None,
    json: Json = None,
) -> int:
    """Pin the baseline that the gate may compare with."""
    from edgesafe.commands import policy

    return _text_out("policy pin", policy.pin(read(study), tuple(variant or ())), out, json)


def sign(
    study: Study,
    key: Annotated[Path, typer.Option(metavar="KEY", help="Private Ed25519 key in PEM (openssl genpkey).")],
    json: Json = None,
) -> int:
    """Sign a study as it is: gate --require-signature accepts nothing else."""
    from edgesafe.commands import sign
    from edgesafe.display import terminal
    from edgesafe.records import FilesResult

    written = str(sign.sign(read(study), key))
    deliver(FilesResult(command="sign", files=(written,)), json, partial(put, f"{terminal(written)}\n"))
    return ExitCode.DONE


def _text_out(command: str, text: str, out: Path | None, json: str | None) -> int:
    """To a new file, or to standard output."""
    from edgesafe import files
    from edgesafe.records import LinesResult

    if out is not None:
        if out.exists():
            raise UsageError("is there already", where=str(out), fix="choose another file, or remove it")
        files.atomic_write(out, text.encode("utf-8"))
    result = LinesResult(command=command, lines=tuple(text.splitlines()), file=None if out is None else str(out))
    deliver(result, json, partial(put, text if out is None else f"{out}\n"))
    return ExitCode.DONE
