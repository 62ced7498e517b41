"""`edgesafe sign`: a study signed as it is, after every file was compared with its hash."""

from __future__ import annotations

from pathlib import Path

from edgesafe.files import atomic_write
from edgesafe.study import signature
from edgesafe.study.study import Study

__all__ = ["sign"]


def sign(study: Study, key: Path) -> Path:
    """Write the signature of a study beside its index; gives the signature's file.

    Args:
        study: as it was read.
        key: file of a private Ed25519 key in PEM, not encrypted.

    Raises:
        IntegrityError: a file of the study was changed.
        UsageError: the key cannot be used.
        StoreError: the signature cannot be written.
    """
    made = signature.sign(study.index, signature.read_key(key), where=str(key))
    study.verify()
    path = study.root / signature.SIGNATURE
    atomic_write(path, made)
    return path
