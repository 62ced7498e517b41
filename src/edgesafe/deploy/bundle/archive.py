"""Bundles on disk: a folder, or a ZIP archive; equal bundles give equal bytes, and reading trusts nothing."""

from __future__ import annotations

import io
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesafe.errors import StoreError
from edgesafe.files import DAMAGE, atomic_write, is_file, is_folder, read_bounded, trouble

__all__ = ["Found", "read", "write"]

_MOST_FILES = 10_000
_MOST_BYTES = (1 << 31) - 1  # of a file: what an ONNX file can hold
_MOST_IN_ALL = 1 << 33
_FIX = "get the bundle again from who made it"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that ZIP can hold: no clock is in the bytes
_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Found:
    """What lies at a bundle's place.

    Attributes:
        files: bytes by path from the root, with "/".
        odd: what is there and no bundle may hold, by path: links, devices, names that lead elsewhere.
    """

    files: Mapping[str, bytes]
    odd: Mapping[str, str] = field(default_factory=dict)


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle: a ZIP archive if `out` ends in ".zip", else a folder, which must not be there yet.

    A folder appears under its name whole or not at all. An archive is stored without compression and without times,
    so that its bytes depend on the files alone; it takes the place of a regular file.

    Raises:
        StoreError: it cannot be written, or is there already.
    """
    if out.suffix == ".zip":
        atomic_write(out, _zipped(files))
        return
    if out.exists() or out.is_symlink():
        raise StoreError("is there already", where=str(out), fix="choose another --out, or remove it")
    scratch = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
        for path, content in files.items():
            atomic_write(scratch / path, content)
        scratch.rename(out)
    except OSError as error:
        raise trouble(out, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[path])
    return stream.getvalue()


def read(place: Path) -> Found:
    """Everything that lies in a bundle's folder or archive.

    Raises:
        StoreError: neither is there, it is no ZIP archive, or it is larger than a bundle may be.
    """
    if is_folder(place):
        return _folder(place)
    if not is_file(place):
        raise StoreError("no bundle here", where=str(place), fix="give the folder or .zip that `edgesafe bundle` wrote")
    content = read_bounded(place, _MOST_IN_ALL, "a bundle", StoreError)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _unzipped(archive, place)
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:120]
        raise StoreError(f"not a ZIP archive that can be read ({reason})", where=str(place), fix=_FIX) from None


def _folder(place: Path) -> Found:
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    total = 0
    for folder, folders, names in os.walk(place, followlinks=False):
        for name in sorted(folders + names):
            path = Path(folder) / name
            key = path.relative_to(place).as_posix()
            if path.is_symlink():
                odd[key] = "a symbolic link"
            elif is_file(path):
                files[key] = read_bounded(
                    path, min(_MOST_BYTES, _MOST_IN_ALL - total), "a file of a bundle", StoreError
                )
                total += len(files[key])
            elif name not in folders:
                odd[key] = "not a regular file"
            elif not any(path.iterdir()):
                odd[key] = "an empty folder"
            if len(files) + len(odd) > _MOST_FILES:
                raise StoreError(f"over {_MOST_FILES:,} files", where=str(place), fix=_FIX)
    return Found(files, odd)


def _unzipped(archive: zipfile.ZipFile, place: Path) -> Found:
    entries = archive.infolist()
    if len(entries) > _MOST_FILES or sum(entry.file_size for entry in entries) > _MOST_IN_ALL:
        raise StoreError("larger than a bundle may be", where=str(place), fix=_FIX)
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        parts = name.split("/")
        if name in files or name in odd:
            odd[name] = "in the archive twice"
        elif name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
            odd[name] = "a path that leads elsewhere"
        elif kind not in (0, stat.S_IFREG):
            odd[name] = "not a regular file"
        elif entry.flag_bits & 1 or entry.compress_type not in _STORED:
            odd[name] = "encrypted, or compressed in a way that is not read"
        else:
            with archive.open(entry) as handle:
                files[name] = handle.read(entry.file_size + 1)
            if len(files[name]) != entry.file_size:
                raise StoreError(f"{name} is larger than the archive says", where=str(place), fix=_FIX)
    return Found(files, odd)
