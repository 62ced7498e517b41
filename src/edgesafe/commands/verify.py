"""`edgesafe verify`: everything that can be checked of a bundle, and its example run in a clean environment."""

from __future__ import annotations

from pathlib import Path

from edgesafe.deploy.bundle import archive, check, clean
from edgesafe.errors import ExitCode, IntegrityError
from edgesafe.records import BundleCheck, CheckLine, VerifyResult
from edgesafe.study import signature

__all__ = ["verify"]


def verify(place: Path, *, run: bool = False, signed_by: Path | None = None) -> VerifyResult:
    """Check a bundle.

    Args:
        place: its folder, or its archive.
        run: also run the Python example, if all else is as it should be: what is run is then edgesafe's own text.
        signed_by: file of a public Ed25519 key in PEM that must have signed it; None: a signature is not asked for.

    Raises:
        StoreError: there is no bundle that can be read.
        UsageError: the key cannot be used, or an extra is not installed.
    """
    key = signature.read_key(signed_by) if signed_by is not None else None
    found = archive.read(place)
    manifest, lines = check.check(found, key, str(signed_by))
    if run and all(line.passed for line in lines):
        lines = (*lines, _run(found))
    whole = all(line.passed for line in lines)
    return VerifyResult(
        command="verify",
        exit_code=ExitCode.DONE if whole else ExitCode.REFUSED,
        bundle=str(place),
        variant=manifest.facts.variant if manifest is not None else None,
        checks=lines,
    )


def _run(found: archive.Found) -> CheckLine:
    try:
        return CheckLine(check=BundleCheck.RUN, passed=True, text=clean.run_example(found.files))
    except IntegrityError as error:
        return CheckLine(check=BundleCheck.RUN, passed=False, text=str(error))
