"""Files of the user and files for the user: read within bounds, hashed, written so that no name shows half a file.

Everything that edgesafe is given by path goes through `read_bounded`: only regular files, only up to a size, so that
a pipe, a device or a directory in the place of a file is one line and not a hang. Everything that it writes goes
through `atomic_write`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import struct
import tempfile
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from edgesafe.errors import StoreError, UsageError

__all__ = [
    "DAMAGE",
    "MAX_TEXT",
    "Keeper",
    "atomic_write",
    "cache_directory",
    "digest",
    "full_disk",
    "is_file",
    "is_folder",
    "parse_toml",
    "read_bounded",
    "read_toml",
    "refuse_inputs",
    "sha256_bytes",
    "sha256_file",
    "stage_key",
    "trouble",
]

MAX_TEXT = 1 << 18  #: bytes of a recipe, policy, lock or target: a policy of 1,000 gates has 100 kB
_MAX_LINE = 10_000  # characters of a line of TOML
_MAX_DOTS = 40  # dots of a line that are in no number: reading a dotted key costs the square of its parts
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d++\.\d++(?:[eE][+-]?\d++)?(?![\w.])")
_MAX_DEPTH = 20  # tables within tables; the deepest that edgesafe reads has 4
_CHUNK = 1 << 22
#: What the readers of NumPy and of ZIP archives raise for a file whose header, size or content is damaged.
DAMAGE: tuple[type[Exception], ...] = (
    OSError, ValueError, TypeError, EOFError, LookupError, AttributeError, RuntimeError, OverflowError, MemoryError,
    SyntaxError, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip
_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


class Keeper(Protocol):
    """Where finished parts of long work are kept, so that an interrupted run goes on with the next one."""

    def get(self, name: str) -> bytes | None:
        """The bytes that were kept under that name, or None if there are none."""

    def put(self, name: str, data: bytes) -> None:
        """Keep a finished part under that name, in the place of what was there."""


# ---------------------------------------------------------------------------------------------------------- reading


def read_bounded(path: Path, limit: int, what: str, error: type[UsageError] = UsageError) -> bytes:
    """The bytes of a regular file.

    Args:
        path: followed if it is a symbolic link.
        limit: bytes at most; the size is looked at before anything is read, and again while it is read.
        what: what it should be, for messages: "an ONNX file".
        error: raised if it is not there, is not a regular file, is larger, or cannot be read.

    Raises:
        UsageError: as `error` says.
    """
    give = f"give {what}"
    try:
        # Not blocking: a pipe that nobody writes to would otherwise hold the process here.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as problem:
        raise error(_reason(problem), where=_shown(path), fix=give) from None
    except ValueError:  # NUL, or a lone surrogate
        raise error("not a path", where=_shown(path), fix=give) from None
    try:
        state = os.fstat(handle)
        if (kind := _special(state.st_mode)) is not None:
            raise error(f"{kind}, not {what}", where=_shown(path), fix=give)
        if state.st_size > limit:
            raise error(f"has {state.st_size:,} bytes, at most {limit:,} are read", where=_shown(path), fix=give)
        parts: list[bytes] = []
        left = limit + 1
        while left and (part := os.read(handle, min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
    except OSError as problem:
        raise error(_reason(problem), where=_shown(path), fix=give) from None
    finally:
        os.close(handle)
    if not left:
        raise error(f"grew beyond {limit:,} bytes while it was read", where=_shown(path), fix=give)
    return b"".join(parts)


def read_toml(path: Path, what: str, error: type[UsageError] = UsageError) -> tuple[dict[str, Any], bytes]:
    """A TOML file of at most `MAX_TEXT` bytes: its values, and the bytes that they were read from.

    Raises:
        UsageError: as `error` says: see `read_bounded` and `parse_toml`.
    """
    content = read_bounded(path, MAX_TEXT, what, error)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise error("not UTF-8 text", where=_shown(path), fix=f"give {what} (TOML)") from None
    return parse_toml(text, _shown(path), error), content


def parse_toml(text: str, where: str, error: type[UsageError] = UsageError) -> dict[str, Any]:
    """The values of a TOML text that costs no more than it should.

    Raises:
        UsageError: as `error` says: not TOML, a line of over 10,000 characters, tables nested over 20 deep, a number
            of more digits than Python converts.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _MAX_LINE or (line.count(".") > _MAX_DOTS and _NUMBER.sub("", line).count(".") > _MAX_DOTS):
            raise error(f"line {number} is too long, or has a key of too many parts", where=where, fix="break it")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise error(f"not valid TOML: {problem}", where=where, fix="mend that line") from None
    except ValueError:  # Python converts numbers of up to 4,300 digits
        raise error(
            "not valid TOML: a number of too many digits", where=where, fix="give a number that can be meant"
        ) from None
    except RecursionError:
        raise error("nested too deeply", where=where, fix="write plain tables") from None
    if _deeper_than(values, _MAX_DEPTH):
        raise error("nested too deeply", where=where, fix="write plain tables")
    return values


def _deeper_than(values: Any, depth: int) -> bool:
    level: list[Any] = [values]
    for _ in range(depth):
        inner = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def is_file(path: Path) -> bool:
    """Whether a regular file is there; False for a path that no file can have."""
    return _mode(path, stat.S_IFREG)


def is_folder(path: Path) -> bool:
    """Whether a folder is there; False for a path that no folder can have."""
    return _mode(path, stat.S_IFDIR)


