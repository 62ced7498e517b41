"""The steps of channels of a target: as it says, or timed once on this host and kept.

What was timed is kept in the user's cache directory under a hash of the CPU, threads, provider and onnxruntime, so that
later studies on the machine take the same steps; a study keeps its own in study.json.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from edgesafe.deploy import steps
from edgesafe.errors import StoreError
from edgesafe.files import atomic_write, cache_directory, is_file, read_bounded, stage_key
from edgesafe.recipe.sections import TargetSection
from edgesafe.records import Host, Steps

__all__ = ["cache_file", "steps_of"]

_LIMIT = 100_000  # bytes of a kept record


def steps_of(target: TargetSection, host: Host) -> Steps:
    """The steps of a target.

    Args:
        target: `round_to` and `int8_step` are numbers, or "measure".
        host: this machine.
    """
    given = {"round_to": target.round_to, "int8_step": target.int8_step}
    numbers = {name: value for name, value in given.items() if not isinstance(value, str)}
    if len(numbers) == len(given):
        return Steps.model_validate(numbers)
    return _measured(target, host).model_copy(update=numbers)


def cache_file(target: TargetSection, host: Host) -> Path:
    """Where the steps of this host are kept: in the folder "steps" of the user's cache."""
    return cache_directory() / "steps" / f"{stage_key(where=_where(target, host))[:16]}.json"


def _where(target: TargetSection, host: Host) -> str:
    return f"{host.cpu}, {target.threads} thread(s), {target.provider}, onnxruntime {host.versions['onnxruntime']}"


def _measured(target: TargetSection, host: Host) -> Steps:
    """What is kept of this host, or else timed now and kept. A file that is damaged is replaced."""
    path, where = cache_file(target, host), _where(target, host)
    if is_file(path):
        try:
            kept = Steps.model_validate_json(read_bounded(path, _LIMIT, "kept steps of channels", StoreError))
        except (StoreError, ValidationError):
            kept = None
        if kept is not None and kept.host == where:
            return kept
    found = steps.measure(target.threads, target.provider).model_copy(update={"host": where})
    try:
        atomic_write(path, (found.model_dump_json(indent=1) + "\n").encode())
    except (OSError, StoreError):
        return found  # nowhere to keep it: timed again next time
    return found
