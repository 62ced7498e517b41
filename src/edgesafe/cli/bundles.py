"""bundle and verify: what goes to the integrator, and its check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesafe.cli.options import Json, Study
from edgesafe.cli.streams import deliver
from edgesafe.display import terminal
from edgesafe.errors import ExitCode
from edgesafe.study.study import read

if TYPE_CHECKING:
    from edgesafe.records import VerifyResult

__all__ = ["bundle", "verify"]


def bundle(
    study: Study,
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="Id of a finished variant.")],
    target: Annotated[str, typer.Option(help="TOML file, or the name of one that ships.")] = "host-1t",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR|FILE.zip", help="Default: bundles/STUDY-VARIANT.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="P", help="It must pass this policy: a file, or a name.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Private Ed25519 key in PEM.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=1000, help="Images to pack for the examples.")] = 16,
    generated: Annotated[bool, typer.Option("--generated", help="Pack seeded noise, no test images.")] = False,
    root: Annotated[str | None, typer.Option(help="Where the data lies, if elsewhere than in the recipe.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the model, as its owner states it.")] = "",
    ort: Annotated[
        list[str] | None, typer.Option(metavar="amd64|arm", help="Also as .ort for this platform; may be repeated.")
    ] = None,
    json: Json = None,
) -> int:
    """Write a variant as a bundle for the integrator: files, evidence, card, bill of materials, examples."""
    from edgesafe.commands import bundle as bundles
    from edgesafe.commands import gate
    from edgesafe.records import BundleResult

    opened = read(study)
    request = bundles.BundleRequest(
        variant, target, out, policy, sign, samples, generated, root, licence, tuple(ort or ())
    )
    made = bundles.bundle(opened, request)
    if made.place is None or made.manifest is None:
        assert made.verdict is not None  # noqa: S101 - the only reason for writing nothing
        print(gate.text(made.verdict))
        print("edgesafe: no bundle is written: the variant does not pass the policy", file=sys.stderr)
        return made.verdict.exit_code
    place, listed = str(made.place), made.manifest.files
    result = BundleResult(
        command="bundle", bundle=place, manifest_sha256=made.manifest_sha256, signed=sign is not None, files=listed
    )
    said = f"{place}: {len(listed)} files, manifest {made.manifest_sha256}"
    deliver(result, json, lambda: print(terminal(said)), (study, policy, sign, made.place))
    return ExitCode.DONE


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder or .zip that `edgesafe bundle` wrote.")],
    run: Annotated[bool, typer.Option("--run", help="Also run the Python example in a clean environment.")] = False,
    require_signature: Annotated[
        Path | None, typer.Option("--require-signature", metavar="KEY", help="Public Ed25519 key in PEM.")
    ] = None,
    json: Json = None,
) -> int:
    """Check everything of a bundle: files, hashes, signature, evidence, verdict, card, materials, outputs."""
    from edgesafe.commands import verify as verifying

    result = verifying.verify(bundle, run=run, signed_by=require_signature)
    deliver(result, json, lambda: _show(result), (bundle, require_signature))
    return result.exit_code


def _show(result: VerifyResult) -> None:
    for line in result.checks:
        mark = "✓" if line.passed else "✗"
        print(terminal(f"{mark} {line.check.value:<10} {line.text}"))
    wrong = [line.check.value for line in result.checks if not line.passed]
    print(terminal(f"{result.bundle}: {'whole' if not wrong else 'NOT whole: ' + ', '.join(wrong)}"))