def _mode(path: Path, kind: int) -> bool:
    try:
        return stat.S_IFMT(path.stat().st_mode) == kind
    except (OSError, ValueError):
        return False


def _special(mode: int) -> str | None:
    """What a file is, if it is not a regular one."""
    if stat.S_ISREG(mode):
        return None
    return next((text for test, text in _KINDS if test(mode)), "is a special file")


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "no such file"
    if error.errno == errno.ENXIO:
        return "is a socket or a device that is not there"
    return f"cannot be read ({error.strerror or error})"


def _shown(path: Path) -> str:
    """A path for a message: at most 200 characters, printable whatever its bytes are."""
    text = str(path).encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
    return text if len(text) <= 200 else f"{text[:80]}…{text[-80:]}"


# ---------------------------------------------------------------------------------------------------------- hashing


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of `data` as "sha256:" and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """'sha256:<hex>' of a regular file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        if (kind := _special(path.stat().st_mode)) is not None:
            raise StoreError(f"{kind}, not a file", where=_shown(path), fix="check the path")
        with path.open("rb") as handle:
            return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=_shown(path), fix="check the path") from None


def cache_directory() -> Path:
    """Where caches lie by the XDG convention: $XDG_CACHE_HOME/edgesafe, or ~/.cache/edgesafe."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "edgesafe"


def digest(hashes: Mapping[str, str]) -> str:
    """One hash over named hashes, in the order of the names."""
    return sha256_bytes("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode())


def stage_key(**inputs: Any) -> str:
    """Identity of a stage's inputs: plain JSON values only."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- writing


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that its name never points at half of it.

    Only a regular file is replaced. What is given as a device or a pipe (/dev/null, /dev/stdout, a named pipe with a
    reader) is written to; a symbolic link to a file is refused, since replacing it or what it points to can both be
    wrong.

    Raises:
        StoreError: the disk is full, read-only, the path is a folder or a link, or the folder cannot be used.
    """
    try:
        if _stream(path):
            return _write_through(path, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as error:
        raise trouble(path, error) from None
    except ValueError:
        raise StoreError("not a path", where=_shown(path), fix="choose another path") from None


def _stream(path: Path) -> bool:
    """Whether a path is to be written to, not replaced.

    Raises:
        StoreError: a folder, a link to a file, a socket.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise StoreError("is a symbolic link to nothing", where=_shown(path), fix="name the file itself") from None
        return False
    if stat.S_ISDIR(state.st_mode):
        raise StoreError("is a folder", where=_shown(path), fix="name a file in it")
    if _special(state.st_mode) is not None or path.parts[:2] in {("/", "dev"), ("/", "proc")}:
        return True
    if path.is_symlink():
        raise StoreError("is a symbolic link", where=_shown(path), fix="name the file itself")
    return False


def _write_through(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_APPEND)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.unlink(missing_ok=True)  # of a killed process; never written through a link that lies there
        with scratch.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        _discard(scratch)
        raise


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # on a read-only disk there is nothing to discard


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse an output that is an input, or lies in a folder that is one, or that is named twice.

    Args:
        outputs: files that will be written.
        inputs: files and folders that were or will be read; what is not there is left out.

    Raises:
        UsageError: names the first such output.
    """
    read = [path.resolve() for path in inputs if is_file(path) or is_folder(path)]
    written: set[Path] = set()
    for output in outputs:
        try:
            place = output.resolve()
        except (OSError, ValueError, RuntimeError):  # RuntimeError: a circle of links
            raise UsageError("not a path", where=_shown(output), fix="choose another path") from None
        source = next((path for path in read if path == place or path in place.parents), None)
        if source is not None:
            what = "is an input" if source == place else f"lies in {_shown(source)}, which is an input"
            raise UsageError(f"would be overwritten, but {what}", where=_shown(output), fix="choose another path")
        if place in written and not place.is_char_device() and not place.is_fifo():
            raise UsageError("is named for two outputs", where=_shown(output), fix="choose two paths")
        written.add(place)


def full_disk(error: Exception) -> StoreError | None:
    """The error that says that a disk is full, where a temporary file ran into it; None: it was another error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    place = error.filename or f"temporary files (TMPDIR, here {tempfile.gettempdir()})"
    fix = "free some space, or set TMPDIR to a directory with more, and run the same command again: it continues"
    return StoreError("the disk is full", where=_shown(Path(str(place))), fix=fix)


def trouble(path: Path, error: OSError) -> StoreError:
    """The error that says what an OSError means for somebody who wants to write there."""
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again: it continues"),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again: it continues"),
        errno.EROFS: ("the file system is read-only", "choose another directory with --out"),
        errno.EACCES: ("no permission to write", "choose another directory with --out"),
        errno.EPERM: ("no permission to write", "choose another directory with --out"),
        errno.ENOTDIR: ("a part of the path is a file", "choose another directory with --out"),
        errno.EEXIST: ("a file is in the way", "choose another directory with --out"),
        errno.ENXIO: ("is a pipe that nobody reads", "name a file"),
        errno.ENAMETOOLONG: ("the path is too long", "choose a shorter one"),
    }
    what, fix = reasons.get(
        error.errno or 0, (f"cannot write ({error.strerror or error})", "choose another directory with --out")
    )
    return StoreError(what, where=_shown(path), fix=fix)
