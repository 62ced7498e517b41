"""Every error that edgesafe raises on purpose, and the exit code each one means.

    EdgesafeError
    ├── UsageError           4   a command, recipe, policy, file or argument is wrong: the user can mend it
    │   ├── RecipeError      4   the recipe does not say something that can be run
    │   ├── PolicyError      4   the policy does not say something that can be decided
    │   ├── DataError        4   a data set is missing, damaged, empty or of the wrong shape
    │   ├── WeightsError     4   a weights file does not fit, is not tensors only, or is damaged
    │   ├── StoreError       4   the study directory cannot be used (read-only, full, another recipe, newer schema)
    │   ├── DeviceError      4   the device of a target cannot be reached or used
    │   │   └── DeviceDropped 4  the connection to it broke: the same command goes on
    │   └── UnknownNameError 4   a name that a study does not hold; also a KeyError
    ├── RefusedError         3   the result would be invalid: edgesafe will not produce or judge it
    │   ├── SurgeryError     3   a pruning step cannot be proven correct
    │   ├── ParityError      3   the exported file does not equal the network
    │   ├── NonFiniteError   3   a NaN or an infinity where a number belongs
    │   └── IntegrityError   3   a hash differs from the one that was recorded
    ├── NothingEvaluated     5   no gate, no metric, no image: nothing was compared
    └── WorkerError         70   a task failed or was lost in its worker; the others were done

A message is an instruction in one line: *what* is wrong, *where* (layer, key, file), *what to do*.
Anything else that escapes is a bug and ends with exit code 70.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any

__all__ = [
    "DataError",
    "DeviceDropped",
    "DeviceError",
    "EdgesafeError",
    "ExitCode",
    "IntegrityError",
    "NonFiniteError",
    "NothingEvaluated",
    "ParityError",
    "PolicyError",
    "RecipeError",
    "RefusedError",
    "StoreError",
    "SurgeryError",
    "UnknownNameError",
    "UsageError",
    "WeightsError",
    "WorkerError",
]

_NEAR = 0.5  #: of difflib's ratio: half of both names' letters are common to them, in the same order
_MOST_LISTED = 24  #: names in a message


class ExitCode(IntEnum):
    """Exit codes of every edgesafe command. They are a contract: people script against them."""

    DONE = 0
    GATE_FAILED = 1
    GATE_INCONCLUSIVE = 2
    REFUSED = 3
    USAGE = 4
    NOTHING_EVALUATED = 5
    INTERNAL = 70
    INTERRUPTED = 130


class EdgesafeError(Exception):
    """Base of all deliberate errors.

    Args:
        what: what is wrong, in a clause ("ratio 1.2 is outside (0, 1)").
        where: the layer, key or file it concerns ("compress.0.ratios"). Empty if there is none.
        fix: what to do ("give a ratio such as 0.5"). Empty only where nothing can be done.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __reduce__(self) -> tuple[Callable[..., EdgesafeError], tuple[type[EdgesafeError], str, str, str]]:
        """How it is sent between processes."""
        return _remade, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        """The message on one line, in characters that can be written as UTF-8: "?" for a lone surrogate."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}; {self.fix}" if self.fix else text
        return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def one_line(error: BaseException) -> str:
    """An exception of somebody else's code in one line of at most 300 characters: its type, and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may be a slip of; None where nothing is near enough to be meant.

    Case counts for nothing, and "-", "_" and a space are one. A name that begins as `name` does (two characters or
    more) goes before one that is merely similar.
    """
    wanted, by_folded = _folded(name), {_folded(one): one for one in known}
    begun = [folded for folded in by_folded if len(wanted) > 1 and folded.startswith(wanted)]
    close = difflib.get_close_matches(wanted, begun or by_folded, n=1, cutoff=0.0 if begun else _NEAR)
    return by_folded[close[0]] if close else None


def hint(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """What the error about an unknown name says to do: name the nearest, else list what is known.

    Args:
        name: as the user wrote it.
        known: the names that there are, in the order of a list.
        otherwise: said where none is near and there are too many to list, or none at all.
    """
    names = list(known)
    near = nearest(name, names)
    if near is not None:
        return f"did you mean '{near}'?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= _MOST_LISTED else otherwise


def hint_of_choice(problem: Mapping[str, Any], otherwise: str = "") -> str:
    """The hint for a problem that pydantic found: the choice that is near a value that is none of an enumeration's.

    Args:
        problem: one of `ValidationError.errors()`; its message lists the choices, so they are not listed again.
        otherwise: said of any other problem, and where none is near.
    """
    choices = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    near = nearest(str(problem["input"]), choices)
    return otherwise if near is None else f"did you mean '{near}'?"


def _folded(name: str) -> str:
    return re.sub(r"[_\s]", "-", name.casefold())


def _remade(kind: type[EdgesafeError], what: str, where: str, fix: str) -> EdgesafeError:
    return kind(what, where=where, fix=fix)


class UsageError(EdgesafeError):
    """A command, recipe, policy, file or argument is wrong."""

    exit_code = ExitCode.USAGE


class RecipeError(UsageError):
    """The recipe does not say something that can be run."""


class PolicyError(UsageError):
    """The policy does not say something that can be decided."""


class DataError(UsageError):
    """A data set is missing, damaged, empty or of the wrong shape."""


class WeightsError(UsageError):
    """A weights file does not fit the architecture, is not tensors only, or is damaged."""


class StoreError(UsageError):
    """The study directory cannot be used."""


class DeviceError(UsageError):
    """The device of a target cannot be reached or used."""


class DeviceDropped(DeviceError):  # noqa: N818
    """The connection to a device broke; the same command goes on where it was."""


class UnknownNameError(UsageError, KeyError):
    """A name that a study does not hold."""


class RefusedError(EdgesafeError):
    """The result would be invalid."""

    exit_code = ExitCode.REFUSED


class SurgeryError(RefusedError):
    """A pruning step cannot be proven correct."""


class ParityError(RefusedError):
    """The exported file does not equal the network it came from."""


class NonFiniteError(RefusedError):
    """A NaN or an infinity where a number belongs."""


class IntegrityError(RefusedError):
    """A hash differs from the one that was recorded."""


class NothingEvaluated(EdgesafeError):  # noqa: N818
    """No gate, no metric or no image was left to evaluate."""

    exit_code = ExitCode.NOTHING_EVALUATED


class WorkerError(EdgesafeError):
    """A task failed in its worker otherwise than by refusing, or was lost with it again and again."""
