"""study.json: the index of a study, bound as a whole.

The last field of the file, `index_sha256`, is the hash of the file's own bytes with that value left empty. It is
written with every change of the index and checked before anything of it is believed: no entry can be removed, added,
renamed or called something else, and no byte changed, unnoticed. The hashes of the records stand in the index, those
of the files in the records: one value binds the whole study.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edgesafe.errors import IntegrityError, StoreError
from edgesafe.files import sha256_bytes
from edgesafe.records import Record, StudyRecord

__all__ = ["bound", "from_json", "open_index", "to_json"]

_R = TypeVar("_R", bound=Record)
_START, _END = b' "index_sha256": "', b'"\n}\n'
_DIGEST = len(sha256_bytes(b""))


def to_json(record: Record) -> bytes:
    """A record as the bytes of its file: indented, UTF-8, a newline at the end; equal records give equal bytes."""
    return (json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n").encode()


def from_json(content: bytes, model: type[_R], where: Path) -> _R:
    """The record that a file's bytes hold.

    Args:
        content: the bytes, already compared with their hash where there is one.
        model: which record they must hold.
        where: their file, for messages.

    Raises:
        StoreError: not JSON, of another schema, or a field that is wrong.
    """
    plain = _plain(content, model, where)
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"damaged at '{key}': {first['msg']}", where=str(where), fix="run edgesafe compress again"
        ) from None


def bound(record: StudyRecord) -> tuple[StudyRecord, bytes]:
    """The index with its binding digest, and the bytes of study.json."""
    body = to_json(record.model_copy(update={"index_sha256": ""}))
    digest = sha256_bytes(body)
    return record.model_copy(update={"index_sha256": digest}), body.removesuffix(_END) + digest.encode() + _END


def open_index(content: bytes, where: Path) -> StudyRecord:
    """The index that the bytes of study.json hold.

    Raises:
        StoreError: not JSON, not a study, or made by another version.
        IntegrityError: the bytes are not those that were written.
    """
    _plain(content, StudyRecord, where)
    digest = content[-len(_END) - _DIGEST : -len(_END)]
    body = content[: -len(_END) - _DIGEST]
    if not content.endswith(_END) or not body.endswith(_START) or sha256_bytes(body + _END).encode() != digest:
        raise IntegrityError(
            "changed after it was written (its digest differs)",
            where=str(where),
            fix="restore it, or start over with edgesafe compress --fresh",
        )
    return from_json(content, StudyRecord, where)


def _plain(content: bytes, model: type[Record], where: Path) -> object:
    """The JSON value, of the right schema."""
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        raise StoreError(
            "damaged: not JSON", where=str(where), fix="remove it and run edgesafe compress again"
        ) from None
    expected = str(model.model_fields["schema_"].default)
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema == expected:
        return plain
    if isinstance(schema, str) and schema.split("/")[0] == expected.split("/", maxsplit=1)[0]:
        what = f"made by another version of edgesafe (schema {schema}; this one reads {expected})"
        raise StoreError(what, where=str(where), fix="use that version, or choose another --out and run it again")
    raise StoreError(f"not a {expected} file (schema: {schema!r})", where=str(where), fix="choose another directory")
