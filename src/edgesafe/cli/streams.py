"""Standard output and error that may be closed, full or of another encoding, and the results that go there."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from edgesafe.errors import StoreError

if TYPE_CHECKING:
    from edgesafe.records import Record

__all__ = ["TO_STDOUT", "deliver", "open_standard", "put", "tolerant"]

TO_STDOUT = "-"  #: as a file: standard output


class _Tolerant:
    """A text stream that notes the first failure, then swallows what is written.

    Attributes:
        failure: what went wrong, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write `text`, or drop it after a failure; the number of characters, as a text stream gives it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or note why it cannot be."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        if self.failure is not None:
            return
        try:
            action()
        except OSError as error:
            self.failure = error
            _to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _to_nowhere(stream: TextIO) -> None:
    """What is in the stream's buffer goes to /dev/null, or else Python's own flush at the end fails: exit code 120."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def tolerant() -> Iterator[None]:
    """For as long as it lasts, standard output and error swallow what cannot be written; a full one is said once."""
    before = sys.stdout, sys.stderr
    out, err = _Tolerant(sys.stdout), _Tolerant(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        if out.failure is not None and out.failure.errno != errno.EPIPE:
            print(f"edgesafe: standard output: {out.failure.strerror}: not everything is there", file=sys.stderr)
        err.flush()
        sys.stdout, sys.stderr = before


def open_standard() -> None:
    """Before anything else: no file that is opened later may become standard output, and no character may fail."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def put(text: str) -> None:
    """Print what the command was asked for, as it is.

    Raises:
        StoreError: it cannot be written; a reader that has gone away is no error.
    """
    sys.stdout.write(text)
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is not None and failure.errno != errno.EPIPE:
        raise StoreError(
            f"cannot be written ({failure.strerror})", where="standard output", fix="write to another file"
        )


def deliver(
    result: Record, json: str | None, show: Callable[[], None], inputs: Iterable[str | Path | None] = ()
) -> None:
    """Show a result to people, or give it to scripts.

    Args:
        result: the record that `--json` prints.
        json: None; a file that the record is written to as well; "-": the record on standard output, and nothing else.
        show: prints the result for people.
        inputs: files and folders that the command read or made: the record goes neither over nor into them.

    Raises:
        StoreError: the file cannot be written.
        UsageError: it is one of `inputs`, or lies in one.
    """
    text = result.model_dump_json(indent=1, by_alias=True) + "\n"
    if json == TO_STDOUT:
        put(text)
        return
    if json is not None:
        from edgesafe import files

        files.refuse_inputs([Path(json)], [Path(path) for path in inputs if path is not None])
        files.atomic_write(Path(json), text.encode("utf-8"))
    show()
