"""Running a command line: exit codes, one line for each error, signals, and standard streams that may fail."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, NoReturn

from edgesafe.cli import streams
from edgesafe.errors import EdgesafeError, ExitCode, UsageError, hint
from edgesafe.files import full_disk

__all__ = ["main", "run"]


class _Signals:
    """Whether a signal asked this process to end."""

    came = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG002
        """Interrupt whatever runs; a library may turn the exception into another, so that the signal is noted, too."""
        self.came = True
        raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code; an error is one line on standard error.

    A standard stream that is closed or full changes no exit code: what cannot be printed is left out.
    """
    debug = "--debug" in arguments
    interrupt = _Signals()
    with streams.tolerant(), _handling(interrupt):
        try:
            return _call([argument for argument in arguments if argument != "--debug"])
        except KeyboardInterrupt:
            return _interrupted()
        except SystemExit as stop:
            if interrupt.came:
                return _interrupted()
            return _report(
                UsageError(f"code that was called ended itself (sys.exit({stop.code!r}))", fix=_NO_EXIT), debug
            )
        except EdgesafeError as error:
            return _interrupted() if interrupt.came else _report(error, debug)
        except Exception as error:  # noqa: BLE001 - the last resort: a bug is a line and code 70, --debug shows it whole
            return _interrupted() if interrupt.came else _bug(error, debug)


_NO_EXIT = "a model or data set must return or raise, and never exit"
_COMPLETION = ("--show-completion", "--install-completion")


def _call(arguments: list[str]) -> int:
    """Parse and run. typer gives what the command returned, or the code of its own early end (--help: 0)."""
    import typer

    try:
        code = _command().main(args=arguments, prog_name="edgesafe", standalone_mode=False)
    except typer.TyperException as error:
        return _misused(error, arguments)
    except typer.Abort:
        return _interrupted()
    except SystemExit as stop:
        if "_EDGESAFE_COMPLETE" in os.environ or set(_COMPLETION) & set(arguments):
            return int(stop.code or 0)  # typer's completion ends so
        raise
    return _interrupted() if code == ExitCode.INTERRUPTED else int(code or 0)


@cache
def _command() -> Any:
    """The tree of commands: built once, since that takes longer than most commands of a process that runs several."""
    import typer

    from edgesafe.cli.app import app

    return typer.main.get_command(app)


def _misused(error: Exception, arguments: list[str]) -> int:
    """A command line that cannot be parsed: the help if only a group of commands was named, else one line."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context is not None else "edgesafe"
    if context is not None and hasattr(context.command, "commands") and arguments == name.split()[1:]:
        print(context.get_help(), file=sys.stderr)
        return ExitCode.USAGE
    what = " ".join(str(getattr(error, "format_message", error.__str__)()).split()).rstrip(".")
    what = what[:1].lower() + what[1:].replace(". Did you mean", ": did you mean").replace("Value error, ", "")
    fix = f"see {name} --help"
    if context is not None and hasattr(error, "possibilities"):  # no such option
        option = str(getattr(error, "option_name", ""))
        known = [one for parameter in context.command.params for one in parameter.opts if one.startswith("--")]
        what, fix = f"no such option: {option}", hint(option, known, fix)
    return _report(UsageError(what, fix=fix), debug=False)


def _report(error: EdgesafeError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"edgesafe: {error}")
    return error.exit_code


def _bug(error: Exception, debug: bool) -> int:
    if (full := full_disk(error)) is not None:
        return _report(full, debug)
    if debug:
        traceback.print_exc()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    _say(f"edgesafe: internal error: {text}; run again with --debug and report it")
    return ExitCode.INTERNAL


def _say(text: str) -> None:
    """On standard error, with what others wrote made harmless."""
    from edgesafe.display import terminal

    print(terminal(text), file=sys.stderr)


def _interrupted() -> int:
    print("edgesafe: interrupted; run the same command again to continue", file=sys.stderr)
    return ExitCode.INTERRUPTED


@contextmanager
def _handling(interrupt: _Signals) -> Iterator[None]:
    """Let SIGINT and SIGTERM interrupt the command, and restore their handlers after it; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of the `edgesafe` command."""
    streams.open_standard()
    raise SystemExit(run(sys.argv[1:]))
