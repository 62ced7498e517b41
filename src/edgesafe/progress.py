"""Progress of long work: a bar with the time left on a terminal, lines in a log, nothing in a library call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from edgesafe.display import terminal

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Lines", "Progress", "Silent", "clock", "for_terminal"]

Advance = Callable[[int], None]
_LOG_EVERY_S = 15.0  # often enough to see life, seldom enough for a CI log


class Progress(Protocol):
    """The interface through which a stage tells how far it is."""

    def note(self, text: str) -> None:
        """Show one line of text."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Count `total` units of work under a title; use as a context manager that gives `advance(n)`."""


class Silent:
    """A progress that shows nothing: for tests, and for use as a library."""

    def note(self, text: str) -> None:
        """Drop the line of text unshown."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Give an `advance` that does nothing."""
        yield lambda _: None


class Lines:
    """Plain lines on standard error: for logs and CI."""

    def __init__(self, every_s: float = _LOG_EVERY_S) -> None:
        self._every_s = every_s

    def note(self, text: str) -> None:
        """Print the text as a line on standard error, without control characters."""
        print(terminal(text), file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """Print the share done and an estimate of the time left: every few seconds, and no share twice."""
        start = said = time.monotonic()
        done = percent = 0

        def advance(n: int) -> None:
            nonlocal done, said, percent
            done += n
            now = time.monotonic()
            if now - said >= self._every_s and percent < 100 * done // total < 100:
                said, percent = now, 100 * done // total
                left = (now - start) / done * (total - done)
                self.note(f"  {title}: {percent} %, about {clock(left)} left")

        yield advance
        if time.monotonic() - start >= 1.0:  # less: it was kept from before, or is not worth a line
            self.note(f"  {title}: done in {clock(time.monotonic() - start)}")


class _Bars:
    """rich bars on standard error; a stage within a stage is a second bar of the same display."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._open: rich.progress.Progress | None = None

    def note(self, text: str) -> None:
        self._console.print(terminal(text), markup=False, highlight=False, emoji=False)

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        if (outer := self._open) is not None:
            inner = outer.add_task(title, total=total)
            try:
                yield lambda n: outer.advance(inner, n)
            finally:
                outer.remove_task(inner)
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            self._open = bars
            try:
                yield lambda n: bars.advance(task, n)
            finally:
                self._open = None


def for_terminal() -> Progress:
    """Bars if standard error is a terminal, else lines."""
    return _Bars() if sys.stderr.isatty() else Lines()


def clock(seconds: float) -> str:
    """A duration as people say it: "40 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
